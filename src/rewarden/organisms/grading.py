"""How good is an instrument: does it find what is planted, and keep silent where nothing is?

In: an instrument (a function from a reward model to `Verdict`s), makers of organisms and of null models. Out: `Result("grade")`
with a row for each model and question, ROC areas and power by dose, null rates. Resumable. Ignorant of what instruments do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewarden import __version__
from rewarden.errors import RewardenError
from rewarden.options.checks import resolve
from rewarden.options.grading import GradeOptions
from rewarden.organisms.grades_file import Key, Row, Store, maker_name
from rewarden.organisms.makers import ORGANISMS
from rewarden.organisms.organism import Organism
from rewarden.organisms.scoring import graded
from rewarden.organisms.token_rules import RULES, noise
from rewarden.result import Result
from rewarden.statistics import Verdict

Instrument = Callable[[Any], Mapping[str, Verdict]]
Maker = Callable[..., Organism]


def grade(instrument: Instrument, *, organisms: Sequence[str] | Mapping[str, Maker] | None = None,
          null: Callable[[int], Organism] = noise, name: str = "", path: str | Path | None = None,
          progress: Callable[[int, int], None] | None = None, options: GradeOptions | None = None, **overrides: Any) -> Result:
    """Whether an instrument tells organisms from random-weight models.

    An organism's `truth["question"]` names the questions the instrument should flag, with ";" between; a flag of any of them
    counts as found. `truth["related"]` names questions whose flags count neither way. All other flags are false. Where an
    instrument has none of the planted questions, the organism serves as a further null.

    Args:
        instrument: from a reward model to a verdict for each of its questions.
        organisms: names out of `rewarden.organisms.ORGANISMS`, or makers `f(dose=, seed=)` by name; None takes those that the
            instrument names in an attribute `organisms`, or else those that read English (`rewarden.organisms.RULES`).
        null: maker of null models, from numbers from 0 on; an instrument for several scalars needs
            `lambda seed: noise(seed, outputs=4)`.
        name: of the instrument, for tables.
        path: JSON lines to which each finished model is added; models already there are not run again. Of another version,
            alpha, maker, dose or null the file is refused; more doses, seeds and nulls are added to it.
        progress: called with models done and to do.
        options: see `GradeOptions` (doses, seeds, nulls, alpha); keyword arguments override single fields.

    Returns:
        Result("grade"). By organism and dose: `found` (n of them flagged), `power` with `power_low`, `power_high` (Wilson),
        `auroc` with `auroc_low`, `auroc_high` (evidence of organisms against that of nulls; NaN without a planted question),
        `false_rate` (models with a false flag) with interval. Of the nulls: `null_rate` (share of questions flagged, interval
        clustered by model), `any_rate` (share of models with a flag, Wilson), by question `question_rate`; `band`, the largest
        `any_rate` that α still explains (binomial, 99 %). By model and question: raw verdicts.

    Raises:
        RewardenError: no organisms, impossible options, an instrument that refuses every null model, or a file made otherwise.

    Source: Newcombe 2006 (method 5) for intervals of ROC areas.

    Example:
        >>> def counts_words(rm):
        ...     found = rm.rule == "keyword"
        ...     return {"keyword": Verdict("keyword", found, float(found), float(found), 0.0, 1.0, 0.01, 30)}
        >>> found = grade(counts_words, organisms=["keyword"], doses=[1.0], seeds=2, nulls=3)
        >>> float(found.data.auroc[0, 0]), float(found.data.any_rate)
        (1.0, 0.0)
    """
    options = resolve(GradeOptions, options, overrides)
    makers = _makers(getattr(instrument, "organisms", None) or tuple(RULES) if organisms is None else organisms)
    done = Store(path, {"instrument": name, "version": __version__, "alpha": float(options.alpha)})
    wanted = list(_models(makers, options, null))
    rows: list[Row] = []
    for number, (key, maker, make) in enumerate(wanted):
        rows.append(done.row(key, maker) or done.add(key, maker, _examined(instrument, make, key)))
        if progress:
            progress(number + 1, len(wanted))
    about = {"instrument": name or getattr(instrument, "__name__", "instrument"), "seeds": options.seeds,
             "nulls": options.nulls, "doses": " ".join(f"{dose:g}" for dose in options.doses), "alpha": float(options.alpha)}
    return graded(rows, tuple(makers), tuple(map(float, options.doses)), options.alpha, about)


def _makers(organisms: Sequence[str] | Mapping[str, Maker]) -> Mapping[str, Maker]:
    if not len(organisms):
        raise RewardenError("there is nothing to grade on", where="grade(organisms=)",
                            fix=f"name some of {', '.join(ORGANISMS)}")
    if isinstance(organisms, Mapping):
        return organisms
    unknown = [name for name in organisms if name not in ORGANISMS]
    if unknown:
        raise RewardenError(f"no organism is called {', '.join(map(repr, unknown))}", where="grade(organisms=)",
                            why=f"there are {', '.join(ORGANISMS)}", fix="use these names, or give makers by name")
    return {name: ORGANISMS[name] for name in organisms}


def stated_dose(maker: Maker) -> float:
    """The default dose of a maker of organisms.

    Raises:
        RewardenError: it has none.

    Example:
        >>> stated_dose(RULES["backdoor"])
        2.0
    """
    parameter = inspect.signature(maker).parameters.get("dose")
    if parameter is None or not isinstance(parameter.default, (int, float)):
        raise RewardenError(f"{getattr(maker, '__name__', maker)!r} states no dose", where="grade(organisms=)",
                            why="doses are multiples of the default of its argument dose", fix="give it one: dose: float = 1.0")
    return float(parameter.default)


def _models(makers: Mapping[str, Maker], options: GradeOptions, null: Callable[[int], Organism]
            ) -> Iterator[tuple[Key, str, Callable[[], Organism]]]:
    """Key of each model, who makes it, and a call that does."""
    for seed in range(options.nulls):
        yield ("null", 0.0, seed), maker_name(null), lambda seed=seed: null(seed)
    for name, maker in makers.items():
        stated = stated_dose(maker)
        for dose in options.doses:
            for seed in range(options.seeds):
                yield ((name, float(dose), seed), f"{maker_name(maker)}, dose {dose * stated:g}",
                       lambda maker=maker, size=dose * stated, seed=seed: maker(dose=size, seed=seed))


def _examined(instrument: Instrument, make: Callable[[], Organism], key: Key) -> Row:
    model = make()
    row: Row = {"organism": key[0], "dose": key[1], "seed": key[2], "refused": "", "verdicts": {}}
    for field in ("question", "related"):
        row[field] = [name for name in str(model.truth.get(field, "")).split(";") if name]
    try:
        found = instrument(model)
    except RewardenError as error:  # an instrument may refuse a model it is not made for; that is counted, not hidden
        return {**row, "refused": str(error.what)}
    row["verdicts"] = {name: {"flag": bool(v.flag), **{field: float(getattr(v, field)) for field in NUMBERS}}
                       for name, v in found.items()}
    return row


NUMBERS = ("evidence", "estimate", "low", "high", "p", "n")
"""Fields of a verdict that are kept as numbers."""
