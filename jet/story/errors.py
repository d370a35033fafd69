"""Errors of the story studio. All messages are written for the writer."""


class StoryError(ValueError):
    """An operation on the story is not possible."""


class StoryFileError(StoryError):
    """A story file cannot be read or written. The message says what is wrong and where."""
