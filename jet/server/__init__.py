"""Hosting: admission limits, accounts, metrics and the ASGI middleware in front of Gradio."""

from jet.cache_dirs import ensure_gradio_folder

ensure_gradio_folder()  # every module of this package that imports gradio comes after this one
