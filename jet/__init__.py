"""Jet Stories: write stories with NVIDIA's Jet-Nemotron, fast, anywhere.

Importing this package registers the network with transformers, so that `AutoConfig` and
`AutoModelForCausalLM` read official checkpoints without `trust_remote_code`.
"""

from jet.cache_dirs import ensure_torch_folder

ensure_torch_folder()  # before torch is imported

import torch  # noqa: E402, F401 (completely, before some imports are deferred)

from jet.lazy_imports import deferred_here  # noqa: E402

with deferred_here():
    from jet.modeling import (
        CheckpointError,
        HybridCache,
        JetNemotronConfig,
        JetNemotronForCausalLM,
        load_model,
    )
from jet.version import __version__  # noqa: E402

__all__ = [
    "CheckpointError",
    "HybridCache",
    "JetNemotronConfig",
    "JetNemotronForCausalLM",
    "__version__",
    "load_model",
]
