"""Small tokenizers of every kind, trained on the spot."""

from __future__ import annotations

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
TURN_END = "<|im_end|>"
TEXT = [
    "The old lighthouse keeper opened the door and the sea came in.",
    "Once upon a time, in a village by the sea, there lived an old man and an old woman.",
    "“Who is there?” asked the keeper; nobody answered, and the night went on. Café, naïve, Ærø.",
]


def byte_level(normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    """Return a tokenizer like those of Qwen and the story model.

    It has at most 384 tokens, of which `<|endoftext|>` is 0. Two of the added tokens are not special.
    """
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    words = Regex(r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=370,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    tokenizer.add_special_tokens([AddedToken(TURN_END, special=True)])
    tokenizer.add_tokens([AddedToken("<note>", special=False), AddedToken("→日本", special=False)])
    return tokenizer


def sentencepiece() -> Tokenizer:
    """Return a tokenizer like Llama 2's.

    Spaces are ▁ and unknown characters are byte tokens. Decoding drops one leading space.
    """
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2}
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    for piece in (
        "▁",
        "t",
        "h",
        "e",
        "o",
        "l",
        "d",
        "s",
        "a",
        "th",
        "▁th",
        "▁the",
        "▁o",
        "ld",
        "▁old",
        "é",
        ".",
        "n",
    ):
        vocabulary[piece] = len(vocabulary)
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e"), ("▁", "o"), ("l", "d"), ("▁o", "ld")]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return tokenizer


def metaspace() -> Tokenizer:
    """Return a tokenizer like T5's: words begin with ▁, unknown characters are lost."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=150, special_tokens=["<unk>", END], show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return tokenizer


def nested_byte_level() -> Tokenizer:
    """Return a byte-level tokenizer whose decoder is nested, so that its kind cannot be recognized."""
    tokenizer = byte_level()
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel()])
    return tokenizer


KINDS = {
    "byte_level": byte_level(),
    "sentencepiece": sentencepiece(),
    "metaspace": metaspace(),
    "nested_byte_level": nested_byte_level(),
}


def as_transformers(tokenizer: Tokenizer, **settings: object) -> PreTrainedTokenizerFast:
    """Return a copy as a tokenizer of transformers, with `<|endoftext|>` as its end token."""
    copy = Tokenizer.from_str(tokenizer.to_str())
    return PreTrainedTokenizerFast(tokenizer_object=copy, eos_token=END, **settings)
