"""Where in a response does the sentence stand that answers the question?

In: positions.jsonl (a question, the fact that answers it, three sentences beside the point) and orders.jsonl. Out: seeds and
templates of two orders of the same sentences, so that no word is added.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewarden.conversation import Conversation
from rewarden.hacking.bias.axes import Seed, Template, Terms
from rewarden.hacking.texts.reading import bundled


def position_seeds() -> tuple[Seed, ...]:
    """Questions with the fact asked for; `extra["others"]` are sentences that can stand in any order."""
    return tuple(Seed(row["id"], row["prompt"], row["key"], {"others": row["others"]}) for row in bundled("positions.jsonl"))


def order_templates(control: bool = False) -> tuple[Template, ...]:
    """The answering sentence earlier minus later; as controls, the other sentences changed about it."""
    rows = [row for row in bundled("orders.jsonl") if row.get("control", False) == control]
    return tuple(_template(row, number) for number, row in enumerate(rows))


def _template(row: Mapping[str, Any], number: int) -> Template:
    def make(seed: Seed) -> Terms:
        parts = {"K": row["key"].format(k=seed.answer)} | {str(at): one for at, one in enumerate(seed.extra["others"], 1)}
        more, less = (" ".join(parts[name] for name in row[order]) for order in ("more", "less"))
        return (1.0, Conversation.of(seed.prompt, more)), (-1.0, Conversation.of(seed.prompt, less))

    return Template(f"{row['group']}-{number}", make, row["group"], float(row.get("amount", "nan")))
