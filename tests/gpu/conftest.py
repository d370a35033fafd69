"""Set up every test on a GPU, and make engines of the story model available."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch

if TYPE_CHECKING:
    from jet.engine.engine import LocalEngine


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """Turn TF32 off, as the tolerances assume."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)


def build() -> LocalEngine:
    from jet.engine.loading import LocalConfig  # not at import: there may be no Triton

    return LocalConfig(
        model="assets/story-model", device="cuda", dtype="float32", max_running_requests=8
    ).create()


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    """Yield an engine that decodes in CUDA graphs, all of which have been captured."""
    from jet.engine.cuda_graphs import CudaGraphDecoder

    engine = build()
    decoder = engine._runner._decoder
    assert isinstance(decoder, CudaGraphDecoder)
    while decoder.capture_next():
        pass
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def eager() -> Iterator[LocalEngine]:
    """Yield an engine that decodes in eager steps."""
    from jet.engine import model_runner
    from jet.engine.decoder import EagerDecoder

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_runner, "make_decoder", EagerDecoder)
        engine = build()
    assert isinstance(engine._runner._decoder, EagerDecoder)
    yield engine
    engine.close()
