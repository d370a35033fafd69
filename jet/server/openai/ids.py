"""Random ids of requests and answers, and secret names, without a system call for each.

A system call releases the interpreter lock (GIL). The engine's thread may then hold the lock for
milliseconds.
"""

from __future__ import annotations

import hashlib
import itertools
import random
import secrets

_RANDOM = random.Random(secrets.randbits(256))
_KEY, _COUNT = secrets.token_bytes(32), itertools.count()


def random_id() -> str:
    """Return a random id of 24 hexadecimal digits. It is not secret."""
    return f"{_RANDOM.getrandbits(96):024x}"


def secret_name() -> str:
    """Return a name that cannot be guessed, even from all other names."""
    return hashlib.blake2b(next(_COUNT).to_bytes(8, "big"), key=_KEY, digest_size=32).hexdigest()
