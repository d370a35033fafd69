"""Compare sampling with transformers' logits processors, and its random numbers with Random123's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from jet.ops.sampling import candidates, exclude_top_choices, penalize_repetition, philox, sample, uniform

VOCABULARY = 300
SAMPLES = 12_000
SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 2.5},
    {"temperature": 1.0, "top_k": 7},
    {"temperature": 1.0, "top_k": 299},
    {"temperature": 0.9, "top_p": 0.6},
    {"temperature": 1.5, "top_p": 0.97},
    {"temperature": 1.0, "min_p": 0.2},
    {"temperature": 1.3, "min_p": 0.01},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "min_p": 0.05},
    {"temperature": 0.8, "top_p": 0.95, "min_p": 0.05},
    {"temperature": 1.2, "top_k": 12, "top_p": 0.8},
]


def a_row(seed: int = 0, scale: float = 2.5) -> Tensor:
    return torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * scale


def expected(
    logits: Tensor, temperature: float, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> Tensor:
    """Return the distribution that transformers samples from."""
    processors = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k:
        processors.append(TopKLogitsWarper(top_k))
    if top_p < 1:
        processors.append(TopPLogitsWarper(top_p))
    if min_p:
        processors.append(MinPLogitsWarper(min_p))
    return processors(torch.zeros(1, 1, dtype=torch.long), logits).double().softmax(-1)[0]


def draw(logits: Tensor, seed: int, **setting: float) -> Tensor:
    uniforms = torch.tensor([uniform(seed, step) for step in range(SAMPLES)], dtype=torch.float64)
    return sample(logits.expand(SAMPLES, -1), uniforms, **setting)


def p_value(counts: Tensor, probabilities: Tensor) -> float:
    """Return the p-value of Pearson's chi-square test; rare categories (expected below 5) are pooled."""
    wanted = probabilities * counts.sum()
    rare = wanted < 5
    pairs = [(counts[~rare], wanted[~rare])]
    if wanted[rare].sum() > 0:
        pairs.append((counts[rare].sum()[None], wanted[rare].sum()[None]))
    observed, wanted = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    if len(wanted) == 1:
        return 1.0
    statistic = ((observed - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor((len(wanted) - 1) / 2).double(), statistic / 2))


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_samples_have_the_distribution_of_transformers(setting: dict[str, float]) -> None:
    logits = a_row()
    probabilities = expected(logits, **setting)
    counts = torch.bincount(draw(logits, seed=1234, **setting), minlength=VOCABULARY).double()
    assert counts[probabilities == 0].sum() == 0
    assert p_value(counts, probabilities) > 1e-3


def test_the_chi_square_test_would_notice_a_wrong_distribution() -> None:
    logits = a_row()
    counts = torch.bincount(draw(logits, seed=1234, temperature=1.0), minlength=VOCABULARY).double()
    assert p_value(counts, expected(logits, temperature=1.1)) < 1e-3


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("scale", [0.01, 1.0, 8.0])
def test_the_same_tokens_are_kept_as_in_transformers(setting: dict[str, float], scale: float) -> None:
    logits = torch.cat([a_row(seed, scale) for seed in range(8)])
    ids, weights = candidates(logits - logits.amax(-1, keepdim=True), **setting)
    ours = torch.zeros(logits.shape, dtype=torch.float64).scatter(
        1, ids, weights / weights.sum(-1, keepdim=True)
    )
    for row, probabilities in enumerate(ours):
        wanted = expected(logits[row : row + 1], **setting)
        assert torch.equal(probabilities > 0, wanted > 0)
        torch.testing.assert_close(probabilities, wanted, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("penalty", [1.0, 1.05, 1.3, 5.0, 0.5])
def test_the_repetition_penalty_is_that_of_transformers(penalty: float) -> None:
    logits, story = a_row(), torch.tensor([[3, 7, 7, 250, 0]])
    seen = torch.zeros(1, VOCABULARY, dtype=torch.bool)
    seen[0, story[0]] = True
    wanted = RepetitionPenaltyLogitsProcessor(penalty)(story, logits.clone())
    torch.testing.assert_close(penalize_repetition(logits, seen, penalty), wanted)


def test_temperature_zero_takes_the_likeliest_whatever_the_chance() -> None:
    logits = torch.cat([a_row(seed) for seed in range(5)])
    for chance in (0.0, 0.5, 1 - 2**-53):
        uniforms = torch.full((5,), chance, dtype=torch.float64)
        chosen = sample(logits, uniforms, temperature=0, top_k=3, top_p=0.1, min_p=0.9)
        assert torch.equal(chosen, logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-300, 5e-324])
def test_a_tiny_temperature_is_almost_greedy_and_no_overflow(temperature: float) -> None:
    logits = a_row()
    assert torch.equal(
        sample(logits, torch.tensor([0.999], dtype=torch.float64), temperature=temperature), logits.argmax(-1)
    )


@pytest.mark.parametrize(
    "setting", [{"top_k": VOCABULARY + 5}, {"top_k": 1_000_000}, {"top_k": VOCABULARY}, {}], ids=str
)
def test_a_top_k_beyond_the_vocabulary_keeps_everything(setting: dict[str, int]) -> None:
    logits = a_row()
    ids, weights = candidates(logits - logits.max(), temperature=1.0, **setting)
    assert ids.shape == (1, VOCABULARY) and bool((weights > 0).all())


