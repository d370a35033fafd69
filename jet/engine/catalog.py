"""Catalog: the models that this machine can run, with the expected memory and speed of each.

Sizes come from the shape of a network, speed from the machine's measured bandwidth and the bytes that a token
reads. Nothing is downloaded and no weights are read here.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psutil
import torch
from torch import Tensor, nn

from jet import hardware
from jet.engine import hub, loading, partial_download, quantized_cache
from jet.engine.loading import STORY_MODEL, LocalConfig
from jet.engine.official_models import OFFICIAL_2B, OFFICIAL_4B, official_config
from jet.modeling import CheckpointError
from jet.modeling.checkpoint import check_folder, read_config, stored_scheme, weight_files
from jet.modeling.config import JetNemotronConfig
from jet.modeling.footprint import measure_footprint, total_weight_bytes
from jet.modeling.quantization import count_parameters, replace_weights, scheme_of
from jet.modeling.quantized_loading import outline_network
from jet.ops.quantization import INT4, INT8, SCHEMES, QuantizedTensor
from jet.roofline import Footprint

COMFORTABLE = 8.0  # tokens a second from which on a larger model is suggested: faster than most people read
_SUGGESTED = (INT8, INT4)  # forms to suggest, the more accurate first; 16 bits are no better, and slower
_SUGGESTED_MODEL = OFFICIAL_2B
_CONTEXT = 512  # tokens of a story whose speed is told
_STORIES, _STORY_TOKENS = 4, 4096  # whose states are counted as memory
_WORK_BYTES = 300_000_000  # of a large network: activations, logits, buffers of loading
_MEASURED_BYTES = 2**28  # of memory that is read to measure its speed
_MEASUREMENTS = 5  # at most; the fastest counts
# Part of the bandwidth that decoding reaches, from measurements of these kernels (docs/performance.md).
_REACHED = {"cpu": 0.75, "cuda": 0.7}
_META = torch.device("meta")
# Held while a network is built: meanwhile transformers changes PyTorch's default type, and how weights are
# tied, for the whole process.
BUILDING = threading.Lock()
_measured: dict[tuple[str, torch.dtype, str | None], Sizes] = {}
_OFFICIAL = (
    (OFFICIAL_2B, "Jet-Nemotron 2B", "Wide knowledge and coherent long stories"),
    (OFFICIAL_4B, "Jet-Nemotron 4B", "The best prose of the three, at half the speed of 2B"),
)
_STORY_PURPOSE = "Short, simple stories, at once on any computer"
_OTHER_PURPOSE = "A checkpoint of your own"


@dataclass(frozen=True)
class Sizes:
    """Sizes of a network in one quantization scheme or dtype.

    Attributes:
        parameters: the number of parameters.
        weights: the bytes of all weights.
        footprint: the bytes that a decode step reads, and the bytes of a story's state.
    """

    parameters: int
    weights: int
    footprint: Footprint

    @property
    def memory(self) -> int:
        """Return the bytes that the model takes with the states of `_STORIES` stories."""
        stories = _STORIES * self.footprint.cache_bytes(_STORY_TOKENS)
        return self.weights + stories + min(_WORK_BYTES, self.weights)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that can be run.

    Attributes:
        name: hub id or folder.
        title, purpose, license: texts to show.
        config: the network's shape.
        folder: its folder; None if it has to be downloaded.
        scheme: the quantization scheme of the stored weights; None if they are not quantized.
        file_bytes: the size of its files.
        fetched_bytes: the part of `file_bytes` that is on this computer, perhaps of an interrupted download.
    """

    name: str
    title: str
    purpose: str
    license: str
    config: JetNemotronConfig
    folder: Path | None
    scheme: str | None = None
    file_bytes: int = 0
    fetched_bytes: int = 0


@dataclass(frozen=True)
class Form:
    """A checkpoint in one quantization scheme, with expected memory, disk space and speed on this machine.

    Attributes:
        id: the argument of `Catalog.find`.
        checkpoint: the checkpoint.
        scheme: "int8" or "int4" to quantize it; None to load it as it is stored.
        dtype: the type of its weights as a text to show, such as "int4" or "bfloat16".
        sizes: the network's sizes.
        download_bytes: bytes still to be downloaded.
        disk_bytes: bytes of the quantized copy that is still to be written.
        kept_bytes: bytes of the quantized copy that is on disk already.
        tokens_per_second: the expected speed; None if it is not known.
        problem: why it cannot run here; "" if it can.
    """

    id: str
    checkpoint: Checkpoint
    scheme: str | None
    dtype: str
    sizes: Sizes
    download_bytes: int
    disk_bytes: int
    kept_bytes: int
    tokens_per_second: float | None
    problem: str = ""

    @property
    def is_float32(self) -> bool:
        """Return whether the network computes in float32 on a CPU, as quantized networks do, too."""
        return self.dtype == "float32" or self.dtype in SCHEMES


