"""Serving: requests in, streams of text out."""
