"""Turn story texts into a tokenizer, tokens, and stories with facts, all that `train_story_model.py` needs.

    python -m scripts.prepare_stories MODERN.xz CLASSICS.xz --output DIR

Each input holds UTF-8 documents separated by a line `<|endoftext|>` (plain or xz). Outputs:

- `tokenizer.json` and `tokenizer_config.json`, a byte-level BPE, lossless for any text;
- `modern.jsonl.xz` and `classics.jsonl.xz`: the stories to train on, with the people, facts, headings and
  stock phrases that rules found in them (`scripts/training/prepared.py`), and `stock-phrases.txt`;
- `SET.npz.xz`: tokens and document boundaries of both sets and their validation halves, for measuring and for
  `settle_voice.py`, and the validation texts as read.

The split is deterministic: the hash of a document decides its side, so adding or removing other documents
never moves it.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import lzma
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from scripts.training.headings import body_start
from scripts.training.prepared import prepare, write_prepared
from scripts.training.stock_phrases import PhraseFinder, find_phrases

END_OF_TEXT = "<|endoftext|>"
TALE = "<|tale|>"  # precedes classics and picture books, so that texts without it are modern
SEPARATOR = f"\n{END_OF_TEXT}\n"
SHORTEST_STORY = 200  # characters; shorter documents are title pages or fragments

# Pre-tokenizer: a word includes the space before it and either apostrophe; punctuation includes the line
# breaks after it, because sentences and paragraphs mostly end together; digits are single.
WORDS = Regex(
    r"['’](?:[sdmtSDMT]|ll|ve|re|LL|VE|RE)(?!\p{L})| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+\n*|\n+|\s+(?!\S)|\s+"
)

OPENING_REMARK = re.compile(r"\A(?:Sure|Certainly|Of course)[!,][^\n]*(?:here|story)[^\n]*\n+", re.IGNORECASE)
CLOSING_REMARK = re.compile(r"\n+\W*(?:(?:the )?end|\(?word count\b[^\n]*)\W*\Z", re.IGNORECASE)
# What some stories say about themselves at their end.
META = re.compile(
    r"\n\n(?:\(?(?:Note:|Feel free to|If you would like)[^\n]*|[^\n]*\blet me know\b[^\n”]*"
    r"|This (?:[\w’'-]+ ){0,4}(?:story|novel|tale|narrative|book)\b[^\n]*\b(?:captur|encapsulat|explor|"
    r"themes?\b|readers?\b|encourag|celebrat|emphasiz|highlight|reflects|showcas)[^\n]*)\Z"
)


def open_text(path: Path) -> str:
    """Read a plain or xz-compressed UTF-8 file."""
    raw = path.read_bytes()
    return (lzma.decompress(raw) if path.suffix == ".xz" else raw).decode("utf-8")


def read_documents(path: Path) -> list[str]:
    """Return the documents of a file, exactly as they stand between the separator lines."""
    return [document for document in open_text(path).split(SEPARATOR) if document.strip()]


def clean(document: str) -> str:
    """Remove what is not part of the story: remarks around it, and stray white space.

    Headings, quotes of either shape and old spelling stay, because users' texts have them, too.
    """
    text = document.replace("\r\n", "\n").replace("\r", "\n").replace("\u00a0", " ").strip()
    text = re.sub(r"[ \t]+\n", "\n", text)
    text = re.sub(r"\n{3,}", "\n\n", text)
    text = OPENING_REMARK.sub("", text)
    while CLOSING_REMARK.search(text) or META.search(text):
        text = META.sub("", CLOSING_REMARK.sub("", text))
    return text.strip()


def is_validation(document: str, one_in: int) -> bool:
    """Return True if a document is in the validation set: one in `one_in`, by the hash of its content."""
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") % one_in == 0


def train_tokenizer(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Train a byte-level BPE of `vocabulary` entries, all 256 bytes included.

    `<|endoftext|>` is id 0 and is prepended to every text, as in training; `<|tale|>` is id 1.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(WORDS, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT, TALE],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, directory: Path, context: int) -> None:
    """Write the two files that `AutoTokenizer.from_pretrained(directory)` reads."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "padding_side": "left",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def tokenize(tokenizer: Tokenizer, documents: list[str], raw: list[str]) -> dict[str, np.ndarray]:
    """Encode documents into one token stream.

    Returns `tokens` (uint16, no end-of-text inside), `starts` (int64, documents + 1 boundaries), `bodies`
    (int64, the token of each document that follows its title) and `bytes` (int64, UTF-8 length of each raw
    document).
    """
    tokenizer.encode_special_tokens = True  # an `<|endoftext|>` inside a text is text, not a boundary
    tokens, bodies, lengths = [], [], []
    for begin in range(0, len(documents), 512):
        batch = documents[begin : begin + 512]
        encodings = tokenizer.encode_batch(batch, add_special_tokens=False)
        for text, encoding in zip(batch, encodings, strict=True):
            character = body_start(text)
            first = next((i for i, (left, _) in enumerate(encoding.offsets) if left >= character), 0)
            tokens.append(np.array(encoding.ids, dtype=np.uint16))
            bodies.append(first)
            lengths.append(len(encoding.ids))
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return {
        "tokens": np.concatenate(tokens),
        "starts": starts,
        "bodies": starts[:-1] + np.array(bodies, dtype=np.int64),
        "bytes": np.array([len(document.encode()) for document in raw], dtype=np.int64),
    }