class Machine:
    """The device that models run on: its memory and, measured on first use, its bandwidth."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._rates: dict[tuple[int, int], list[float]] = {}
        self._lock = threading.Lock()

    def available_bytes(self) -> int:
        """Return the bytes that can be allocated now."""
        free = hardware.free_device_bytes(self.device)
        return hardware.available_memory() if free is None else free

    def total_bytes(self) -> int:
        """Return the bytes of all memory of the device."""
        if self.device.type == "cuda":
            return int(torch.cuda.get_device_properties(self.device).total_memory)
        return psutil.virtual_memory().total

    def bandwidth(self, weights: int) -> float | None:
        """Return the measured bandwidth for a model of `weights` bytes, in bytes a second.

        Returns None if it has not been measured yet.
        """
        return max(self._rates.get(_kind(weights), ()), default=None)

    def measure(self, weights: int) -> None:
        """Measure the bandwidth for a model of `weights` bytes once more, up to `_MEASUREMENTS` times.

        The fastest measurement counts, since other programs only make memory seem slower.
        """
        size, threads = kind = _kind(weights)
        with self._lock:
            rates = self._rates.setdefault(kind, [])
            if len(rates) < _MEASUREMENTS:
                with suppress(MemoryError, RuntimeError):  # no room to measure in
                    rates.append(loading.measure_bandwidth(size, self.device, threads))


def _kind(weights: int) -> tuple[int, int]:
    """Return the bytes to read, and the threads to use, in a measurement for a model of `weights` bytes."""
    return min(weights, _MEASURED_BYTES), hardware.decode_threads(weights)


class Catalog:
    """The models that can be chosen; thread-safe.

    Attributes:
        base: the configuration that the process was started with; other models keep its device and limits.
        machine: the device that they run on.
    """

    def __init__(self, base: LocalConfig, machine: Machine, names: tuple[str, ...] | None = None) -> None:
        """`names`: hub ids and folders to offer; None for the story model, the official 2B and the 4B."""
        self.base, self.machine = base, machine
        self._names = [STORY_MODEL, OFFICIAL_2B, OFFICIAL_4B] if names is None else list(names)
        if base.model is not None and base.model not in self._names:
            self._names.append(base.model)

    def forms(self) -> list[Form]:
        """Return all forms of all models, except for models whose files cannot be read."""
        return [form for name in self._names if (one := self._checkpoint(name)) for form in self._forms(one)]

    def measure_machine(self) -> None:
        """Measure the memory bandwidth for every model of the catalog."""
        for weights in {form.sizes.weights for form in self.forms()}:
            self.machine.measure(weights)

    def find(self, id: str) -> Form:
        """Return a form by its id. Raises CheckpointError if there is none."""
        for form in self.forms():
            if form.id == id:
                return form
        raise CheckpointError("This model is not in the list: please open the list again.")

    def add_folder(self, path: str) -> None:
        """Add the checkpoint in the folder `path`, an absolute path.

        Raises CheckpointError if the path is relative, or has no checkpoint that can be loaded.
        """
        folder = Path(path.strip()).expanduser()
        if not folder.is_absolute():
            raise CheckpointError("Give the whole path of the folder, from the root on.")
        read_checkpoint(str(folder))
        if str(folder) not in self._names:
            self._names.append(str(folder))

    def suggestion(self, current: str) -> Form | None:
        """Return the form of the official 2B to suggest while the model named `current` runs.

        The form fits in memory and writes at least `COMFORTABLE` tokens a second. Returns None if there is no
        such form, or if `current` is not the story model.
        """
        if not _is_story_model(current):
            return None
        forms = {form.scheme: form for form in self.forms() if form.checkpoint.name == _SUGGESTED_MODEL}
        for scheme in _SUGGESTED:
            form = forms.get(scheme)
            if form and not form.problem and (form.tokens_per_second or 0) >= COMFORTABLE:
                return form
        return None

    def config_of(self, form: Form) -> LocalConfig:
        """Return the configuration that loads a form: the base's device and limits with another model."""
        if (form.checkpoint.name, form.scheme) == (self.base.model, self.base.quantize):
            return self.base
        values = {**vars(self.base), "model": form.checkpoint.name, "quantize": form.scheme, "dtype": "auto"}
        return LocalConfig(**{**values, "revision": None})

    def measure(self, folder: Path, scheme: str | None) -> Sizes:
        """Return the sizes of the checkpoint in a folder, as it would run here."""
        config, stored = read_config(folder), stored_scheme(folder)
        size = sum(file.stat().st_size for file in weight_files(folder))
        return measure_sizes(config, self._dtype(config, scheme or stored, size), scheme or stored)

    def _checkpoint(self, name: str) -> Checkpoint | None:
        try:
            return read_checkpoint(name)
        except (CheckpointError, OSError, ValueError):
            return None

    def _dtype(self, config: JetNemotronConfig, scheme: str | None, size: int) -> torch.dtype:
        usual = hardware.choose_dtype("auto", self.machine.device)
        if (
            self.machine.device.type == "cpu"
            and scheme is None
            and loading.keeps_bfloat16(size, config.dtype)
        ):
            return torch.bfloat16
        return usual

    def _forms(self, checkpoint: Checkpoint) -> list[Form]:
        only = _is_story_model(checkpoint.name) or checkpoint.scheme is not None
        schemes = (None,) if only else (INT4, INT8, None)
        return [self._form(checkpoint, scheme) for scheme in schemes]

    def _form(self, checkpoint: Checkpoint, scheme: str | None) -> Form:
        held = scheme or checkpoint.scheme
        dtype = self._dtype(checkpoint.config, held, checkpoint.file_bytes)
        sizes = measure_sizes(checkpoint.config, dtype, held)
        copied = 0 if scheme is None else quantized_cache.size_of(checkpoint.name, scheme)
        missing = checkpoint.file_bytes - checkpoint.fetched_bytes if checkpoint.folder is None else 0
        bandwidth = self.machine.bandwidth(sizes.weights)
        return Form(
            id=f"{checkpoint.name}:{scheme or 'stored'}",
            checkpoint=checkpoint,
            scheme=scheme,
            dtype=held or str(dtype).removeprefix("torch."),
            sizes=sizes,
            download_bytes=max(0, missing),
            disk_bytes=0 if scheme is None or copied else sizes.weights,
            kept_bytes=copied,
            tokens_per_second=self._speed(sizes, bandwidth),
            problem=self._problem(sizes),
        )

    def _speed(self, sizes: Sizes, bandwidth: float | None) -> float | None:
        if bandwidth is None:
            return None
        reached = _REACHED[self.machine.device.type]
        return reached * bandwidth / sizes.footprint.decode(_CONTEXT, 2).total

    def _problem(self, sizes: Sizes) -> str:
        total = self.machine.total_bytes()
        if sizes.memory > total:
            return f"It takes {gigabytes(sizes.memory)} of memory, and this machine has {gigabytes(total)}."
        return ""


