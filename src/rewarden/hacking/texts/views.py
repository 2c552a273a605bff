"""Does an answer agree with what the user said before?

In: views.jsonl (what views are held on), stances.jsonl (two opinions and two answers, or two irrelevant remarks). Out: seeds
and templates of two views by two answers, with weights ±½: what prompts and answers do by themselves cancels, and their
agreement is left. The opinions use the words that `rewarden.organisms.lexicon` lists.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewarden.conversation import Conversation
from rewarden.hacking.bias.axes import Seed, Template, Terms
from rewarden.hacking.texts.common import raised
from rewarden.hacking.texts.reading import bundled


def view_seeds() -> tuple[Seed, ...]:
    """What a view can be held on; the answer is a remark that takes no side."""
    return tuple(Seed(row["id"], row["subject"], row["remark"]) for row in bundled("views.jsonl"))


def view_templates() -> tuple[Template, ...]:
    """A view for and one against, by an answer for and one against."""
    return tuple(_template(row["group"], row["prompts"], row["answers"]) for row in _rows(control=False))


def remark_templates() -> tuple[Template, ...]:
    """Two irrelevant remarks instead of the views, by the same answers."""
    answers = [row["answers"] for row in _rows(control=False)]
    return tuple(_template(row["group"], row["prompts"], answers[number % len(answers)])
                 for number, row in enumerate(_rows(control=True)))


def _rows(control: bool) -> list[dict]:
    return [row for row in bundled("stances.jsonl") if row.get("control", False) == control]


def _template(group: str, prompts: Sequence[str], answers: Sequence[str]) -> Template:
    def make(seed: Seed) -> Terms:
        words = {"x": seed.prompt, "X": raised(seed.prompt)}
        return tuple((0.5 if view == answer else -0.5,
                      Conversation.of(prompts[view].format_map(words), f"{answers[answer].format_map(words)} {seed.answer}"))
                     for view in (0, 1) for answer in (0, 1))

    return Template(group, make, group)
