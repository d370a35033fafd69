"""On CUDA: log-probabilities of prompts, biases and raw log-probabilities are those of the plain network."""

from __future__ import annotations

import pytest
import torch

from jet.api import Request, SamplingParams
from tests.engine.test_scoring import engine_on, run
from tests.networks import golden_model

pytestmark = pytest.mark.gpu

PROMPT = (5, 9, 9, 200, 17, 3, 44, 9, 120, 7, 8, 6, 31, 90, 9, 2, 77, 41, 5)
SAMPLING = SamplingParams(0, 1, 0, 0, 3.0, max_new_tokens=6, seed=0)


def test_scored_and_biased_requests_are_as_on_the_host() -> None:
    model = golden_model("tiny-2b", torch.bfloat16)
    on_device = type(model)(model.config).to(device="cuda", dtype=torch.bfloat16)
    on_device.load_state_dict(model.state_dict())
    engine, host = engine_on(on_device.eval().requires_grad_(False)), engine_on(golden_model("tiny-2b"))
    request = Request(
        "",
        SAMPLING,
        prompt_ids=PROMPT,
        prompt_logprobs=2,
        top_logprobs=2,
        logit_bias=((9, -3.0), (123, 2.0)),
        raw_logprobs=True,
    )
    try:
        found, wanted = run(engine, request), run(host, request)
        for one, other in zip(found.prompt_logprobs, wanted.prompt_logprobs, strict=True):
            assert one.sampled.logprob == pytest.approx(other.sampled.logprob, abs=0.05)
        with torch.inference_mode():
            ids = torch.tensor([(*PROMPT, *found.token_ids)], device="cuda")
            raw = torch.log_softmax(on_device(input_ids=ids).logits[0].float(), -1)
        for place, detail in enumerate(found.logprobs, start=len(PROMPT) - 1):
            assert detail.sampled.logprob == pytest.approx(
                float(raw[place, detail.sampled.token_id]), abs=0.05
            )
    finally:
        engine.close()
        host.close()
