"""Hosting: limits, accounts, metrics, and what stands in front of the page."""

from jet.cache_dirs import ensure_gradio_folder

ensure_gradio_folder()  # every module of this package that imports gradio comes after this one
