"""Loading: from a `LocalConfig` to a running engine: checkpoint, device, dtype, capacity and license."""

from __future__ import annotations

import logging
import re
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from transformers import AutoTokenizer

from jet import hardware
from jet.api import EngineInfo, Request, SamplingParams
from jet.cache.disk_store import DiskStore
from jet.engine import heeds, hub, quantized_cache
from jet.engine.bandwidth import MemoryBandwidth
from jet.engine.capacity import Capacity, CapacityError, plan_capacity
from jet.engine.engine import EngineOptions, LocalEngine, WarmUpError
from jet.engine.kernel_store import StartCompilation, begin
from jet.engine.model_runner import ModelRunner
from jet.engine.prefill import SIZES
from jet.engine.progress import LOADING
from jet.engine.stored_states import StateFolder, open_store
from jet.engine.text.tokenizer import StoryTokenizer, start_id, stop_ids
from jet.modeling import CheckpointError, JetNemotronForCausalLM, load_model
from jet.modeling.checkpoint import read_config, stored_scheme, weight_files
from jet.modeling.fingerprint import fingerprint
from jet.modeling.finite import explain_not_finite
from jet.modeling.footprint import measure_footprint, total_weight_bytes
from jet.modeling.quantization import count_parameters
from jet.ops import gated_delta_rule
from jet.ops.availability import recover_triton
from jet.ops.quantization import INT4, INT8
from jet.ops.read_bandwidth import read_rates
from jet.ops.sampling import NOT_A_NUMBER
from jet.version import __version__

OFFICIAL_MODEL = "jet-ai/Jet-Nemotron-2B"
STORY_MODEL = "assets/story-model"
OFFICIAL_LICENSE = "NVIDIA, research and evaluation only (non-commercial)"
UNKNOWN_LICENSE = "see the checkpoint"

_HOME = Path(__file__).resolve().parents[2]
# 3.9 GB of weights (half or a third of that quantized), the state of a long text and work space.
_OFFICIAL_BYTES = {None: 5 * 2**30, INT8: 3 * 2**30, INT4: 2.5 * 2**30}
_SMALLER = {
    None: f"quantize its weights to {INT8} or {INT4}, ",
    INT8: f"quantize its weights to {INT4}, ",
    INT4: "",
}
_OFFICIAL_NAME = re.compile(r"jet-ai(/|--)Jet-Nemotron")
MAX_BATCH = {"cpu": 16, "cuda": 128}
_WARM_UP_TEXT = "Once upon a time " * 20  # a token a word
_SLOW = 2**28  # bytes of weights from which a CPU takes a second or more for such a text
_LARGE = 2**31  # bytes of a checkpoint that has no room for another half beside it
_SMALL_CACHE = 200 * 2**20  # bytes of snapshots where states are stored on disk, too
_READS, _MOST_READ = 3, 2**28  # times, and bytes
_LICENSE_NAMES = {"apache-2.0": "Apache-2.0", "mit": "MIT"}


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalConfig:
    """The model to run in this process, its device, precision and limits; fields have defaults.

    Attributes:
        model: folder or hub id; None for `default_model`.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "auto", "float32", "bfloat16" or "float16".
        attention: "eager", "sdpa" or "flash_attention_2"; None lets transformers choose.
        context: most tokens of a request, prompt included; None for the model's limit.
        max_running_requests: requests served at once; None for as many as memory allows.
        revision: branch, tag or commit of a hub repository; None if `model` is owner/name@revision, or for
            the latest.
        quantize: "int8" or "int4" to quantize the weights; None to leave them.
        states: the folder where stories' states are stored for the next start; None to store none.
    """

    model: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    attention: str | None = None
    context: int | None = None
    max_running_requests: int | None = None
    revision: str | None = None
    quantize: str | None = None
    states: StateFolder | None = None

    def create(self) -> LocalEngine:
        """Load the model and start an engine; see `create_engine`."""
        return create_engine(self)


