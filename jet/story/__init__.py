"""The story studio: a story's text with branches and authors, the prompt built from it, and its files."""
