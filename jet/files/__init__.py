"""Stories as files of other programs: DOCX, EPUB, HTML, and text in any usual encoding."""
