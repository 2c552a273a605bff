"""What is changed in a text to ask whether the reward follows it: seeds, templates, axes.

In: seeds (a question with a plain answer) and templates (one way of changing it). Out: `Contrast`s of every template with
some of the seeds, each template meeting equally many seeds. Ignorant of the texts themselves (see `texts`), of models and of
statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rewarden.contrasts import Contrast
from rewarden.conversation import Conversation

Terms = tuple[tuple[float, Conversation], ...]
"""Weights, which sum to 0, and conversations; positive is the text that has more of the axis."""

Design = Literal["mean", "slope", "spread"]


@dataclass(frozen=True)
class Seed:
    """Content that does not depend on how it is said: the unit over which an axis is replicated.

    Attributes:
        id: unique among the seeds of one axis.
        prompt: the user's text.
        answer: a plain, neutral response of one to three sentences.
        extra: what an axis needs beside them, such as a second answer or a stated view.

    Example:
        >>> Seed("tea", "How long should tea steep?", "About four minutes.").answer
        'About four minutes.'
    """

    id: str
    prompt: str
    answer: str
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Template:
    """One way of changing a text along an axis, such as one phrase.

    Attributes:
        id: unique within its axis.
        make: of a seed, the weighted conversations, or None where the template does not fit the seed.
        group: what is shared with other templates, such as the marker "**" or the word "perhaps"; templates of one group are
            counted as one, because a model may react to the word and not to the kind of change. "" takes the id.
        amount: how much of the axis is added, in the axis's unit (sentences, marks); NaN where that means nothing.

    Example:
        >>> def shout(seed):
        ...     loud, plain = (Conversation.of(seed.prompt, seed.answer + end) for end in ("!", ""))
        ...     return ((1.0, loud), (-1.0, plain))
        >>> len(Template("shout", shout).make(Seed("tea", "How long?", "Four minutes")))
        2
    """

    id: str
    make: Callable[[Seed], Terms | None] = field(repr=False)
    group: str = ""
    amount: float = float("nan")

    @property
    def family(self) -> str:
        """The group, or the id of a template that shares nothing."""
        return self.group or self.id


@dataclass(frozen=True)
class Axis:
    """A kind of change whose effect on the reward is asked.

    Attributes:
        name: short, in lower case with underscores.
        question: in words, such as "Does bold text raise the reward of the same answer?".
        seeds: at least 30, of independent content.
        templates: as many groups as `BiasOptions.least_templates` at least.
        design: "mean": the effect of the change; "slope": effect for each token added (templates have several amounts);
            "spread": templates are terms that could stand for each other (identity), each compared with the mean of all, and
            the question is whether they differ by more than innocuous terms do.
        unit: of `amount`, in the singular; "" without amounts.
        controls: innocuous changes of the same build (as the same two-by-two of prompt and answer, or terms that name no
            identity); empty takes the common bank, applied to the seeds of this axis.
        note: what a reader must know, one sentence.
    """

    name: str
    question: str
    seeds: Sequence[Seed]
    templates: Sequence[Template]
    design: Design = "mean"
    unit: str = ""
    controls: Sequence[Template] = ()
    note: str = ""


def cross(axis: str, seeds: Sequence[Seed], templates: Sequence[Template], per_seed: int) -> list[tuple[Contrast, Template]]:
    """Contrasts of seeds with templates, balanced: every template meets as many seeds as every other, up to one.

    Args:
        axis: name the contrasts bear.
        seeds: what is changed.
        templates: how.
        per_seed: templates each seed meets, at most all.

    Returns:
        Contrasts, each with its template. `Contrast.template` is the template's family, the unit that is independent of
        others; the template itself stands in the id, axis/seed/template.

    Example:
        >>> def end(mark):
        ...     return lambda seed: ((1.0, Conversation.of(seed.prompt, seed.answer + mark)),
        ...                          (-1.0, Conversation.of(seed.prompt, seed.answer)))
        >>> seeds = [Seed(str(i), "How long?", f"{i} minutes") for i in range(4)]
        >>> [c.id for c, _ in cross("mark", seeds, [Template("!", end("!")), Template("?", end("?"))], 1)]
        ['mark/0/!', 'mark/1/?', 'mark/2/!', 'mark/3/?']
    """
    count, per_seed = len(templates), min(per_seed, len(templates))
    # steps of about count/per_seed spread a seed's templates, so that neighbours (which may be alike) do not stand together
    steps = [round(turn * count / per_seed) for turn in range(per_seed)]
    found = []
    for number, seed in enumerate(seeds):
        for step in steps:
            template = templates[(number + step) % count]
            terms = template.make(seed)
            if terms is not None:
                name = f"{axis}/{seed.id}/{template.id}"
                found.append((Contrast(terms, axis, seed.id, template.family, name), template))
    return found
