"""Hosting of the page and the API: admission limits, accounts, metrics and ASGI middleware."""

from jet.cache_dirs import ensure_gradio_folder

ensure_gradio_folder()  # every module of this package that imports gradio comes after this one
