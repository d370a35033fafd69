"""Identify networks by their contents: a fingerprint of config, dtypes and all weights."""

from __future__ import annotations

import hashlib
import json

import torch
from torch import Tensor

from jet.modeling.model import JetNemotronForCausalLM

_NAMES = (
    "_name_or_path",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "architectures",
)  # not of its contents
_WORDS = 64  # 8-byte words that are added up before they are hashed


def fingerprint(model: JetNemotronForCausalLM) -> str:
    """Return a fingerprint of a network as loaded, before its weights are fused or put in blocks.

    Networks with equal fingerprints compute the same values; a collision is improbable. Every weight is read
    once.
    """
    config = {name: value for name, value in model.config.to_dict().items() if name not in _NAMES}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        for part in _sums(tensor.detach()):
            digest.update(part.cpu().numpy().tobytes())
    return digest.hexdigest()


def _sums(tensor: Tensor) -> list[Tensor]:
    """Return the sum of each 512 bytes, added as 8-byte integers, and the remaining bytes as they are."""
    data = tensor.contiguous().flatten().view(torch.uint8)
    whole = data.numel() // (8 * _WORDS) * 8 * _WORDS
    if data.storage_offset() % 8 or data.data_ptr() % 8:
        data = data.clone()
    return [data[:whole].view(torch.int64).view(-1, _WORDS).sum(1), data[whole:]]