def create_engine(config: LocalConfig) -> LocalEngine:
    """Load the model, start an engine on it and warm it up.

    Raises CheckpointError or HardwareError, with a message for the user, if it cannot be loaded or run.
    """
    started = time.monotonic()
    hardware.limit_threads()
    device = hardware.choose_device(config.device)
    hardware.choose_dtype(config.dtype, device)  # before a download, if there is no such type
    name = config.model or default_model(device, config.quantize)
    name, source = resolve_model(name, config.revision)
    checkpoint = heeds.identify(Path(source), config.quantize)
    if config.quantize is not None:  # a copy that is kept loads as fast as the disk reads
        source = str(quantized_copy(name, Path(source), config.quantize))
    dtype = choose_dtype(config, device, source)
    compilation = _begin_compilation(config, source, device, dtype)
    try:
        model = load_model(source, device, dtype, config.attention, quantize=config.quantize)
    except (torch.OutOfMemoryError, MemoryError):
        raise too_large(name, device, config.quantize) from None
    tokenizer = load_tokenizer(source, model)
    info = replace(engine_info(name, model, load_s=time.monotonic() - started), checkpoint=checkpoint)
    try:
        capacity = capacity_for(
            model,
            min(config.context or info.context, info.context),
            config.max_running_requests,
            small_cache=config.states is not None,
        )
    except CapacityError as error:
        raise hardware.HardwareError(str(error)) from None
    LOADING.say("Preparing to write")  # takes seconds if kernels have to be compiled
    stored = None if config.states is None else (config.states, state_identity(model))
    try:
        if compilation is not None:
            compilation.wait()
        return start_engine(model, tokenizer, info, capacity, stored)
    finally:
        hardware.return_free_memory()  # what loading needed
        LOADING.say(None)


def quantized_copy(name: str, folder: Path, scheme: str) -> Path:
    """Return the folder of a checkpoint's quantized copy on disk, or the checkpoint's own folder.

    If there is no copy, one is made of a large checkpoint. Returns the checkpoint's own folder if it is small
    or quantized already, or if a copy cannot be written.
    """
    found = quantized_cache.find(name, folder, scheme)
    if found is not None:
        return found
    with suppress(CheckpointError):  # loading says what is wrong
        small = sum(file.stat().st_size for file in weight_files(folder) if file.is_file()) <= _LARGE
        if small or stored_scheme(folder) is not None:
            return folder
        words = f"Quantizing to {scheme}, once; the copy is kept in {quantized_cache.models_folder()}"
        try:
            return quantized_cache.make(
                name, folder, scheme, lambda done, total: LOADING.say(f"{words}: {done} of {total}")
            )
        except CheckpointError as error:
            log.warning("The quantized weights are not kept, and every start makes them: %s", error)
    return folder


def choose_dtype(config: LocalConfig, device: torch.device, source: str) -> torch.dtype:
    """Choose the network's dtype from the configuration, the device and the checkpoint in folder `source`.

    By default, a large bfloat16 checkpoint stays in bfloat16 on a CPU: in float32, its weights would take
    twice the memory, and twice the time to read for every token.
    """
    dtype, folder = hardware.choose_dtype(config.dtype, device), Path(source)
    if config.dtype != "auto" or device.type != "cpu" or config.quantize is not None or not folder.is_dir():
        return dtype
    with suppress(CheckpointError):  # loading says what is wrong
        if stored_scheme(folder) is not None:  # whose kernels compute in float32
            return dtype
        files, stored = weight_files(folder), read_config(folder).dtype
        size = sum(file.stat().st_size for file in files if file.is_file())
        return torch.bfloat16 if keeps_bfloat16(size, stored) else dtype
    return dtype


def _begin_compilation(
    config: LocalConfig, source: str, device: torch.device, dtype: torch.dtype
) -> StartCompilation | None:
    """Start compiling a checkpoint's kernels in other processes; return None if there are none to compile."""
    if device.type != "cuda":
        return None
    try:
        network = read_config(Path(source))
    except CheckpointError:  # loading says what is wrong
        return None
    return begin(network, dtype, config.quantize, config.max_running_requests or MAX_BATCH["cuda"], device)


def keeps_bfloat16(size: int, stored: str | torch.dtype | None) -> bool:
    """Return whether a checkpoint of `size` bytes and dtype `stored` stays in bfloat16 on a CPU."""
    return size > _LARGE and stored == torch.bfloat16


def start_engine(
    model: JetNemotronForCausalLM,
    tokenizer: StoryTokenizer,
    info: EngineInfo,
    capacity: Capacity,
    stored: tuple[StateFolder, str] | None = None,
) -> LocalEngine:
    """Start an engine on a loaded model and warm it up.

    `stored`: the folder for the states of stories, and the `state_identity` of the model; None to store none.
    Raises HardwareError if there is no memory for states or the device cannot run the model, CheckpointError
    if the model's logits are NaN.
    """
    while True:
        try:
            return _start_engine(model, tokenizer, info, capacity, stored)
        except WarmUpError as error:  # noqa: PERF203 (three rounds at most)
            if str(error) == NOT_A_NUMBER:
                raise CheckpointError(explain_not_finite(model, info.model)) from None
            if not recover_triton(model.device, str(error)):
                raise hardware.HardwareError(
                    f"{info.model} has been loaded and cannot write on {model.device}: {error}"
                ) from None


