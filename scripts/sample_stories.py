"""Write uncurated samples into the model card: fixed beginnings, fixed seeds, one attempt each.

    python -m scripts.sample_stories --model assets/story-model --card assets/story-model/README.md

Replaces the text between the two `samples` comments of the card; without `--card` it prints.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

import jet  # noqa: F401  registers the network with transformers

BEGINNINGS = (
    "",
    "",
    "",
    "The old lighthouse keeper opened the door and",
    "Nobody in the village had ever seen a snow fox, until",
    "“Don't touch that,” said Mara. “It bites.”",
    "It was raining again when Tom found the key.",
    "My grandmother kept a whale in the bathtub.",
    "On the last day of summer, the two brothers",
    "The robot had been asleep for three hundred years when a sparrow landed on its hand.",
    "Dr. Amina Okoye counted the stars a second time.",
    "Once upon a time there was a king who could not laugh.",
    "There was once a poor woodcutter who had three daughters, and the youngest",
    "The letter had no stamp, no sender, and only four words:",
    "When the train stopped in the middle of the desert,",
    "The Clockmaker's Daughter\n\n",
    "The Dragon Who Was Afraid of the Dark\n\n",
    "A Map of Small Islands\n\n",
    "The Last Baker of Rue Verte\n\nChapter 1: Flour\n\n",
    "Leila and the Talking Camel\n\n",
)
TEMPERATURE, TOP_P, NEW_TOKENS = 0.8, 0.95, 320
SECTION = re.compile(r"(<!-- samples -->\n).*?(<!-- end of samples -->)", re.DOTALL)


@torch.inference_mode()
def write_on(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, beginning: str, seed: int
) -> tuple[str, bool]:
    """Continue a beginning; return the whole text, and True if the story came to its end."""
    ids = tokenizer.encode(beginning)  # prepends end-of-text, as in training
    torch.manual_seed(seed)
    generated: list[int] = model.generate(  # type: ignore[operator]  # transformers' mixin, untyped
        torch.tensor([ids], device=model.device),
        do_sample=True,
        temperature=TEMPERATURE,
        top_p=TOP_P,
        top_k=0,
        max_new_tokens=NEW_TOKENS,
    )[0].tolist()
    ended = len(generated) > len(ids) and generated[-1] == tokenizer.eos_token_id
    return str(tokenizer.decode(generated[1 : -1 if ended else None])), ended


def as_markdown(number: int, beginning: str, text: str, ended: bool) -> str:
    """Format a sample as a quotation, with the given beginning in bold."""
    story = text[len(beginning) :]
    given = (
        "\n\n".join(f"**{part}**" for part in beginning.strip().split("\n\n")) if beginning.strip() else ""
    )
    joint = "\n\n" if beginning.endswith("\n\n") else ""
    lines = f"{given}{joint}{story}{'' if ended else ' …'}".strip().split("\n")
    return f"{number}.\n" + "\n".join(f"> {line}".rstrip() for line in lines) + "\n"


def samples(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Yield a sample for every beginning; the seed is its index."""
    for seed, beginning in enumerate(tqdm(BEGINNINGS, unit="story")):
        text, ended = write_on(model, tokenizer, beginning, seed)
        yield as_markdown(seed + 1, beginning, text, ended)


def main(arguments: list[str] | None = None) -> None:
    """Sample, then print or write into the card."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="directory of the model")
    parser.add_argument("--card", type=Path, help="model card whose samples are replaced")
    options = parser.parse_args(arguments)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    settings = (
        f"Temperature {TEMPERATURE}, top-p {TOP_P}, seeds 0 to {len(BEGINNINGS) - 1}, one attempt each,"
    )
    text = (
        f"{settings} cut (…) after {NEW_TOKENS} tokens. "
        "Given text is bold; where none is, the model began by itself.\n\n"
        + "\n".join(samples(model, tokenizer))
    )
    if options.card is None:
        print(text)
        return
    card = options.card.read_text(encoding="utf-8")
    if not SECTION.search(card):
        raise SystemExit(f"{options.card} has no samples section.")
    options.card.write_text(SECTION.sub(lambda match: match[1] + text + match[2], card), encoding="utf-8")


if __name__ == "__main__":
    main()
