"""RunContext: options, loaded networks and the report so far, shared by the sections of a run."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import cast

import torch
from torch import Tensor
from transformers import AutoTokenizer

from jet import hardware
from jet.bench import networks
from jet.bench.networks import Network
from jet.bench.report.data import Report
from jet.bench.report.full_attention import random_full_attention
from jet.bench.report.plan import Plan, ReportOptions
from jet.engine import loading
from jet.modeling import JetNemotronConfig, JetNemotronForCausalLM, load_model
from jet.modeling.footprint import decode_weight_bytes
from jet.modeling.quantization import quantize_network

_TEXT_TOKENS = 128
_TEXT = (
    "The lamp in the lighthouse had gone out, and nobody in the village could say when. Old Marta put on her "
    "coat, took the oil can from under the stairs and went out into the rain. Halfway along the wall she met "
    "the schoolmaster, who had lost his hat and did not seem to mind. “There is a ship out there,” he said. "
    "“I heard her bell, twice, and then not again.” They climbed the stairs without another word. At the top "
    "the door stood open, the floor was wet, and on the keeper's chair sat a child whom neither of them had "
    "ever seen, holding a single match. “I waited for you,” said the child, “because I cannot reach.” Marta "
    "laughed, though her hands shook, and lifted her up, and the light came back over the black water."
)


def memory_is_full(error: BaseException) -> bool:
    """Return whether an error means that memory is full; for a CPU, torch raises a plain RuntimeError."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


class RunContext:
    """Loads networks when they are first used, and keeps them until `release`.

    Attributes:
        exact: the float64 network's logits of `text`; None until they are computed.
        failed: (sweep, "ours" or "full") → why memory was too small for a point of the sweep.
    """

    def __init__(self, options: ReportOptions, device: torch.device, report: Report) -> None:
        self.options = options
        self.device = device
        self.report = report
        self._network: Network | None = None
        self._full: Network | None = None
        self.exact: Tensor | None = None
        # What has filled the memory once is not tried again on a larger point: why, by sweep and contender.
        self.failed: dict[tuple[str, str], str] = {}

    @property
    def plan(self) -> Plan:
        """Return the plan: how many runs, tokens and sweep points are measured."""
        return self.options.plan

    @cached_property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the weights. Raises HardwareError for an unknown one."""
        return hardware.choose_dtype(self.options.dtype, self.device)

    @cached_property
    def config(self) -> JetNemotronConfig:
        """Return the network's config. Raises BenchError, CheckpointError or OSError if it cannot be read."""
        if self.options.config is not None:
            return networks.read_config(self.options.config)
        config: JetNemotronConfig = JetNemotronConfig.from_pretrained(loading.resolve_path(self.options.name))
        return config

    @cached_property
    def elements(self) -> int:
        """Return the number of weights that one token reads."""
        return decode_weight_bytes(networks.random_network(self.config, "meta", torch.float32)) // 4

    def within(self, context: int, tokens: int) -> int:
        """Return the context nearest to `context` that leaves room for `tokens` more tokens; at least 1."""
        return max(1, min(context, self.config.max_position_embeddings - tokens))

    @property
    def _longest(self) -> int:
        """Return the longest context that is measured, in tokens."""
        return self.within(max(self.plan.contexts), self.plan.tokens)

    @property
    def network(self) -> Network:
        """Return the network with the runner that the engine would use."""
        if self._network is None:
            options = self.options.bench_options(context=self._longest, tokens=self.plan.tokens)
            self._network = networks.load(options)
        return self._network

    @property
    def full(self) -> Network:
        """Return the full-attention baseline, of the same size and with the same kind of runner."""
        if self._full is None:
            full = random_full_attention(self.network.model)
            self._full = self.with_runner(full, self._longest + self.plan.tokens)
        return self._full

    def prompt(self, context: int) -> list[int]:
        """Return a random prompt of `context` token ids."""
        return networks.random_prompt(self.config.vocab_size, context)

    @cached_property
    def text(self) -> list[int]:
        """Return the tokens of a fixed text, at most 128; without a tokenizer, fixed token ids."""
        most = self.within(_TEXT_TOKENS, max(_TEXT_TOKENS // 4, self.plan.tokens))
        if self.options.config is not None:
            return self.prompt(most)
        try:
            tokenizer = AutoTokenizer.from_pretrained(loading.resolve_path(self.options.name))
        except Exception:  # whatever keeps a tokenizer from being there: a network can be measured without
            return self.prompt(most)
        ids: list[int] = tokenizer(_TEXT)["input_ids"]
        return ids[:most]

    def variant(
        self, dtype: torch.dtype, attention: str, quantize: str | None = None
    ) -> JetNemotronForCausalLM:
        """Load the report's weights with another dtype, attention implementation or quantization."""
        if self.options.config is None:
            source = loading.resolve_path(self.options.name)
            return load_model(source, self.device, dtype, attention, quantize=quantize)
        model = networks.random_network(self.config, self.device, self.dtype)
        model.set_attn_implementation(attention)
        model = cast(JetNemotronForCausalLM, model.to(dtype))  # type: ignore[arg-type]
        return model if quantize is None else quantize_network(model, quantize)

    def with_runner(self, model: JetNemotronForCausalLM, context: int, writers: int = 1) -> Network:
        """Return `model` with an engine's runner for `writers` sequences of `context` tokens.

        The result has an empty prompt. Raises BenchError if memory is too small.
        """
        info = loading.engine_info(self.options.name, model, 0.0)
        tokenizer = networks.IdTokenizer()
        runner = networks.make_runner(model, tokenizer.stop_ids, context, writers)
        threads = hardware.limit_threads()
        return Network(model, tokenizer, runner, replace(info, kernels=runner.kernels), [], threads)

    def release(self) -> None:
        """Close the networks and free their memory."""
        for network in (self._network, self._full):
            if network is not None:
                network.runner.close()
        self._network = self._full = None
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