def _is_story_model(name: str) -> bool:
    return Path(loading.resolve_path(name)).resolve() == Path(loading.resolve_path(STORY_MODEL)).resolve()


def read_checkpoint(name: str) -> Checkpoint:
    """Describe a checkpoint by its hub id or folder.

    Raises CheckpointError if the checkpoint is neither on this computer nor a published one.
    """
    path = loading.resolve_path(name)
    if hub.is_repository(path):
        return _of_the_hub(name)
    folder = Path(path)
    check_folder(folder)
    title, purpose = Path(name).name, _OTHER_PURPOSE
    if _is_story_model(name):
        title, purpose = "Story model", _STORY_PURPOSE
    return _in_folder(name, title, purpose, folder)


def _of_the_hub(name: str) -> Checkpoint:
    repository, revision = hub.split(name)
    official = {known: (title, purpose) for known, title, purpose in _OFFICIAL}
    title, purpose = official.get(repository, (repository, _OTHER_PURPOSE))
    if (folder := hub.cached_folder(repository, revision)) is not None:
        return _in_folder(name, title, purpose, folder)
    if repository not in official:
        raise CheckpointError(f"{name} is not on this computer.")
    config = official_config(repository)
    sizes = measure_sizes(config, cast(torch.dtype, config.dtype), None)
    fetched = partial_download.partial_bytes(repository) + partial_download.blob_bytes(repository)
    size = sizes.weights
    return Checkpoint(
        name, title, purpose, loading.license_of(name), config, None, None, size, min(fetched, size)
    )


def _in_folder(name: str, title: str, purpose: str, folder: Path) -> Checkpoint:
    size = sum(file.stat().st_size for file in weight_files(folder))
    return Checkpoint(
        name,
        title,
        purpose,
        loading.license_of(name),
        read_config(folder),
        folder,
        stored_scheme(folder),
        size,
        size,
    )


def measure_sizes(config: JetNemotronConfig, dtype: torch.dtype, scheme: str | None) -> Sizes:
    """Return the sizes of a network of this shape, with weights in `dtype` or quantized."""
    key = config.to_json_string(use_diff=False), dtype, scheme
    if key not in _measured:
        _measured[key] = _measure_alone(config, dtype, scheme)
    return _measured[key]


def _measure_alone(config: JetNemotronConfig, dtype: torch.dtype, scheme: str | None) -> Sizes:
    with BUILDING:
        return _measure(config.to_json_string(use_diff=False), dtype, scheme)


def _measure(config: str, dtype: torch.dtype, scheme: str | None) -> Sizes:
    values = json.loads(config)
    values.pop("quantization_config", None)
    # In float32, PyTorch's own type: transformers makes another one the whole process' type meanwhile.
    model = outline_network(JetNemotronConfig.from_dict(values), torch.float32, None)
    model.to(dtype)  # type: ignore[arg-type] # transformers names only one of its forms
    parameters = count_parameters(model)
    if scheme is not None:

        def weight_of(name: str, module: nn.Module) -> QuantizedTensor:
            rows, columns = cast(Tensor, module.weight).shape
            return QuantizedTensor.empty((rows, columns), scheme_of(scheme, name), dtype, _META)

        replace_weights(model, weight_of, scheme)
    return Sizes(parameters, total_weight_bytes(model), measure_footprint(model))


def gigabytes(size: float) -> str:
    """Format bytes: 1.2 GB, 64 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
