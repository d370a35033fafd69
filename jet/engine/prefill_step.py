"""PrefillStep: runs a chunk of prompts through the network, in few launches, without allocating memory.

The counterpart of `DecodeStep` for many tokens of one or several sequences. Projections of the same input are
fused into one product, which also adds the residual; each operation between products is one kernel
(`jet.ops.prefill_backends`). States are updated in place in a `StatePool`. The decode step's fused weights
are used; quantized ones are dequantized part by part into one buffer that all products share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from jet.cache.state_pool import JetState, PagedKV, StatePool, WindowKV
from jet.engine.decode_step import fuse_biases, fuse_projections
from jet.modeling.attention import Attention
from jet.modeling.config import JetNemotronConfig
from jet.modeling.jet_block import JetBlock
from jet.modeling.model import DecoderLayer, JetNemotronForCausalLM
from jet.ops.chunk_meta import MAX_PACKED, Segment, last_tokens, make_chunk_meta
from jet.ops.prefill_backends import PrefillBackend
from jet.ops.quantization import QuantizedTensor, Weight, row_ranges
from jet.ops.reference import JetSizes

MAX_DEQUANTIZED = 2**25  # weights dequantized at once; larger matrices are multiplied in parts


def jet_sizes(config: JetNemotronConfig) -> JetSizes | None:
    """Return the sizes of the jet layers; None if the network has none."""
    if "jet" not in (config.layer_types or []):
        return None
    jet = config.jet
    return JetSizes(jet.num_heads, jet.head_dim, jet.head_v_dim, jet.generator_dim, jet.conv_size)


class PrefillStep:
    """A prefill step of up to `tokens` tokens, bound to buffers whose addresses never change.

    Attributes:
        ids: `[tokens]` int64, the chunk's tokens; padding may have any ids.
        chunk_meta: int32, the sequences that the tokens belong to; see `jet.ops.chunk_meta`.
        logits: `[MAX_PACKED, vocabulary]` in the network's dtype, of the token after each sequence's last
            one.
    """

    def __init__(
        self, model: JetNemotronForCausalLM, pool: StatePool, backend: PrefillBackend, tokens: int
    ) -> None:
        config = model.config
        assert isinstance(config, JetNemotronConfig)
        self._model, self._pool, self._config, self._backend = model, pool, config, backend
        self._dtype, self._device = model.dtype, model.device
        self.tokens = tokens
        self.ids = torch.zeros(tokens, dtype=torch.int64, device=self._device)
        self.chunk_meta = make_chunk_meta([Segment(pool.null_slot, 0, 1, 0)], tokens, self._device)
        self.logits = self._empty(MAX_PACKED, config.vocab_size)
        self._sizes = jet_sizes(config)
        self._numbers: Tensor | None = None
        self._bind()

    def run(self, tokens: int) -> None:
        """Run the first `tokens` of `ids`; `chunk_meta` tells which of them are padding."""
        x = self._x[:tokens]
        self._embed(x)
        layers = zip(self._model.model.layers, self._pool.layers, self._gate_up, strict=True)
        for layer, memory, gate_up in layers:
            self._mix(layer, memory, x)
            self._transform(layer, gate_up, x)
        last = self._x.index_select(0, last_tokens(self.chunk_meta))
        normed = torch.empty_like(last)
        self._backend.norm(last, self._model.model.norm.weight, self._config.rms_norm_eps, normed)
        self._multiply(normed, self._model.lm_head.weight, self.logits)

    def _bind(self) -> None:
        """Fuse weights and allocate buffers; buffers that are never needed together share memory."""
        config, tokens = self._config, self.tokens
        hidden, heads = config.hidden_size, config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        upcast = [2 * config.intermediate_size, heads + 2 * keys]
        narrow = [config.intermediate_size, 2 * heads]
        sizes = self._sizes
        if sizes is not None:
            values = sizes.num_heads * sizes.head_v_dim
            upcast.append(sum(sizes.split_sizes) + values * sizes.conv_size)
            narrow.append(2 * values + sizes.generator_dim)
        self._x, self._normed = self._empty(tokens, hidden), self._empty(tokens, hidden)
        self._wide = self._empty(tokens * max(upcast))
        self._narrow = self._empty(tokens * max(narrow))
        exponents = torch.arange(0, config.head_dim, 2, device=self._device, dtype=torch.float32)
        self._frequencies = config.rope_theta ** -(exponents / config.head_dim)
        window = config.sliding_window or 0
        if "swa" in (config.layer_types or []):
            shape = 2, config.num_key_value_heads, MAX_PACKED * window + tokens, config.head_dim
            self._lane = self._empty(*shape)
        self._merged: dict[int, tuple[Weight, Tensor | None]] = {}
        self._decays: dict[int, tuple[Tensor, Tensor]] = {}
        self._biases: dict[int, Tensor] = {}  # of the convolution's kernels, `[W, D]`
        self._gate_up: list[Weight] = []
        for index, layer in enumerate(self._model.model.layers):
            block = layer.self_attn
            if isinstance(block, JetBlock):
                generator = block.dynamic_conv1d.kernel_generator
                parts = [block.q_proj, block.k_proj, generator.w1, block.v_proj]
                self._merged[index] = (
                    fuse_projections([*parts, block.g_proj, block.a_proj, block.b_proj]),
                    None,
                )
                self._decays[index] = block.A_log.float(), block.dt_bias.float()
                self._biases[index] = generator.w2.bias.view(-1, generator.width).T.contiguous()
            else:
                assert isinstance(block, Attention)
                parts = [block.q_proj, block.k_proj, block.v_proj]
                self._merged[index] = fuse_projections(parts), fuse_biases(parts)
            self._gate_up.append(fuse_projections([layer.mlp.gate_proj, layer.mlp.up_proj]))

    def _embed(self, x: Tensor) -> None:
        embedding, ids = self._model.model.embed_tokens.weight, self.ids[: len(x)]
        if isinstance(embedding, Tensor):
            torch.index_select(embedding, 0, ids, out=x)
        else:
            x.copy_(embedding[ids].dequantize(self._dtype))

    def _transform(self, layer: DecoderLayer, gate_up: Weight, x: Tensor) -> None:
        """Add the MLP's output to the residual stream `x` `[T, hidden]`."""
        ops, tokens = self._backend, len(x)
        normed = self._normed[:tokens]
        ops.norm(x, layer.post_attention_layernorm.weight, self._config.rms_norm_eps, normed)
        both = self._part(self._wide, tokens, 2 * self._config.intermediate_size)
        self._multiply(normed, gate_up, both)
        hidden = self._part(self._narrow, tokens, self._config.intermediate_size)
        ops.swiglu(both, hidden)
        self._multiply(hidden, layer.mlp.down_proj.weight, x, add=True)

    def _mix(self, layer: DecoderLayer, memory: JetState | WindowKV | PagedKV, x: Tensor) -> None:
        normed, block = self._normed[: len(x)], layer.self_attn
        self._backend.norm(x, layer.input_layernorm.weight, self._config.rms_norm_eps, normed)
        if isinstance(memory, JetState):
            assert isinstance(block, JetBlock)
            self._mix_jet(block, memory, normed, x)
        else:
            assert isinstance(block, Attention)
            self._mix_attention(block, memory, normed, x)

    def _mix_jet(self, block: JetBlock, memory: JetState, normed: Tensor, x: Tensor) -> None:
        ops, sizes, tokens = self._backend, self._sizes, len(x)
        assert sizes is not None
        channels = sizes.num_heads * sizes.head_v_dim
        weight, _ = self._merged[block.layer_idx]
        projected = self._part(self._wide, tokens, sum(sizes.split_sizes))
        kernels = self._part(self._wide[projected.numel() :], sizes.conv_size * tokens, channels)
        kernels = kernels.view(sizes.conv_size, tokens, channels)
        self._multiply(normed, weight, projected)
        _, _, hidden, raw, gate, _, _ = projected.split(sizes.split_sizes, dim=1)
        out = self._part(self._narrow, tokens, channels)
        values = self._part(self._narrow[out.numel() :], tokens, channels)
        activated = self._part(self._narrow[2 * out.numel() :], tokens, sizes.generator_dim)
        generator = block.dynamic_conv1d.kernel_generator.w2
        ops.activate(hidden, activated)
        self._generate(activated, generator.weight, kernels)
        ops.convolve(raw, kernels, self._biases[block.layer_idx], self.chunk_meta, memory.conv, values)
        states = memory.conv, memory.recurrent
        ops.chunk_delta(projected, values, self._decays[block.layer_idx], self.chunk_meta, states, out, sizes)
        ops.gated_norm(out, gate, block.o_norm.weight, self._config.jet.norm_eps, values)
        self._multiply(values, block.o_proj.weight, x, add=True)

    def _mix_attention(self, block: Attention, memory: WindowKV | PagedKV, normed: Tensor, x: Tensor) -> None:
        ops, tokens = self._backend, len(x)
        weight, bias = self._merged[block.layer_idx]
        projected = self._part(self._wide, tokens, len(weight))
        self._multiply(normed, weight, projected, bias=bias)
        queries = self._part(self._narrow, tokens, block.q_proj.out_features)
        out = self._part(self._narrow[queries.numel() :], tokens, block.q_proj.out_features)
        given = projected, self._frequencies, self.chunk_meta
        if isinstance(memory, PagedKV):
            ops.attend_pages(*given, self._pool.page_table, memory.pages, queries, out)
        else:
            ops.attend_window(*given, memory.keys, memory.values, self._lane, queries, out)
        self._multiply(out, block.o_proj.weight, x, add=True)

    def _multiply(
        self, given: Tensor, weight: Weight, out: Tensor, bias: Tensor | None = None, add: bool = False
    ) -> None:
        """Compute `out = given @ weight.T + bias`; with `add`, compute `out += given @ weight.T`."""
        if isinstance(weight, QuantizedTensor):
            for begin, end in row_ranges((len(weight), weight.columns), MAX_DEQUANTIZED):
                numbers = self._dequantize(weight[begin:end])
                part = None if bias is None else bias[begin:end]
                self._multiply(given, numbers, out[:, begin:end], part, add)
        elif add:
            torch.addmm(out, given, weight.T, out=out)
        elif bias is None:
            torch.mm(given, weight.T, out=out)
        else:
            torch.addmm(bias, given, weight.T, out=out)

    def _generate(self, activated: Tensor, weight: Weight, kernels: Tensor) -> None:
        """Compute the convolution's kernels `[W, T, D]`, without bias, by one product for each of the W taps.

        In the weight, the taps of a channel are neighbors. Separate products write contiguous memory per tap.
        """
        if isinstance(weight, QuantizedTensor):
            weight = self._dequantize(weight)
        taps = weight.view(kernels.shape[2], len(kernels), -1).permute(1, 2, 0)
        torch.bmm(activated.expand(len(kernels), -1, -1), taps, out=kernels)

    def _dequantize(self, weight: QuantizedTensor) -> Tensor:
        """Dequantize into the shared buffer; valid until the next product."""
        if self._numbers is None or self._numbers.numel() < weight.numel():
            self._numbers = self._empty(weight.numel())
        return weight.dequantize(out=self._part(self._numbers, *weight.shape))

    def _part(self, buffer: Tensor, rows: int, columns: int) -> Tensor:
        """View the beginning of a buffer as a matrix."""
        return buffer[: rows * columns].view(rows, columns)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(*shape, dtype=self._dtype, device=self._device)
