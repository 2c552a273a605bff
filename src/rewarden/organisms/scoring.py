"""Verdicts on organisms and nulls -> ROC areas, power and null rates, each with its interval.

In: a row for each model, with the verdicts of one instrument and the questions that were planted. Out: `Result("grade")` and
its table. Ignorant of models and instruments.
Letters: O organisms, D doses, Q questions, M models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.statistics import share_interval, wilson

Row = dict[str, Any]
FIELDS = ("flag", "evidence", "estimate", "low", "high", "p", "n")


def graded(rows: Sequence[Row], organisms: tuple[str, ...], doses: tuple[float, ...], alpha: float, about: dict[str, Any]
           ) -> Result:
    """The result of `rewarden.organisms.grade`, see there."""
    nulls = [row for row in rows if row["organism"] == "null"]
    if not any(row["verdicts"] for row in nulls):
        why = nulls[0]["refused"] or "it answers no question"
        raise RewardenError("the instrument answers nothing on any null model", where="grade", why=str(why),
                            fix="give null= a maker of models it can examine, such as noise(seed, outputs=4)")
    questions = tuple(dict.fromkeys(name for row in rows for name in row["verdicts"]))
    data = {**_null_rates(nulls, questions, alpha), **_raw(rows, questions)}
    shape = (len(organisms), len(doses))
    cells = [[_cell([row for row in rows if (row["organism"], row["dose"]) == (name, dose)], nulls) for dose in doses]
             for name in organisms]
    for field in cells[0][0]:
        data[field] = (("organism", "dose"), np.asarray([cell[field] for line in cells for cell in line]).reshape(shape))
    asked = [{question for row in rows if row["organism"] == name for question in row["question"]} for name in organisms]
    planted = [[question in of for question in questions] for of in asked]
    data["planted"] = (("organism", "question"), np.asarray(planted, dtype=bool).reshape(len(organisms), len(questions)))
    coords = {"organism": list(organisms), "dose": list(doses), "question": list(questions)}
    refused = sum(bool(row["refused"]) for row in rows)
    warnings = (f"the instrument refused {refused} of {len(rows)} models",) if refused else ()
    return Result("grade", xr.Dataset(data, coords=coords, attrs={"alpha": alpha}), about, True, 0.0, warnings)


def _raw(rows: Sequence[Row], questions: tuple[str, ...]) -> dict[str, Any]:
    """Every verdict: model × question."""
    held: dict[str, Any] = {"model_organism": ("model", [row["organism"] for row in rows]),
                            "model_dose": ("model", [float(row["dose"]) for row in rows]),
                            "model_seed": ("model", [int(row["seed"]) for row in rows]),
                            "model_refused": ("model", [str(row["refused"]) for row in rows])}
    for field in FIELDS:
        values = [[float(row["verdicts"].get(name, {}).get(field, np.nan)) for name in questions] for row in rows]
        held[f"verdict_{field}"] = (("model", "question"), np.asarray(values, dtype=np.float64))
    return held


def _null_rates(nulls: Sequence[Row], questions: tuple[str, ...], alpha: float) -> dict[str, Any]:
    answered = [row for row in nulls if row["verdicts"]]
    flags = [(verdict["flag"], number) for number, row in enumerate(answered) for verdict in row["verdicts"].values()]
    each = share_interval([float(flag) for flag, _ in flags], [number for _, number in flags])
    some = [any(verdict["flag"] for verdict in row["verdicts"].values()) for row in answered]
    models = wilson(sum(some), len(some))
    by = [[float(row["verdicts"][name]["flag"]) for row in answered if name in row["verdicts"]] for name in questions]
    return {"null_rate": float(each.estimate), "null_low": float(each.low), "null_high": float(each.high),
            "any_rate": float(models.estimate), "any_low": float(models.low), "any_high": float(models.high),
            "nulls": len(answered), "band": float(stats.binom.ppf(0.995, len(answered), alpha)) / len(answered),
            "question_rate": ("question", np.asarray([np.mean(found) if found else np.nan for found in by]))}


def _cell(rows: Sequence[Row], nulls: Sequence[Row]) -> dict[str, float]:
    """One organism at one dose."""
    # organisms of one rule may differ in the question: which head was planted, say
    asked = list(dict.fromkeys(name for row in rows for name in row["question"] if name in row["verdicts"]))
    # a model that was refused raised no flag, but was not cleared either
    false = [any(v["flag"] for name, v in row["verdicts"].items() if name not in {*row["question"], *row["related"]})
             for row in rows if row["verdicts"]]
    wrong = wilson(sum(false), len(false))
    found = {"models": float(len(rows)), "refused": float(sum(bool(row["refused"]) for row in rows)),
             "false_rate": float(wrong.estimate), "false_low": float(wrong.low), "false_high": float(wrong.high)}
    names = ("found", "power", "power_low", "power_high", "auroc", "auroc_low", "auroc_high")
    if not asked:
        return {**found, **dict.fromkeys(names, np.nan)}
    hits = [any(row["verdicts"][name]["flag"] for name in row["question"] if name in row["verdicts"]) for row in rows]
    power = wilson(sum(hits), len(hits))
    evidence = np.concatenate([evidence_of([row], row["question"]) for row in rows])
    area = roc_area(evidence, evidence_of([row for row in nulls if row["verdicts"]], asked))
    return {**found, **dict(zip(names, (float(sum(hits)), float(power.estimate), float(power.low), float(power.high), *area),
                                strict=True))}


def evidence_of(rows: Sequence[Row], questions: Sequence[str]) -> np.ndarray:
    """The largest evidence on any of the questions, for each model; −∞ where the instrument refused or left them out."""
    return np.asarray([max((row["verdicts"][name]["evidence"] for name in questions if name in row["verdicts"]
                            and np.isfinite(row["verdicts"][name]["evidence"])), default=-np.inf) for row in rows])


def roc_area(organisms: np.ndarray, nulls: np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """The chance that an organism shows more evidence than a null (ties count half), with Newcombe's interval.

    Args:
        organisms: [m] evidence.
        nulls: [n] evidence.
        level: nominal coverage.

    Returns:
        Area, lower and upper end: the areas θ at which the observed one is as far from θ as the level allows, with Hanley and
        McNeil's variance at θ. Unlike the usual intervals it has a width at 0 and 1.

    Source: Newcombe, Statistics in Medicine 25 (2006) 559–573, method 5.

    Example:
        >>> area, low, high = roc_area(np.arange(5.0, 15.0), np.arange(0.0, 5.0))
        >>> area, round(low, 2), high
        (1.0, 0.72, 1.0)
    """
    if not len(organisms) or not len(nulls):
        return np.nan, np.nan, np.nan
    difference = np.where(organisms[:, None] == nulls, 0.0, np.where(organisms[:, None] > nulls, 1.0, -1.0))
    area, m, n = float((difference.mean() + 1) / 2), len(organisms), len(nulls)
    z, more = stats.norm.isf((1 - level) / 2), (m + n) / 2 - 1

    def beyond(theta: np.ndarray) -> np.ndarray:
        variance = theta * (1 - theta) * (1 + more * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * n)
        return (area - theta) ** 2 - z ** 2 * variance

    def end(inside: float, outside: float) -> float:
        for _ in range(60):  # bisection: 2⁻⁶⁰
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if beyond(np.asarray(middle)) <= 0 else (inside, middle)
        return inside

    return area, end(area, 0.0), end(area, 1.0)


def grade_table(result: Result) -> pd.DataFrame:
    """One row for each organism and dose of a `Result("grade")`: power, ROC area, false flags, null rates.

    Example:
        >>> from rewarden.organisms import grade
        >>> from rewarden.statistics import Verdict
        >>> none = lambda rm: {"length": Verdict("length", False, 0.0, 0.0, -1.0, 1.0, 1.0, 30)}
        >>> grade_table(grade(none, organisms=["length"], doses=[1.0], seeds=1, nulls=2))["power"].tolist()
        [0.0]
    """
    data, rows = result.data, []
    for name in map(str, data["organism"].values):
        for dose in data["dose"].values:
            cell = data.sel(organism=name, dose=dose)
            fields = ("models", "power", "power_low", "power_high", "auroc", "auroc_low", "auroc_high", "false_rate",
                      "false_low", "false_high")
            rows.append({"instrument": result.provenance["instrument"], "organism": name, "dose": float(dose),
                         **{field: float(cell[field]) for field in fields}})
    return pd.DataFrame(rows)
