from __future__ import annotations

from hypothesis import given

from jet.affixes import common_prefix, common_suffix
from tests.story.factory import texts


@given(texts, texts)
def test_common_ends(a: str, b: str) -> None:
    def plainly(a: str, b: str) -> int:
        same = 0
        while same < min(len(a), len(b)) and a[same] == b[same]:
            same += 1
        return same

    assert common_prefix(a, b) == plainly(a, b)
    assert common_suffix(a, b) == plainly(a[::-1], b[::-1])
