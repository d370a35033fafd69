"""Check a checkpoint before and after transformers loads it, with messages that say what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils.hub import cached_file

from jet.modeling.config import JetNemotronConfig
from jet.modeling.quantized_format import CODES, SCALES, read_scheme

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_config.json"
_DTYPES = ("BF16", "F16", "F32", "F64")  # floating-point types that need no scales
_HUB_OPTIONS = ("cache_dir", "revision", "token", "local_files_only", "subfolder")


class CheckpointError(ValueError):
    """Raised for a model that cannot be loaded; the message says why and what to do."""


@contextmanager
def explain_load_errors(source: Any, options: Mapping[str, Any]) -> Iterator[None]:
    """Check a local checkpoint before loading; raise errors of transformers or the hub as `CheckpointError`.

    A checkpoint of the hub is checked in the cache, after transformers has downloaded it. A lack of memory is
    raised as MemoryError or OutOfMemoryError.
    """
    local = Path(str(source)).exists() or looks_like_path(str(source))
    given, variant = options.get("config") is not None, options.get("variant")
    if local:
        check_folder(Path(str(source)) / (options.get("subfolder") or ""), given, variant)
    try:
        yield
        if not local and (folder := _cached_folder(str(source), options)):
            check_folder(folder, given, variant)
    except (CheckpointError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        if "can't allocate memory" in str(error):  # torch's, on a CPU
            raise MemoryError(str(error)) from None
        raise CheckpointError(_reason(str(source), error)) from error


def looks_like_path(source: str) -> bool:
    """Return True if `source` can only be a folder, not `owner/name` on the hub."""
    return source.startswith((".", "/", "~", "\\")) or source.count("/") > 1 or source == ""


def _cached_folder(source: str, options: Mapping[str, Any]) -> Path | None:
    """Return the folder in the hub's cache from which transformers loaded; None if there is none.

    If the repository has an adapter, its config is downloaded, so that `check_folder` finds it.
    """
    given = {name: options[name] for name in _HUB_OPTIONS if options.get(name) is not None}
    troubles = ("missing_entries", "gated_repo", "connection_errors")
    quietly = {f"_raise_exceptions_for_{trouble}": False for trouble in troubles}
    config, _ = (cached_file(source, name, **given, **quietly) for name in ("config.json", ADAPTER))
    return None if config is None else Path(config).parent


def check_folder(folder: Path, given_config: bool = False, variant: str | None = None) -> None:
    """Raise `CheckpointError` unless `folder` has a readable Jet-Nemotron config and complete weights.

    `given_config`: whether the caller has a config, so that the folder's is not read. `variant` names the
    weight files, as `save_pretrained(variant=…)` does.
    """
    if not folder.exists():
        raise CheckpointError(
            f"{folder} does not exist. Give the folder of a checkpoint, or a hub id like owner/name."
        )
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file. Give the folder that holds config.json and the weights.")
    _refuse_adapter(folder)
    tied = not given_config and read_config(folder).tie_word_embeddings
    files = check_weight_files(folder, variant)
    if tied:
        _check_tied_head(folder, files)


def _refuse_adapter(folder: Path) -> None:
    """Raise `CheckpointError` if the folder has an adapter; ignoring it would load another network."""
    path = folder / ADAPTER
    if path.is_file():
        values = _read_json(path)
        kind, base = values.get("peft_type") or "PEFT", values.get("base_model_name_or_path")
        raise CheckpointError(
            f"{folder} holds a {kind} adapter ({ADAPTER}){f' for {base}' if base else ''}, and adapters are "
            "not read: merge it with peft (merge_and_unload), save the result, and load that."
        )


def read_config(folder: Path) -> JetNemotronConfig:
    """Read the checkpoint's configuration. Raises `CheckpointError` if it is not Jet-Nemotron's."""
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


def stored_scheme(folder: Path) -> str | None:
    """Return the scheme of a quantized checkpoint, else None. Raises CheckpointError for an unknown one."""
    path = folder / "config.json"
    try:
        return read_scheme(_read_json(path).get("quantization_config"))
    except (ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: {error}") from error


def refuse_adapters(source: Any, model: Any) -> None:
    """Raise `CheckpointError` if transformers has added an adapter's layers to the network."""
    if getattr(model, "_hf_peft_config_loaded", False):
        raise CheckpointError(
            f"{source} comes with an adapter, and adapters are not read: merge it with peft "
            "(merge_and_unload), save the result with save_pretrained, and load that."
        )


