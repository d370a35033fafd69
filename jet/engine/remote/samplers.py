"""Encode the samplers that only some servers support, as fields of a completion request."""

from __future__ import annotations

from jet.api import RequestError, SamplingParams

WITHOUT = {"sglang", "vllm"}  # servers that have none of these
# The setting by which a sampler is on, and those that belong to it; all named as in llama.cpp's server.
_GROUPS = (
    ("top_n_sigma", "top_n_sigma"),
    ("typical_p", "typical_p"),
    ("dynatemp_range", "dynatemp_range", "dynatemp_exponent"),
    ("mirostat", "mirostat", "mirostat_tau", "mirostat_eta"),
    ("adaptive_target", "adaptive_target", "adaptive_decay"),
)
_OFF = SamplingParams()


def further_samplers(sampling: SamplingParams, server: str) -> dict[str, object]:
    """Return the fields of samplers in use. Raises RequestError if the server is known to lack them."""
    fields: dict[str, object] = {}
    for switch, *names in _GROUPS:
        if getattr(sampling, switch) != getattr(_OFF, switch):
            fields |= {name: getattr(sampling, name) for name in names}
    if sampling.sampler_order:
        names = sampling.sampler_order.split(";")
        fields["samplers"] = ["typ_p" if name == "typical_p" else name for name in names]
    if fields and server in WITHOUT:
        raise RequestError(
            f"The engine is a server of {server}, which has no {next(iter(fields))}: please turn off top-nσ, "
            "typical, dynamic temperature, adaptive-p and mirostat, and name no order of samplers."
        )
    return fields
