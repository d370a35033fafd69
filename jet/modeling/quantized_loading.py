"""Build quantized networks tensor by tensor, so that memory holds only a part of a layer besides the result.

The network is first built on the meta device. Then the rows of each matrix are read from the checkpoint's
files, or drawn at random, and quantized on the target device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from transformers import GenerationConfig

from jet.modeling import checkpoint
from jet.modeling.config import JetNemotronConfig
from jet.modeling.model import JetNemotronForCausalLM
from jet.modeling.quantization import QuantizedWeight, check_scheme, is_tied, replace_weights, scheme_of
from jet.modeling.quantized_format import stored_name
from jet.modeling.quantizer import prepare_to_save, storable
from jet.modeling.tensor_reader import TensorReader
from jet.ops.quantization import QuantizedTensor, quantize

_FILES = ["*.json", "*.safetensors"]


def load_quantized(
    source: str,
    scheme: str,
    device: torch.device,
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    revision: str | None = None,
    variant: str | None = None,
) -> JetNemotronForCausalLM:
    """Load a checkpoint and quantize its weights; arguments as for `load_model`. Raises CheckpointError."""
    check_scheme(scheme)
    with _outlined(source, dtype, attention, variant, revision) as (folder, tensors, model):
        checkpoint.require_complete(source, tensors.compare(model))

        def weight_of(name: str, module: nn.Module) -> QuantizedTensor:
            rows, columns = cast(Tensor, module.weight).shape
            read = tensors.rows(f"{name}.weight")
            return quantize(read, (rows, columns), scheme_of(scheme, name), model.dtype, device)

        replace_weights(model, weight_of, scheme)
        prepare_to_save(model, scheme)
        _load_parameters(model, tensors, device)
        _load_generation_config(model, folder)
    return model


def load_stored(
    source: str,
    scheme: str,
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    variant: str | None = None,
) -> JetNemotronForCausalLM:
    """Load a folder's quantized checkpoint into the CPU's memory by plain reads; no file stays mapped.

    Raises CheckpointError if the checkpoint is not complete.
    """
    with _outlined(source, dtype, attention, variant) as (folder, tensors, model):
        outlined = torch.device("meta")

        def outline(name: str, module: nn.Module) -> QuantizedTensor:
            rows, columns = cast(Tensor, module.weight).shape
            return QuantizedTensor.empty((rows, columns), scheme_of(scheme, name), model.dtype, outlined)

        replace_weights(model, outline, scheme)
        prepare_to_save(model, scheme)
        checkpoint.require_complete(source, tensors.compare_to(storable(model), tied=is_tied(model)))
        for name, module in model.named_modules():
            if isinstance(module, QuantizedWeight):
                names = (stored_name(f"{name}.{part}") for part in ("qweight", "scales"))
                qweight, scales = map(tensors.whole, names)
                columns = module.weight.columns
                module.weight = QuantizedTensor(qweight, scales, columns, model.dtype)
        _load_parameters(model, tensors, torch.device("cpu"))
        _load_generation_config(model, folder)
    return model


def load_large(
    source: str, dtype: torch.dtype | None = None, attention: str | None = None, variant: str | None = None
) -> JetNemotronForCausalLM:
    """Load a folder's checkpoint into the CPU's memory by plain reads, so that no file stays mapped.

    With mapped files, both the file's weights and the fused ones would be in memory. Raises CheckpointError
    if the checkpoint is not complete.
    """
    with _outlined(source, dtype, attention, variant) as (folder, tensors, model):
        checkpoint.require_complete(source, tensors.compare(model))
        _load_parameters(model, tensors, torch.device("cpu"))
        model.tie_weights()
        _load_generation_config(model, folder)
    return cast(JetNemotronForCausalLM, model.eval())  # type: ignore[no-untyped-call]


@contextmanager
def _outlined(
    source: str,
    dtype: torch.dtype | None,
    attention: str | None,
    variant: str | None,
    revision: str | None = None,
) -> Iterator[tuple[Path, StoredTensors, JetNemotronForCausalLM]]:
    """Open a checkpoint; yield its folder, its tensors, and its network on the meta device.

    If `source` is no folder, the hub's repository is fetched. Errors inside of the `with` block become
    CheckpointError, too.
    """
    with (
        checkpoint.explain_load_errors(source, {"revision": revision, "variant": variant}),
        ExitStack() as files,
    ):
        folder = Path(source)
        if not folder.exists():
            folder = Path(snapshot_download(source, revision=revision, allow_patterns=_FILES))
            checkpoint.check_folder(folder, variant=variant)
        config = checkpoint.read_config(folder)
        config.name_or_path = source
        tensors = StoredTensors(folder, files, variant)
        yield folder, tensors, outline_network(config, dtype or read_dtype(config, tensors), attention)


def _load_parameters(model: JetNemotronForCausalLM, tensors: StoredTensors, device: torch.device) -> None:
    for name, parameter in list(model.named_parameters()):
        owner, _, own = name.rpartition(".")
        value = tensors.whole(name).to(device, parameter.dtype)
        setattr(model.get_submodule(owner), own, nn.Parameter(value, requires_grad=False))


def _load_generation_config(model: JetNemotronForCausalLM, folder: Path) -> None:
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)


def random_quantized(
    config: JetNemotronConfig, scheme: str, device: torch.device, dtype: torch.dtype
) -> JetNemotronForCausalLM:
    """Build a randomly initialized network with quantized weights; every process gets the same one."""
    check_scheme(scheme)
    torch.manual_seed(0)
    model = outline_network(config, dtype, None)

    def draw(module: nn.Module) -> None:
        module.to_empty(device=device, recurse=False)
        model._init_weights(module)
        module.requires_grad_(False)

    def weight_of(name: str, module: nn.Module) -> QuantizedTensor:
        draw(module)
        weight = cast(Tensor, module.weight)
        shape = (weight.shape[0], weight.shape[1])
        quantized = quantize(
            lambda begin, end: weight[begin:end], shape, scheme_of(scheme, name), dtype, device
        )
        module.weight = nn.Parameter(weight.to("meta"), requires_grad=False)  # frees the unquantized weight
        return quantized

    replace_weights(model, weight_of, scheme)
    for module in model.modules():
        if any(parameter.is_meta for parameter in module.parameters(recurse=False)):
            draw(module)
    return model


def read_dtype(config: JetNemotronConfig, tensors: StoredTensors) -> torch.dtype:
    """Return the dtype that a checkpoint's config names, or else that of its tensors."""
    return cast("torch.dtype | None", config.dtype) or tensors.dtype


