"""Measure the page in a browser: what it weighs, and how soon it can be used."""
