"""Everything a page needs to know about text: the story with its branches, the prompt, the files."""
