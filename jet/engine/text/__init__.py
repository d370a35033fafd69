"""Between text and tokens: tokenizers, detokenizers, chat templates, and the border of a prompt."""
