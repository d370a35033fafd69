"""Jet-Nemotron as a transformers model."""

from transformers import AutoConfig, AutoModelForCausalLM

from jet.modeling.cache import HybridCache
from jet.modeling.checkpoint import CheckpointError
from jet.modeling.config import JetNemotronConfig
from jet.modeling.loading import load_model
from jet.modeling.model import JetNemotronForCausalLM, JetNemotronModel
from jet.modeling.quantizer import JetQuantizationConfig

AutoConfig.register(JetNemotronConfig.model_type, JetNemotronConfig, exist_ok=True)
AutoModelForCausalLM.register(JetNemotronConfig, JetNemotronForCausalLM, exist_ok=True)

__all__ = [
    "CheckpointError",
    "HybridCache",
    "JetNemotronConfig",
    "JetNemotronForCausalLM",
    "JetNemotronModel",
    "JetQuantizationConfig",
    "load_model",
]
