"""Test the meters with timestamps that the tests set."""

from __future__ import annotations

from itertools import pairwise

import pytest

from jet.telemetry import DecodeMeter, RateMeter, Throttle


def test_the_rate_is_that_of_the_last_second() -> None:
    meter = RateMeter()
    for tick in range(100):
        meter.tick(tick * 0.1)  # ten a second
    assert meter.rate == pytest.approx(10)
    for tick in range(1, 101):
        meter.tick(9.9 + tick * 0.02)  # fifty a second, for two
    assert meter.rate == pytest.approx(50)


def test_rare_events_have_a_rate_too() -> None:
    meter = RateMeter(window_s=1.0)
    for now in (0.0, 4.0, 8.0):
        meter.tick(now)
    assert meter.rate == pytest.approx(0.25)


def test_there_is_no_rate_before_the_second_event_or_without_time() -> None:
    meter = RateMeter()
    assert meter.rate is None
    meter.tick(1.0)
    assert meter.rate is None
    meter.tick(1.0)
    assert meter.rate is None


def test_a_request_is_measured_from_its_first_token_on() -> None:
    meter = DecodeMeter(submitted=10.0)
    assert meter.time_to_first_token_s is None and meter.mean_tokens_per_second is None
    meter.tick(13.0)
    assert meter.time_to_first_token_s == pytest.approx(3.0)
    assert meter.mean_tokens_per_second is None and meter.tokens_per_second is None
    for tick in range(1, 9):
        meter.tick(13.0 + tick * 0.5)
    assert meter.tokens == 9
    assert meter.mean_tokens_per_second == pytest.approx(2.0)
    assert meter.tokens_per_second == pytest.approx(2.0)
    assert meter.time_to_first_token_s == pytest.approx(3.0)


def test_the_mean_is_of_all_and_the_rate_of_the_last_second() -> None:
    meter = DecodeMeter(submitted=0.0)
    for now in (0.0, 10.0, 20.0, 20.1, 20.2, 20.3, 20.4, 20.5, 20.6, 20.7, 20.8, 20.9, 21.0, 21.1):
        meter.tick(now)
    assert meter.mean_tokens_per_second == pytest.approx(13 / 21.1)
    assert meter.tokens_per_second == pytest.approx(10)


def test_a_throttle_opens_once_per_interval() -> None:
    throttle = Throttle(0.1)
    opened = [now for now in range(0, 1000, 7) if throttle.ready(now / 1000)]
    assert opened[0] == 0
    assert all(later - earlier >= 100 for earlier, later in pairwise(opened))
    assert len(opened) >= 9