def _start_engine(
    model: JetNemotronForCausalLM,
    tokenizer: StoryTokenizer,
    info: EngineInfo,
    capacity: Capacity,
    stored: tuple[StateFolder, str] | None,
) -> LocalEngine:
    store = None if stored is None else open_store(*stored)
    runner = make_runner(model, tokenizer.stop_ids, capacity, tokenizer.dry_sequence_breakers(), store)
    kernels = {"gated_delta": gated_delta_rule.prefill_implementation(model.device, model.dtype)}
    info = replace(info, kernels=info.kernels | kernels | runner.kernels, **capacity_info(capacity))
    info = replace(info, chat_tokens=tokenizer.chat_tokens)
    # Before the engine starts, so that nothing slows the copy.
    threads = hardware.decode_threads(total_weight_bytes(model))
    footprint = measure_footprint(model, runner.decode_step.saved_bytes)
    copied = footprint.decode(1, 2).total
    device = model.device
    bandwidth = MemoryBandwidth(lambda: measure_bandwidth(copied, device, threads))
    facts: dict[str, Any] = {"footprint": footprint, **bandwidth.measure()}
    info = replace(info, **facts)
    options = EngineOptions(
        max_running_requests=capacity.max_running_requests, prefill_chunk_size=prefill_chunk(model.device)
    )
    read_memory = partial(hardware.read_memory, model.device)
    engine = LocalEngine(runner, tokenizer, info, options, read_memory, states=runner.stored_states)
    try:
        engine.warm_up(warm_up_request(info.context, device, total_weight_bytes(model)))
    except BaseException:
        engine.close()
        raise
    if device.type != "cpu":  # there the watch below measures again, once the first words are written
        engine.update_info(bandwidth.measure())
    if store is not None and stored is not None:
        engine.update_info({"stored_bytes": stored[0].nbytes, "stored_limit": stored[0].limit})
        runner.stored_states.listen(lambda nbytes: engine.update_info({"stored_bytes": nbytes}))
    if device.type == "cpu":  # on a GPU, copies would slow the engine
        bandwidth.watch(engine)
    return engine


def warm_up_lengths(device: torch.device, weight_bytes: int) -> tuple[int, int]:
    """Return how many tokens a warm-up prefills and how many it decodes to run every code path once.

    They are fewer for a network of many `weight_bytes` on a CPU, where each token takes long.
    """
    return (14, 2) if device.type == "cpu" and weight_bytes >= _SLOW else (80, 8)