@pytest.mark.parametrize(
    "setting", [{"top_p": 1e-9}, {"top_p": 5e-324}, {"min_p": 1.0}, {"top_k": 1}], ids=str
)
def test_the_tightest_filters_leave_the_likeliest(setting: dict[str, float]) -> None:
    logits = a_row()
    for chance in (0.0, 0.5, 1 - 2**-53):
        chosen = sample(logits, torch.tensor([chance], dtype=torch.float64), temperature=5.0, **setting)
        assert torch.equal(chosen, logits.argmax(-1))


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("chance", [0.0, 0.7, 1 - 2**-53])
def test_one_possible_token_is_taken(setting: dict[str, float], chance: float) -> None:
    logits = torch.full((1, VOCABULARY), -math.inf)
    logits[0, 123] = -4.0
    assert sample(logits, torch.tensor([chance], dtype=torch.float64), **setting).tolist() == [123]


def test_impossible_tokens_are_never_taken() -> None:
    logits = torch.full((1, VOCABULARY), -math.inf)
    logits[0, :3] = torch.tensor([0.0, -1.0, -800.0])  # the third underflows
    for chance in (0.0, 0.5, 0.99, 1 - 2**-53):
        assert sample(logits, torch.tensor([chance], dtype=torch.float64), temperature=1.0).item() in (0, 1)


def test_equal_logits_at_the_edge_of_top_k_are_all_kept() -> None:
    logits = torch.tensor([[3.0, 2.0, 2.0, 2.0, 1.0]])
    _, weights = candidates(logits - 3, temperature=1.0, top_k=2)
    assert int((weights > 0).sum()) == 4


def test_rows_do_not_touch_each_other() -> None:
    logits = torch.cat([a_row(seed, scale) for seed, scale in enumerate([0.1, 1.0, 3.0, 9.0])])
    uniforms = torch.tensor([uniform(5, step) for step in range(4)], dtype=torch.float64)
    setting = {"temperature": 0.9, "top_k": 50, "top_p": 0.9, "min_p": 0.02}
    together = sample(logits, uniforms, **setting)
    alone = [sample(logits[row : row + 1], uniforms[row : row + 1], **setting).item() for row in range(4)]
    assert together.tolist() == alone


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_sampled_in_float32(dtype: torch.dtype) -> None:
    logits, chance = a_row().to(dtype), torch.tensor([0.4], dtype=torch.float64)
    assert sample(logits, chance, temperature=0.7).equal(sample(logits.float(), chance, temperature=0.7))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [[math.nan, 1.0], [math.inf, 1.0], [-math.inf, -math.inf]])
def test_logits_that_are_no_numbers_are_refused(temperature: float, bad: list[float]) -> None:
    logits = torch.cat([a_row()[:, :2], torch.tensor([bad])])
    with pytest.raises(FloatingPointError, match="not a number"):
        sample(logits, torch.tensor([0.5, 0.5], dtype=torch.float64), temperature=temperature)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [  # the known answers of Random123 (kat_vectors), philox4x32-10
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(
    counter: tuple[int, int, int, int], key: tuple[int, int], words: tuple[int, int, int, int]
) -> None:
    assert philox(counter, key) == words


def test_uniforms_are_uniform_and_depend_on_seed_and_step() -> None:
    drawn = [uniform(seed, step) for seed in (0, 1, 2**63 - 1) for step in range(4000)]
    numbers = torch.tensor(drawn, dtype=torch.float64)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert len(numbers.unique()) == 12_000
    counts = torch.histc(numbers, bins=100, min=0, max=1).double()
    assert p_value(counts, torch.full((100,), 0.01).double()) > 1e-3
    assert uniform(7, 2**32) != uniform(7, 0) and uniform(2**32, 5) != uniform(0, 5)


def test_no_global_state_is_read_or_changed() -> None:
    logits = a_row()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = draw(logits, seed=3, temperature=1.0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(draw(logits, seed=3, temperature=1.0), first)
    assert not torch.equal(draw(logits, seed=4, temperature=1.0), first)


def test_a_token_owns_its_interval_up_to_but_without_the_end() -> None:
    logits = torch.zeros(1, 4)
    order = candidates(logits, temperature=1.0)[0][0].tolist()
    edges = [0.0, 0.25, 0.5, 0.75]
    chosen = [
        sample(logits, torch.tensor([edge], dtype=torch.float64), temperature=1.0).item() for edge in edges
    ]
    assert chosen == order


# --- XTC -------------------------------------------------------------------------------------------------


def test_of_the_likely_tokens_only_the_least_likely_stays() -> None:
    weights = torch.tensor([[1.0, 0.5, 0.4, 0.1], [1.0, 0.02, 0.01, 0.0], [1.0, 1.0, 1.0, 1.0]]).double()
    expected = torch.tensor([[0.0, 0.0, 0.4, 0.1], [1.0, 0.02, 0.01, 0.0], [0.0, 0.0, 0.0, 1.0]]).double()
    assert torch.equal(exclude_top_choices(weights, 0.1), expected)


def test_a_row_that_would_lose_a_spared_token_loses_none() -> None:
    weights = torch.tensor([[1.0, 0.9, 0.8], [1.0, 0.9, 0.8]]).double()
    special = torch.tensor([[False, True, False], [False, False, True]])
    assert torch.equal(
        exclude_top_choices(weights, 0.1, special), torch.tensor([[1.0, 0.9, 0.8], [0.0, 0.0, 0.8]]).double()
    )


def test_what_is_excluded_is_not_drawn() -> None:
    logits = torch.tensor([2.0, 1.5, 1.0, -3.0]).expand(400, -1)
    chances = torch.rand(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = sample(logits, chances, temperature=1.0, xtc_threshold=0.1)
    assert set(drawn.tolist()) == {2, 3}
    special = torch.tensor([True, False, False, False])
    drawn = sample(logits, chances, temperature=1.0, xtc_threshold=0.1, xtc_special=special)
    assert {0, 1, 2} <= set(drawn.tolist())


def test_streams_of_random_numbers_are_different() -> None:
    assert len({uniform(1, 2, stream) for stream in range(4)}) == 4
