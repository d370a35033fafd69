"""Let programs leave out the last arguments of an endpoint.

Gradio's clients fill in defaults, but HTTP calls send a list of all arguments. When an endpoint gets another
argument, the lists of older programs are too short.
"""

from __future__ import annotations

import inspect
from typing import Any

import gradio as gr


def fill_in_defaults(demo: gr.Blocks) -> None:
    """Make calls of `demo` use the defaults of arguments that are missing at the end of the list."""
    preprocess = demo.preprocess_data

    async def filled(block_fn: Any, inputs: list[Any], *rest: Any, **named: Any) -> Any:
        missing = len(block_fn.inputs) - len(inputs)
        if missing > 0 and block_fn.fn is not None:
            last = list(inspect.signature(block_fn.fn).parameters.values())[-missing:]
            if all(one.default is not inspect.Parameter.empty for one in last):
                inputs = [*inputs, *(one.default for one in last)]
        return await preprocess(block_fn, inputs, *rest, **named)

    setattr(demo, "preprocess_data", filled)  # noqa: B010 - a method of the instance
