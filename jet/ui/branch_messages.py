"""Format the messages about typed text that stays on another branch than the one in the editor."""

from __future__ import annotations

import re

from jet.story.document import Document
from jet.story.siblings import writer_text_missing_here
from jet.ui.format import branch_name

_SENTENCE = re.compile(r"[^.!?…。！？]*[.!?…。！？]+['\"’”»)\]]*|[^.!?…。！？]+\Z")


def describe_left_behind(document: Document, branch: int) -> list[str]:
    """Return a message that names the branch with typed text that the editor does not show.

    `branch`: the branch that the editor showed before. Returns an empty list if the editor has all typed
    text.
    """
    tree = document.tree
    text = writer_text_missing_here(tree, branch) if branch in tree.branches else ""
    if not text:
        return []
    sentences = [found for found in _SENTENCE.findall(text) if found.strip()]
    subject = "Your last sentence is" if len(sentences) < 2 else f"Your last {len(sentences)} sentences are"
    return [f"{subject} on “{branch_name(tree.branch(branch).name, tree.number(branch))}”."]
