"""Conversion between text and tokens: tokenizers, detokenizers, chat templates and token healing."""
