"""What is said when words of the writer leave the sheet with the branch that they are on."""

from __future__ import annotations

import re

from jet.story.document import Document
from jet.story.siblings import writer_text_missing_here
from jet.ui.format import branch_name

_SENTENCE = re.compile(r"[^.!?…。！？]*[.!?…。！？]+['\"’”»)\]]*|[^.!?…。！？]+\Z")


def describe_left_behind(document: Document, branch: int) -> list[str]:
    """Where the writer's words are that stood on that branch and are not on the sheet; nothing if none."""
    tree = document.tree
    text = writer_text_missing_here(tree, branch) if branch in tree.branches else ""
    if not text:
        return []
    sentences = [found for found in _SENTENCE.findall(text) if found.strip()]
    subject = "Your last sentence is" if len(sentences) < 2 else f"Your last {len(sentences)} sentences are"
    return [f"{subject} on “{branch_name(tree.branch(branch).name, tree.number(branch))}”."]
