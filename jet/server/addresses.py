"""Parse network addresses from proxy headers, and reduce them to keys for rate limits."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

_WITH_PORT = re.compile(r"(\d+\.\d+\.\d+\.\d+):\d{1,5}|\[([0-9A-Fa-f:.]+(?:%[\w.-]+)?)\](?::\d{1,5})?")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address in its last 32 bits
_IPV6_PREFIX_BITS = 64  # bits of an IPv6 address that one line has; the others are its owner's to choose


def parse_address(text: str) -> str | None:
    """Parse one entry of X-Forwarded-For into a plain address; None if it is not an address.

    Accepts a port, brackets, quotes, a zone, and IPv4 mapped into IPv6.
    """
    text = text.strip().strip('"').strip()
    if (found := _WITH_PORT.fullmatch(text)) is not None:
        text = found[1] or found[2]
    address = _parse(text)
    return None if address is None else str(address)


def rate_limit_key(client: str) -> str:
    """Return the key under which limits count a client: its IPv4 address, or the /64 network of its IPv6 one.

    Returns text that is not an address unchanged.
    """
    address = _parse(client)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((address, _IPV6_PREFIX_BITS), strict=False))
    return client if address is None else str(address)


@lru_cache(maxsize=4096)  # the same few addresses come with every call
def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address
