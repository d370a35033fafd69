"""Test the versions of a continuation."""

from __future__ import annotations

from jet.api import SamplingParams
from jet.story.document import Document
from jet.story.siblings import versions


def write(document: Document, text: str, retry: bool = False) -> int:
    start = document.retry if retry else document.start_continuation
    with start("a model", SamplingParams()) as continuation:
        continuation.append(text)
        continuation.finish("length")
    return document.current


def test_versions_are_walked_in_order_of_birth_also_from_further_on() -> None:
    document = Document.from_text("A")
    first = write(document, " one")
    assert versions(document.tree) is None
    second, third = write(document, " two", retry=True), write(document, " three", retry=True)
    found = versions(document.tree)
    assert found is not None and (found.branches, found.at) == ((first, second, third), 2)
    write(document, " and on")
    document.edit(document.text + ", I said.")
    found = versions(document.tree)
    assert found is not None and (found.branches, found.at) == ((first, second, third), 2)
    document.select_branch(second)
    found = versions(document.tree)
    assert found is not None and (found.branches, found.at) == ((first, second, third), 1)


def test_later_versions_come_before_earlier_ones() -> None:
    document = Document.from_text("A")
    write(document, " one")
    write(document, " two", retry=True)
    inner = write(document, " next")
    other = write(document, " else", retry=True)
    found = versions(document.tree)
    assert found is not None and (found.branches, found.at) == ((inner, other), 1)


def test_a_branch_of_the_writers_own_is_no_version() -> None:
    document = Document.from_text("A story")
    document.fork(1)
    document.edit("A tale")
    assert versions(document.tree) is None
