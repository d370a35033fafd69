"""Says what is wrong with a checkpoint, before or after transformers has tried to load it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from jet.modeling.configuration import JetNemotronConfig

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class CheckpointError(ValueError):
    """A model that cannot be loaded; the message says why and what to do."""


@contextmanager
def explained(source: Any, options: Mapping[str, Any]) -> Iterator[None]:
    """Checks a local checkpoint first; turns what transformers or the hub raise into `CheckpointError`."""
    if Path(str(source)).exists() or looks_like_path(str(source)):
        folder = Path(str(source)) / (options.get("subfolder") or "")
        check_folder(folder, given_config=options.get("config") is not None)
    try:
        yield
    except (CheckpointError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise CheckpointError(_reason(str(source), error)) from error


def looks_like_path(source: str) -> bool:
    """Whether `source` can only be meant as a folder, not as `owner/name` on the hub."""
    return source.startswith((".", "/", "~", "\\")) or source.count("/") > 1 or source == ""


def check_folder(folder: Path, given_config: bool = False) -> None:
    """Raise `CheckpointError` unless `folder` holds a readable Jet-Nemotron config and whole weight files."""
    if not folder.exists():
        raise CheckpointError(
            f"{folder} does not exist. Give the folder of a checkpoint, or a hub id like owner/name."
        )
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file. Give the folder that holds config.json and the weights.")
    if not given_config:
        read_config(folder)
    check_weight_files(folder)


def read_config(folder: Path) -> JetNemotronConfig:
    """The checkpoint's configuration; raises `CheckpointError` where it is not one of ours."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} has no config.json: it is not a checkpoint in transformers' format.")
    values = _read_json(path)
    model_type = values.get("model_type")
    if model_type != JetNemotronConfig.model_type:
        raise CheckpointError(
            f"{folder} is not a Jet-Nemotron checkpoint: config.json says model_type {model_type!r}, "
            f"not {JetNemotronConfig.model_type!r}."
        )
    try:
        config: JetNemotronConfig = JetNemotronConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    return config


def check_weight_files(folder: Path) -> None:
    """Raise `CheckpointError` if a weight file is missing, cut off, or not safetensors."""
    for path in weight_files(folder):
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing, but {folder / INDEX} names it. Download the checkpoint again."
            )
        try:
            with safe_open(path, framework="pt") as weights:
                weights.keys()
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is truncated or damaged ({path.stat().st_size} bytes: {error}). Download it again."
            ) from error


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, whether one or sharded."""
    if (folder / INDEX).is_file():
        weight_map = _read_json(folder / INDEX).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise CheckpointError(f"{folder / INDEX} has no weight_map. Download the checkpoint again.")
        return [folder / name for name in sorted(set(weight_map.values()))]
    if not (folder / SINGLE).is_file():
        raise CheckpointError(f"{folder} has no weights: neither {SINGLE} nor {INDEX} is there.")
    return [folder / SINGLE]


def require_complete(source: Any, info: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` naming every tensor that was missing, left over or of the wrong shape."""
    problems = []
    if info.get("mismatched_keys"):
        shapes = [
            f"{key[0]} is {list(key[1])}, expected {list(key[2])}" for key in sorted(info["mismatched_keys"])
        ]
        problems.append("wrong shapes: " + "; ".join(shapes))
    if info.get("missing_keys"):
        problems.append("missing tensors: " + ", ".join(sorted(info["missing_keys"])))
    if info.get("unexpected_keys"):
        problems.append("unexpected tensors: " + ", ".join(sorted(info["unexpected_keys"])))
    if problems:
        raise CheckpointError(f"{source} does not fit its config.json: {'. '.join(problems)}.")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not a {type(values).__name__}.")
    return values


def _reason(source: str, error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    if Path(source).exists():
        return f"{source} cannot be loaded: {text}"
    return (
        f"{source} cannot be loaded from the model hub: {text.splitlines()[0]} "
        "If the hub is out of reach, give the folder of a checkpoint on this machine."
    )