def warm_up_request(context: int, device: torch.device, weight_bytes: int) -> Request:
    """Return a request for `LocalEngine.warm_up` of `warm_up_lengths` that fits into `context` tokens."""
    words, tokens = warm_up_lengths(device, weight_bytes)
    text = " ".join(_WARM_UP_TEXT.split()[:words])
    return Request(text[: context // 2], SamplingParams(max_new_tokens=tokens, seed=0))


def too_large(name: str, device: torch.device, quantize: str | None) -> hardware.HardwareError:
    """Return the error for weights that do not fit in memory."""
    return hardware.HardwareError(
        f"{name} does not fit into the memory of {device}: close what else runs there, "
        f"{_SMALLER.get(quantize, '')}take a smaller model, or choose the device cpu."
    )


def default_model(device: torch.device, quantize: str | None = None) -> str:
    """Return the name of the official 2B if it is available and fits on the CUDA device.

    Returns the name of the story model otherwise.
    """
    free = hardware.free_device_bytes(device)
    roomy = free is not None and free >= _OFFICIAL_BYTES.get(quantize, 0)
    return OFFICIAL_MODEL if roomy and hub.is_available(OFFICIAL_MODEL) else STORY_MODEL


def resolve_model(name: str, revision: str | None = None) -> tuple[str, str]:
    """Return a model's name and folder, fetched from the hub if need be. Raises CheckpointError."""
    source = resolve_path(name)
    if not hub.is_repository(source):
        if revision is not None:
            raise CheckpointError(f"{name} is a folder: a revision is for a hub id like owner/name.")
        return name, source
    repository, revision = hub.split(source, revision)
    folder = str(hub.fetch(repository, revision))
    return repository if revision is None else f"{repository}@{revision}", folder


def resolve_path(name: str) -> str:
    """Return the path or hub id of a model; paths in this repository resolve from any working directory."""
    shipped = _HOME / name
    return str(shipped) if shipped.is_dir() and not Path(name).exists() else name


def load_tokenizer(source: str, model: JetNemotronForCausalLM) -> StoryTokenizer:
    """Load a checkpoint's tokenizer. Raises CheckpointError if there is none that fits the network."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:
        raise CheckpointError(f"The tokenizer of {source} cannot be loaded: {error}") from error
    tokens = 1 + max(tokenizer.get_vocab().values())
    if tokens > model.config.vocab_size:
        raise CheckpointError(
            f"The tokenizer of {source} has {tokens} tokens, the network {model.config.vocab_size}."
        )
    configs = (model.generation_config, model.config)
    return StoryTokenizer(tokenizer, start_id(tokenizer, *configs), stop_ids(tokenizer, *configs))


def engine_info(name: str, model: JetNemotronForCausalLM, load_s: float) -> EngineInfo:
    """Return the `EngineInfo` of a loaded model, without capacity and measurements."""
    return EngineInfo(
        model=name,
        parameters=count_parameters(model),
        device=str(model.device),
        device_name=hardware.device_name(model.device),
        dtype=str(model.dtype).removeprefix("torch."),
        attention=str(model.config._attn_implementation),
        kernels={
            "gated_delta": gated_delta_rule.prefill_implementation(model.device, model.dtype),
        },
        context=model.config.max_position_embeddings,
        license=license_of(name),
        load_s=load_s,
        warmup_s=0.0,
        quantization=model.quantization,
        vocabulary=model.config.vocab_size,
    )


def measure_bandwidth(size: int, device: torch.device, threads: int) -> float:
    """Return the bytes a second at which `size` bytes are read or, where that is not measurable, copied."""
    reads = read_rates(min(size, _MOST_READ), device, threads, _READS, min(size, _MOST_READ))
    return max(reads) if reads else hardware.quick_bandwidth(size, device, threads)


def state_identity(model: JetNemotronForCausalLM) -> str:
    """Return a text that identifies the weights, kind of device and engine version that states depend on.

    States that were stored with another identity are invalid.
    """
    kind = f"{model.dtype} {model.quantization} {model.device.type}"
    return f"{__version__} {kind} {fingerprint(model)}"


def capacity_for(
    model: JetNemotronForCausalLM,
    context: int,
    max_running_requests: int | None = None,
    small_cache: bool = False,
) -> Capacity:
    """Plan how many requests of up to `context` tokens run at once, from the device's free memory.

    `max_running_requests`: None for as many as fit. `small_cache`: whether to keep few snapshots on a CPU,
    whose memory other programs use, too. Raises CapacityError if `max_running_requests` do not fit.
    """
    device = model.device
    most = MAX_BATCH[device.type]
    limit = _SMALL_CACHE if small_cache and device.type == "cpu" else None
    footprint, free = measure_footprint(model), hardware.free_bytes(device)
    return plan_capacity(footprint, free, context, most, max_running_requests, limit)


def capacity_info(capacity: Capacity) -> dict[str, Any]:
    """Return a capacity as fields of `EngineInfo`."""
    return {
        "context": capacity.context,
        "max_running_requests": capacity.max_running_requests,
        "max_total_tokens": capacity.max_total_tokens,
    }


def prefill_chunk(device: torch.device) -> int:
    """Return the most tokens of a prefill chunk on a device."""
    # Short chunks leave a GPU idle, but not a CPU, where they keep stalls of decoding requests short.
    return EngineOptions.prefill_chunk_size if device.type == "cpu" else SIZES[-1]


def make_runner(
    model: JetNemotronForCausalLM,
    stop_ids: frozenset[int],
    capacity: Capacity,
    breakers: frozenset[int] = frozenset(),
    store: DiskStore | None = None,
) -> ModelRunner:
    """Make a model's runner.

    Args:
        model: the network.
        stop_ids: tokens that end a text.
        capacity: the sizes to allocate memory for.
        breakers: tokens at which DRY ends a repetition.
        store: stores the states of finished requests; the runner closes it. None to store none.

    Raises:
        HardwareError: the runner's states do not fit in memory.
    """
    threads = hardware.decode_threads(total_weight_bytes(model))
    try:
        runner = ModelRunner(
            model,
            stop_ids,
            threads,
            slots=capacity.max_running_requests,
            tokens=capacity.max_total_tokens,
            context=capacity.context,
            dry_sequence_breakers=breakers,
            cache_slots=capacity.cache_slots,
            host_bytes=hardware.spare_host_bytes(model.device) if capacity.cache_slots else 0,
            disk_store=store,
            small_cache=store is not None and model.device.type == "cpu",
        )
    except (MemoryError, torch.OutOfMemoryError):
        if store is not None:
            store.close()
        raise hardware.HardwareError(
            f"There is no memory on {model.device} for stories of {capacity.context:,} tokens besides the "
            "model: close what else runs there, or ask for a shorter context."
        ) from None
    if model.device.type == "cuda":
        torch.cuda.empty_cache()  # return what loading needed
    return runner


def license_of(name: str) -> str:
    """Return the license of a checkpoint in one line: the official license, or the model card's."""
    if _OFFICIAL_NAME.search(name):
        return OFFICIAL_LICENSE
    card = Path(resolve_path(name)) / "README.md"
    try:
        data = ModelCard.load(card).data if card.is_file() else None
    except Exception:  # not a model card
        data = None
    said = data and (data.get("license_name") or data.get("license"))
    return _LICENSE_NAMES.get(said, said) if isinstance(said, str) else UNKNOWN_LICENSE
