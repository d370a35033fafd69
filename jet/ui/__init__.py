"""The page: Gradio Blocks over an `Engine`."""