def check_weight_files(folder: Path, variant: str | None = None) -> dict[str, Path]:
    """Return tensor name → file.

    Raises `CheckpointError` if a weight file is missing, truncated or not safetensors, if a tensor of the
    index is not in its file, or if a tensor is in two files. It is also raised for integers in a checkpoint
    that is not quantized, since their scales would be ignored, and for quantized codes without scales.
    """
    named, found = _index(folder, variant), dict[str, Path]()
    quantized = (folder / "config.json").is_file() and stored_scheme(folder) is not None
    for path in weight_files(folder, variant):
        if not path.is_file():
            raise CheckpointError(
                f"{path} is missing, but {folder / _variant(INDEX, variant)} names it. "
                "Download the checkpoint again."
            )
        try:
            with safe_open(path, framework="pt") as weights:
                types = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{path} is truncated or damaged ({path.stat().st_size} bytes: {error}). Download it again."
            ) from error
        for name, dtype in types.items():
            if dtype not in _DTYPES and not (quantized and name.endswith(CODES)):
                raise CheckpointError(
                    f"{path}: {name} has the type {dtype}, which means nothing without scales. Take the "
                    "checkpoint that it was made from, and quantize it to int8 or int4 here."
                )
            if name in found:
                raise CheckpointError(f"{name} is both in {found[name].name} and in {path.name} of {folder}.")
            found[name] = path
    for name in found if quantized else ():
        if name.endswith(CODES) and name.removesuffix(CODES) + SCALES not in found:
            raise CheckpointError(f"{folder} has {name} without its scales. Download the checkpoint again.")
    lost = sorted(name for name, file in (named or {}).items() if found.get(name) != folder / file)
    if lost:
        raise CheckpointError(
            f"{folder / _variant(INDEX, variant)} names tensors that are not in their files: "
            f"{', '.join(lost)}."
        )
    return found


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """Return a checkpoint's safetensors files, one or many.

    Raises `CheckpointError` if there are none, or if there are two sets of weights.
    """
    named, single = _index(folder, variant), folder / _variant(SINGLE, variant)
    if named is not None and single.is_file():
        raise CheckpointError(
            f"{folder} holds two sets of weights, {single.name} and those of {_variant(INDEX, variant)}: "
            "remove the one that is not meant."
        )
    if named is not None:
        return [folder / name for name in sorted(set(named.values()))]
    if single.is_file():
        return [single]
    others = _variants(folder)
    said = f" It has the variants {', '.join(others)}: name one with variant=…, or rename its files."
    hint = said if others else ""
    raise CheckpointError(
        f"{folder} has no weights: neither {single.name} nor {_variant(INDEX, variant)} is there.{hint}"
    )


def _index(folder: Path, variant: str | None) -> dict[str, str] | None:
    """Read tensor name → file name from the index of a sharded checkpoint; None if there is no index."""
    path = folder / _variant(INDEX, variant)
    if not path.is_file():
        return None
    named = _read_json(path).get("weight_map")
    if not isinstance(named, dict) or not named:
        raise CheckpointError(f"{path} has no weight_map. Download the checkpoint again.")
    for name, file in named.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{path}: {name} is in {file!r}, which is no file of this folder.")
    return named


def _variants(folder: Path) -> list[str]:
    """Return the variants for which the folder has weights."""
    parts = [path.name.split(".") for path in folder.glob("model.*")]
    whole = {
        part[1] for part in parts if len(part) == 3 and part[2] == "safetensors" and "-of-" not in part[1]
    }
    return sorted(
        whole | {part[3] for part in parts if part[1:3] == ["safetensors", "index"] and len(part) == 5}
    )


def _variant(name: str, variant: str | None) -> str:
    """Return the file name for a variant, as transformers writes it, such as `model.fp16.safetensors`."""
    stem, _, ending = name.rpartition(".")
    return name if variant is None else f"{stem}.{variant}.{ending}"


def _check_tied_head(folder: Path, files: Mapping[str, Path]) -> None:
    """Raise `CheckpointError` if the config ties head and embedding, but the files have different ones."""
    names = ("lm_head.weight", "model.embed_tokens.weight")
    if not all(name in files for name in names):
        return
    head, embedding = (_read_tensor(files[name], name) for name in names)
    if not torch.equal(head, embedding):
        raise CheckpointError(
            f"{folder}: lm_head.weight is not model.embed_tokens.weight, but config.json says "
            "tie_word_embeddings. Set that to false if the head is meant to be its own."
        )


def _read_tensor(path: Path, name: str) -> torch.Tensor:
    with safe_open(path, framework="pt") as weights:
        tensor: torch.Tensor = weights.get_tensor(name)
    return tensor


def require_complete(source: Any, info: Mapping[str, Any]) -> None:
    """Raise `CheckpointError` naming every tensor that is missing, unexpected or of the wrong shape."""
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
