"""Inference engine: takes requests and streams the text that a model generates for them."""
