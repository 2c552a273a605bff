"""What is asked of a model: the contrasts of each axis, and the innocuous ones they are held against.

In: names of axes, contrasts, or a JSONL of the user's. Out: `Question`s. Ignorant of models and of statistics.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rewarden.contrasts import Contrast, repeats
from rewarden.errors import RewardenError
from rewarden.hacking.bias.axes import Axis, Seed, Template, cross
from rewarden.hacking.texts import load_axes, load_controls, load_user_axes
from rewarden.options.bias import BiasOptions
from rewarden.preferences.files import file_format

Axes = str | os.PathLike[str] | Sequence[str] | Sequence[Contrast] | None
"""None (all bundled axes), names of bundled axes, a JSONL file, or contrasts of the user's own."""

MORE = 2
"""Times as many templates a seed meets where slopes are fitted, and among controls: they serve every axis."""

MOST_NAMED = 5
"""Repeated contrasts named in an error."""


@dataclass(frozen=True, eq=False)
class Question:
    """One axis, ready to be asked.

    Attributes:
        axis: what is asked.
        contrasts: its contrasts.
        amounts: float64, amount of each contrast, NaN where it has none.
        controls: contrasts of innocuous changes, banks in the order of `net_effect`: the axis's own first, where it has such.
        wordings: families of wording; rows of the user's without a template count one by one, those with the same responses as
            one.
    """

    axis: Axis
    contrasts: list[Contrast]
    amounts: np.ndarray
    controls: list[list[Contrast]] = field(default_factory=list)
    wordings: str = "templates"


def ask(axes: Axes, options: BiasOptions) -> list[Question]:
    """Questions of the bundled axes, or of the user's.

    Raises:
        RewardenError: an unknown axis, an unreadable file, texts given twice, or too few seeds or templates (all axes are
            listed).
    """
    own = _users(axes)
    if own is None:
        banks: dict[int, list[Contrast]] = {}  # axes with the same seeds share their bank
        found = [_bundled(axis, options, banks) for axis in _named(axes)]
    else:
        bank = _bank(_common_seeds(), options)
        found = [_of_rows(name, rows, bank) for name, rows in own.items()]
    _refuse_few(found, options)
    return found


def _users(axes: Axes) -> dict[str, list[Contrast]] | None:
    """The user's contrasts by axis; None where bundled axes are meant."""
    if axes is None:
        return None
    if isinstance(axes, str | os.PathLike):
        if isinstance(axes, str) and not file_format(Path(axes)):
            return None
        rows: Sequence[Contrast] = load_user_axes(axes)
    elif all(isinstance(one, Contrast) for one in axes):
        rows = list(axes)  # type: ignore[arg-type]  # all were looked at
    else:
        return None
    if not rows:
        raise RewardenError("no contrasts to ask with", where="axes=", fix="give at least one, or None for the bundled axes")
    if again := repeats(rows):
        shown = [f"contrast {number} has the texts of contrast {first}" for number, first in list(again.items())[:MOST_NAMED]]
        raise RewardenError(f"{len(again)} of {len(rows)} contrasts repeat others", where="axes=",
                            why="; ".join(shown) + (", and more" if len(again) > MOST_NAMED else ""),
                            fix="give each comparison once: a copy is no further evidence")
    by_axis: dict[str, list[Contrast]] = {}
    for row in rows:
        by_axis.setdefault(row.axis or "user", []).append(row)
    return by_axis


def _named(axes: Axes) -> list[Axis]:
    """Bundled axes by name, in the order of the bundle."""
    known = load_axes()
    if axes is None:
        return list(known.values())
    names = [name.strip() for name in axes.split(",")] if isinstance(axes, str) else [str(name) for name in axes]  # type: ignore
    strange = [name for name in names if name not in known]
    if strange or not names:
        raise RewardenError(f"no axis is called {', '.join(map(repr, strange))}" if strange else "no axis is asked for",
                            where="axes=", why=f"bundled axes: {', '.join(known)}",
                            fix="use some of these names, or a .jsonl file with your own")
    return [axis for name, axis in known.items() if name in names]


def _bundled(axis: Axis, options: BiasOptions, shared: dict[int, list[Contrast]]) -> Question:
    # all terms of an identity axis are scored for each seed anyway, since each is compared with the mean of all
    per_seed = {"mean": options.per_seed, "slope": MORE * options.per_seed, "spread": len(axis.templates)}[axis.design]
    made = cross(axis.name, axis.seeds, axis.templates, per_seed)
    banks = []
    if axis.controls:
        per_seed = len(axis.controls) if axis.design == "spread" else options.per_seed
        banks.append([one for one, _ in cross(f"{axis.name}: innocuous", axis.seeds, axis.controls, per_seed)])
    if axis.design == "mean":
        seeds = _common_seeds() if axis.controls else axis.seeds
        if id(seeds) not in shared:
            shared[id(seeds)] = _bank(seeds, options)
        banks.append(shared[id(seeds)])
    return Question(axis, [one for one, _ in made], np.array([template.amount for _, template in made]), banks)


def _common_seeds() -> Sequence[Seed]:
    """Those that most axes ask with."""
    return next(axis.seeds for axis in load_axes().values() if axis.design != "spread" and not axis.controls)


def _bank(seeds: Sequence[Seed], options: BiasOptions) -> list[Contrast]:
    """Innocuous changes of some seeds."""
    templates: Sequence[Template] = load_controls()
    return [one for one, _ in cross("innocuous", seeds, templates, MORE * options.per_seed)]


def _of_rows(name: str, rows: list[Contrast], bank: list[Contrast]) -> Question:
    """The user's own: without templates, each row is a wording of its own, but for rows with the same responses."""
    wordings = "templates" if all(row.template for row in rows) else "rows"
    worded: dict[tuple, str] = {}
    named = []
    for number, row in enumerate(rows):
        said = tuple((weight, text.response) for weight, text in row.terms)
        named.append(Contrast(row.terms, name, row.cluster, row.template or worded.setdefault(said, f"row {number}"),
                              row.id or f"{name}/{number}"))
    axis = Axis(name, f"Does the reward follow {name}?", (), ())
    return Question(axis, named, np.full(len(rows), np.nan), [bank], wordings)


def _refuse_few(questions: Sequence[Question], options: BiasOptions) -> None:
    """One error that lists every axis with too few independent seeds or wordings."""
    few = []
    told = "; rows without a seed are told apart by their prompts" if any(not one.axis.templates for one in questions) else ""
    for question in questions:
        seeds, templates = ({getattr(one, name) for one in question.contrasts} for name in ("seed", "template"))
        if len(seeds) < options.least_seeds:
            few.append(f"{question.axis.name} has {len(seeds)} seeds, {options.least_seeds} are needed")
        if len(templates) < options.least_templates:
            few.append(f"{question.axis.name} has {len(templates)} templates, {options.least_templates} are needed")
    if few:
        raise RewardenError("too few independent texts for a claim about a kind of change", where="bias_battery",
                            why="; ".join(few) + told, fix="add texts with content and wording of their own, or lower "
                            "least_seeds and least_templates knowingly")
