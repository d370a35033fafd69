"""What cannot be done to a story, in words for the person who asked."""


class StoryError(ValueError):
    """Something that cannot be done to this story. The message is written for the person who asked."""


class StoryFileError(StoryError):
    """A file that cannot be read or written. The message says what is wrong, and where."""
