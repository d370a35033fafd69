"""Test visitors' addresses behind proxies, and the grouping of addresses for limits."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jet.api import RequestError
from jet.server.hosting import user_id_of
from jet.server.limits import AdmissionLimiter, Limits
from tests.server.test_middleware import HOST, Call, make, post


def client_of(said: str, proxies: int = 1, peer: str = "192.0.2.7") -> str:
    call = Call(make(proxies=proxies), headers=[HOST, ("X-Forwarded-For", said)], client=peer).run()
    assert call.seen is not None
    return str(call.seen["client"][0])


@pytest.mark.parametrize(
    ("said", "client"),
    [
        ("203.0.113.9:52344", "203.0.113.9"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ('"[2001:db8::1]:443"', "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("[fe80::1%eth0]:80", "fe80::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("[::ffff:203.0.113.9]:1", "203.0.113.9"),
        ("64:ff9b::203.0.113.9", "203.0.113.9"),
        ("10.9.9.9, 203.0.113.9:1", "203.0.113.9"),
        ("evil, , 203.0.113.9:1", "203.0.113.9"),
        ("unknown", "192.0.2.7"),
        ("203.0.113.9:port", "192.0.2.7"),
        ("203.0.113.999:80", "192.0.2.7"),
        ("[203.0.113.9", "192.0.2.7"),
        ("_hidden", "192.0.2.7"),
    ],
)
def test_an_address_is_read_however_a_proxy_writes_it(said: str, client: str) -> None:
    assert client_of(said) == client


def test_several_hops_with_ports_are_counted_from_the_right() -> None:
    hops = "198.51.100.66:1, [2001:db8::9]:443, 10.0.0.1:80"
    assert client_of(hops, 1) == "10.0.0.1"
    assert client_of(hops, 2) == "2001:db8::9"
    assert client_of(hops, 3) == "198.51.100.66"
    assert client_of(hops, 4) == "192.0.2.7"


@given(st.ip_addresses(), st.integers(0, 65535))
def test_every_address_is_found_with_and_without_a_port(address: Any, port: int) -> None:
    found = client_of(str(address))
    with_port = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"
    assert client_of(with_port) == found
    if address.version == 4 or address.ipv4_mapped is None:
        assert ipaddress.ip_address(found).version in (4, address.version)


@given(st.text(st.characters(max_codepoint=255), max_size=40))
def test_garbage_is_never_a_client(said: str) -> None:
    found = client_of(said)
    assert found == "192.0.2.7" or ipaddress.ip_address(found)


def statuses(addresses: Sequence[str], path: str = "/login", **limits: int) -> list[int]:
    page = make(proxies=1, limits=Limits(**limits), clock=lambda: 0.0)
    return [post(page, path=path, headers=[("X-Forwarded-For", said)]).status for said in addresses]


def test_log_ins_from_one_line_are_counted_together_whatever_address_it_takes() -> None:
    one_line = [f"2001:db8:0:7:{number:x}::{number:x}" for number in range(30)]
    assert statuses(one_line, logins_per_minute=10).count(429) == 20
    others = [f"2001:db8:0:{number:x}::1" for number in range(30)]
    assert statuses(others, logins_per_minute=10).count(429) == 0


def test_visitors_behind_one_proxy_are_told_apart() -> None:
    assert (
        statuses([f"203.0.113.{number}:5{number}" for number in range(30)], logins_per_minute=1).count(429)
        == 0
    )
    assert statuses([f"203.0.113.9:{number}" for number in range(30)], logins_per_minute=10).count(429) == 20


@pytest.mark.parametrize(
    "same",
    [
        ["203.0.113.9", "::ffff:203.0.113.9", "203.0.113.9:80", "[::ffff:203.0.113.9]:80"],
        ["64:ff9b::203.0.113.9", "203.0.113.9", "64:ff9b::cb00:7109", "203.0.113.9:1"],
        ["2001:db8::1", "[2001:db8::2]:443", "2001:db8:0:0:ffff::", "2001:0DB8::3"],
    ],
    ids=["mapped", "translated", "network"],
)
def test_one_visitor_is_one_however_the_address_is_written(same: list[str]) -> None:
    assert statuses(same, logins_per_minute=3) == [200, 200, 200, 429]
    assert statuses(same, "/gradio_api/queue/join", calls_per_second=1) == [200] * 4
    assert 429 in statuses(same * 3, "/gradio_api/queue/join", calls_per_second=1)


def test_a_peer_that_is_written_as_ipv6_is_its_ipv4_address() -> None:
    page = make(limits=Limits(logins_per_minute=1), clock=lambda: 0.0)
    assert post(page, path="/login", client="::ffff:192.0.2.9").status == 200
    assert post(page, path="/login", client="192.0.2.9").status == 429
    assert post(page, path="/login", client="testclient").status == 200


def request(address: str, name: str | None = None) -> Any:
    return SimpleNamespace(username=name, client=SimpleNamespace(host=address))


def test_stories_of_one_line_are_counted_together() -> None:
    limiter = AdmissionLimiter(Limits(stories_per_user=2))
    with limiter.admit(user_id_of(request("2001:db8::1"))), limiter.admit(user_id_of(request("2001:db8::2"))):
        with (
            pytest.raises(RequestError, match="2 of your stories"),
            limiter.admit(user_id_of(request("2001:db8::3"))),
        ):
            pass
        with (
            limiter.admit(user_id_of(request("2001:db8:0:1::1"))),
            limiter.admit(user_id_of(request("203.0.113.9"))),
        ):
            assert limiter.active == 4
        with limiter.admit(user_id_of(request("2001:db8::3", "ann"))):
            assert limiter.active == 3, "an account is its own"