def write_compressed(arrays: dict[str, np.ndarray], path: Path) -> None:
    """Write the arrays as an .npz inside xz: a third of the raw size, and unpacked in seconds."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy types the keywords as one array
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "lc": 0, "lp": 1, "pb": 1}]  # two-byte symbols
    path.write_bytes(lzma.compress(buffer.getvalue(), filters=filters))


def tokenizer_texts(modern: list[str], classics: list[str]) -> Iterator[str]:
    """Yield the texts that the tokenizer is trained on: all modern stories and every second classic."""
    yield from modern
    yield from classics[::2]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modern", type=Path, help="modern stories, .txt or .txt.xz")
    parser.add_argument("classics", type=Path, help="classic tales, .txt or .txt.xz")
    parser.add_argument("--tokenizer", type=Path, help="directory for the tokenizer (default: --output)")
    parser.add_argument(
        "--output", type=Path, required=True, help="directory for tokens and validation texts"
    )
    parser.add_argument(
        "--vocabulary", type=int, default=8192, help="entries of the tokenizer (default: 8192)"
    )
    parser.add_argument(
        "--context", type=int, default=4096, help="longest text the model sees (default: 4096)"
    )
    parser.add_argument(
        "--hold-out", type=int, default=50, metavar="N", help="keep one story in N for validation"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Read, clean, split, fit the tokenizer, find facts and phrases, and write everything."""
    options = parse_arguments(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    directory = options.tokenizer or options.output
    raw: dict[str, list[str]] = {}
    for name, path in (("modern", options.modern), ("classics", options.classics)):
        documents = read_documents(path)
        kept = [document for document in documents if len(clean(document)) >= SHORTEST_STORY]
        raw[f"{name}_train"] = [d for d in kept if not is_validation(d, options.hold_out)]
        raw[f"{name}_validation"] = [d for d in documents if is_validation(d, options.hold_out)]
        (options.output / f"{name}-validation.txt").write_text(SEPARATOR.join(raw[f"{name}_validation"]))
    cleaned = {
        name: [clean(d) for d in documents] if name.endswith("_train") else documents
        for name, documents in raw.items()
    }
    modern, classics = cleaned["modern_train"], cleaned["classics_train"]
    tokenizer = train_tokenizer(tokenizer_texts(modern, classics), options.vocabulary)
    save_tokenizer(tokenizer, directory, options.context)
    for name, documents in cleaned.items():
        parts = tokenize(tokenizer, documents, raw[name])
        write_compressed(parts, options.output / f"{name}.npz.xz")
        size, count = int(parts["bytes"].sum()), len(parts["tokens"])
        print(
            f"{name}: {len(documents)} documents, {size / 1e6:.1f} MB, "
            f"{count} tokens, {size / count:.3f} bytes each"
        )
    phrases = find_phrases(modern, classics)
    (options.output / "stock-phrases.txt").write_text("".join(f"{phrase}\n" for phrase in phrases))
    finder = PhraseFinder(phrases)
    for name, prepared in (
        ("modern", (prepare(text, finder) for text in modern)),
        ("classics", (prepare(text, None) for text in classics)),
    ):
        path = options.output / f"{name}.jsonl.xz"
        write_prepared(prepared, path)
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    main()
