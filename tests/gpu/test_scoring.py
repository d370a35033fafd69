"""Test on CUDA that prompt log-probabilities, biases and raw log-probabilities equal the plain network's."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from jet.api import Request, SamplingParams
from tests.engine.test_scoring import engine_on, run
from tests.networks import golden_model

pytestmark = pytest.mark.gpu

PROMPT = (5, 9, 9, 200, 17, 3, 44, 9, 120, 7, 8, 6, 31, 90, 9, 2, 77, 41, 5)
SAMPLING = SamplingParams(0, 1, 0, 0, 3.0, max_new_tokens=6, seed=0)
REQUEST = Request(
    "",
    SAMPLING,
    prompt_ids=PROMPT,
    prompt_logprobs=2,
    top_logprobs=2,
    logit_bias=((9, -3.0), (123, 2.0)),
    raw_logprobs=True,
)


# The golden network's random weights amplify bfloat16's rounding: its logits differ by 0.07 of their size.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.01), (torch.bfloat16, 0.4)])
def test_scored_and_biased_requests_are_as_in_the_forward(dtype: torch.dtype, tolerance: float) -> None:
    model = golden_model("tiny-2b", dtype)
    on_device = type(model)(model.config).to(device="cuda", dtype=dtype)
    on_device.load_state_dict(model.state_dict())
    engine = engine_on(on_device.eval().requires_grad_(False))
    try:
        found = run(engine, REQUEST)
    finally:
        engine.close()
    details = [*found.prompt_logprobs, *found.logprobs]
    assert [one.sampled.token_id for one in details] == [*PROMPT[1:], *found.token_ids]
    assert len(found.token_ids) == SAMPLING.max_new_tokens
    with torch.inference_mode():
        ids = torch.tensor([(*PROMPT, *found.token_ids)], device="cuda")
        raw = torch.log_softmax(on_device(input_ids=ids).logits[0].float(), -1)
    for place, detail in enumerate(details):
        expected = float(raw[place, detail.sampled.token_id])
        assert detail.sampled.logprob == pytest.approx(expected, abs=tolerance)


def test_scores_are_those_of_the_host() -> None:
    model = golden_model("tiny-2b")
    on_device = type(model)(model.config).to(device="cuda")
    on_device.load_state_dict(model.state_dict())
    engine, host = engine_on(on_device.eval().requires_grad_(False)), engine_on(model)
    request = replace(REQUEST, logit_bias=())
    try:
        found, wanted = run(engine, request), run(host, request)
    finally:
        engine.close()
        host.close()
    for one, other in zip(found.prompt_logprobs, wanted.prompt_logprobs, strict=True):
        assert one.sampled.logprob == pytest.approx(other.sampled.logprob, abs=0.01)