def outline_network(
    config: JetNemotronConfig, dtype: torch.dtype, attention: str | None
) -> JetNemotronForCausalLM:
    """Build the network on the meta device, without memory for its weights."""
    options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    with torch.device("meta"):
        model = cast(Any, JetNemotronForCausalLM)._from_config(config, dtype=dtype, **options)
    return cast(JetNemotronForCausalLM, model)


class StoredTensors:
    """Tensors of a checkpoint's files, read on demand."""

    def __init__(self, folder: Path, files: ExitStack, variant: str | None = None) -> None:
        self._files: dict[str, TensorReader] = {}
        for path in checkpoint.weight_files(folder, variant):
            file = files.enter_context(TensorReader(path))
            self._files |= dict.fromkeys(file.names(), file)

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the first floating-point tensor by name; float32 if there is none."""
        kinds = (self._files[name].dtype(name) for name in sorted(self._files))
        return next((kind for kind in kinds if kind.is_floating_point), torch.float32)

    def compare(self, model: JetNemotronForCausalLM) -> dict[str, Any]:
        """List missing, unexpected and mismatched tensors, as transformers' `output_loading_info` does."""
        return self.compare_to(model.state_dict(), is_tied(model))

    def compare_to(self, state: Mapping[str, Tensor], tied: bool) -> dict[str, Any]:
        """Compare the files with the tensors `state` as `compare` does; their names are those in files.

        `tied`: whether head and embedding are tied, so that the head may be missing.
        """
        wanted = {name: list(tensor.shape) for name, tensor in state.items()}
        there = {name: file.shape(name) for name, file in self._files.items()}
        both = wanted.keys() & there.keys()
        return {
            "mismatched_keys": [(n, there[n], wanted[n]) for n in both if there[n] != wanted[n]],
            "missing_keys": wanted.keys() - there.keys() - ({"lm_head.weight"} if tied else set()),
            "unexpected_keys": there.keys() - wanted.keys(),
        }

    def rows(self, name: str) -> Callable[[int, int], Tensor]:
        """Return a function that reads the rows from `begin` to `end` (exclusive) of a matrix."""
        return partial(self._files[name].rows, name)

    def whole(self, name: str) -> Tensor:
        """Read a whole tensor."""
        return self._files[name].whole(name)
