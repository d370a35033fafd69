"""Convert the fields of a dataclass to command-line options, and back."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, TypeVar

Made = TypeVar("Made")


def add_fields(parser: argparse._ActionsContainer, kind: Any) -> None:
    """Add an option for every field of a dataclass whose fields all have defaults."""
    for field in dataclasses.fields(kind):
        name = "--" + field.name.replace("_", "-")
        parser.add_argument(
            name, type=type(field.default), default=field.default, help=f"default: {field.default}"
        )


def read_fields(kind: type[Made], options: argparse.Namespace) -> Made:
    """Build the dataclass from the parsed options."""
    return kind(**{field.name: getattr(options, field.name) for field in dataclasses.fields(kind)})  # type: ignore[arg-type]
