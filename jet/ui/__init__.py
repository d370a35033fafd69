"""The page: Gradio Blocks over an `Engine`."""

from jet.caches import ensure_gradio_folder

ensure_gradio_folder()  # every module of this package that imports gradio comes after this one
