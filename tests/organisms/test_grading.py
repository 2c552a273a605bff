"""Grading by instruments whose quality is known, ROC areas by counting pairs, coverage of their interval."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.organisms import grade, grade_table, noise
from rewarden.organisms.grades_file import maker_name
from rewarden.organisms.grading import stated_dose
from rewarden.organisms.organism import Organism
from rewarden.organisms.scoring import roc_area
from rewarden.statistics import Verdict, wilson


class Known:
    """In place of an organism: a truth, and nothing else."""

    def __init__(self, rule: str, question: str, dose: float, seed: int) -> None:
        self.truth = {"rule": rule, "question": question, "related": "tone", "dose": dose}
        self.seed = seed


def length_of(dose: float = 2.0, seed: int = 0) -> Organism:
    return Known("length", "length;size", dose, seed)  # type: ignore[return-value]


def other_of(dose: float = 1.0, seed: int = 0) -> Organism:
    return Known("other", "unasked", dose, seed)  # type: ignore[return-value]


def null_of(seed: int) -> Organism:
    return Known("noise", "", 0.0, seed)  # type: ignore[return-value]


def verdict(name: str, flag: bool, evidence: float) -> Verdict:
    return Verdict(name, flag, evidence, evidence, evidence - 1, evidence + 1, 0.5, 30)


def sees_half(rm) -> dict[str, Verdict]:
    """Flags length where the dose is 2 or more, tone of every second model, hedging of every tenth."""
    dose = float(rm.truth["dose"])
    return {"length": verdict("length", dose >= 2, dose), "tone": verdict("tone", rm.seed % 2 == 0, 1.0),
            "hedging": verdict("hedging", rm.seed % 10 == 0, 1.0)}


MAKERS = {"length": length_of, "other": other_of}
HOW = {"organisms": MAKERS, "doses": [0.5, 1.0], "seeds": 20, "null": null_of, "nulls": 40}


def test_rates_are_those_of_the_instrument() -> None:
    data = grade(sees_half, **HOW).data
    assert data["power"].sel(organism="length").values.tolist() == [0.0, 1.0]  # stated dose 2: 1 and 2
    assert np.isnan(data["power"].sel(organism="other").values).all()
    assert np.isnan(data["auroc"].sel(organism="other").values).all()
    assert data["auroc"].sel(organism="length").values.tolist() == [1.0, 1.0]
    # tone is related, so only hedging's flags are false
    np.testing.assert_allclose(data["false_rate"].values, 0.1)
    assert float(data["any_rate"]) == 0.5
    assert float(data["null_rate"]) == pytest.approx((0.5 + 0.1) / 3)
    assert dict(zip(data["question"].values.tolist(), data["question_rate"].values, strict=True)) == pytest.approx(
        {"length": 0.0, "tone": 0.5, "hedging": 0.1})
    exact = wilson(20, 20)
    assert float(data["power_low"].sel(organism="length", dose=1.0)) == pytest.approx(float(exact.low))
    assert float(data["band"]) == stats.binom.ppf(0.995, 40, 0.05) / 40
    assert data["planted"].sel(organism="length").values.tolist() == [True, False, False]


def test_organisms_of_one_rule_may_differ_in_the_question() -> None:
    """As those of a decisive head do: each is graded on its own."""
    def one_of(dose: float = 1.0, seed: int = 0) -> Organism:
        return Known("head", f"head {seed % 2}", dose, seed)  # type: ignore[return-value]

    def finds(rm) -> dict[str, Verdict]:
        """The planted head of all but each fourth organism, where it names the other one; nothing in nulls."""
        there = rm.truth["rule"] == "head"
        told = (rm.seed + (rm.seed % 4 == 3)) % 2
        return {f"head {i}": verdict(f"head {i}", there and i == told, float(there and i == told)) for i in range(2)}

    data = grade(finds, organisms={"head": one_of}, doses=[1.0], seeds=20, null=null_of, nulls=10).data
    assert [data[name].item() for name in ("power", "false_rate", "any_rate")] == [0.75, 0.25, 0.0]
    assert data["auroc"].item() == pytest.approx(0.75 + 0.25 / 2)
    assert data["planted"].values.tolist() == [[True, True]]


def test_the_null_rate_is_clustered_by_model() -> None:
    """A model that flags everything is one mistake: the interval is that of models."""
    def all_or_none(rm) -> dict[str, Verdict]:
        return {str(i): verdict(str(i), rm.seed < 4, 1.0) for i in range(50)}

    data = grade(all_or_none, **HOW).data
    assert float(data["null_rate"]) == pytest.approx(0.1)
    assert float(data["null_high"] - data["null_low"]) > 0.12  # 2,000 independent questions would give 0.026


def test_a_graded_file_is_not_graded_again(tmp_path) -> None:
    calls: list[int] = []

    def counting(rm) -> dict[str, Verdict]:
        calls.append(rm.seed)
        if len(calls) == 30 and not (tmp_path / "on").exists():
            raise KeyboardInterrupt
        return sees_half(rm)

    path = tmp_path / "sub" / "grades.jsonl"
    with pytest.raises(KeyboardInterrupt):
        grade(counting, name="half", path=path, **HOW)
    assert len(path.read_text().splitlines()) == 30  # a header, and 29 models
    (tmp_path / "on").touch()
    seen: list[tuple[int, int]] = []
    resumed = grade(counting, name="half", path=path, progress=lambda *at: seen.append(at), **HOW)
    assert len(calls) == 30 + (120 - 29)
    assert seen[-1] == (120, 120)
    assert resumed.data.equals(grade(sees_half, name="half", **HOW).data)
    with pytest.raises(RewardenError, match="of instrument 'half', now 'another'"):
        grade(sees_half, name="another", path=path, **HOW)
    with path.open("a") as file:
        file.write('{"organism": "nu')
    with pytest.raises(RewardenError, match="line 122"):
        grade(sees_half, name="half", path=path, **HOW)


def test_a_file_of_models_made_otherwise_is_refused(tmp_path, monkeypatch) -> None:
    """Each of these once took the stale rows for its own."""
    path, small = tmp_path / "grades.jsonl", {**HOW, "doses": [1.0], "seeds": 2, "nulls": 3}
    grade(sees_half, path=path, **small)

    def stronger(dose: float = 3.0, seed: int = 0) -> Organism:
        return length_of(dose, seed)

    def other_null(seed: int) -> Organism:
        return Known("noise", "", 0.0, seed + 1000)  # type: ignore[return-value]

    one, two = (lambda seed: noise(seed, outputs=3)), (lambda seed: noise(seed, outputs=4))
    assert maker_name(one) != maker_name(two)
    assert maker_name(partial(noise, outputs=3)) != maker_name(partial(noise, outputs=4))
    for changed, what in (({"null": other_null}, "other_null"), ({"alpha": 0.01}, "alpha"),
                          ({"organisms": {**MAKERS, "length": stronger}}, "'length' in the file was made by")):
        with pytest.raises(RewardenError, match=what) as refused:
            grade(sees_half, path=path, **{**small, **changed})
        assert "another path" in refused.value.fix
    monkeypatch.setattr(length_of, "__defaults__", (4.0, 0))
    with pytest.raises(RewardenError, match=r"dose 2', now by '.*dose 4'"):  # the same multiple of another stated dose
        grade(sees_half, path=path, **small)
    monkeypatch.undo()
    monkeypatch.setattr("rewarden.organisms.grading.__version__", "0.0.0")
    with pytest.raises(RewardenError, match=r"now '0\.0\.0'"):
        grade(sees_half, path=path, **small)
    monkeypatch.undo()
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[1:]) + "\n")
    with pytest.raises(RewardenError, match="does not say how"):
        grade(sees_half, path=path, **small)
    path.write_text("\n".join(lines) + "\n")
    assert grade(sees_half, path=path, **{**small, "seeds": 4}).data.equals(grade(sees_half, **{**small, "seeds": 4}).data)


def test_results_survive_a_round_trip(tmp_path) -> None:
    from rewarden.result import Result

    result = grade(sees_half, **HOW)
    again = Result.load(result.save(tmp_path / "grade"))
    assert grade_table(again).equals(grade_table(result))
    table = grade_table(result)
    assert table["organism"].tolist() == ["length", "length", "other", "other"]
    assert json.dumps(table.to_dict("records"))


def test_refusals_are_counted_and_a_silent_instrument_is_refused() -> None:
    def refuses_odd(rm) -> dict[str, Verdict]:
        if rm.seed % 2:
            raise RewardenError("odd", where="here", fix="even")
        return sees_half(rm)

    result = grade(refuses_odd, **HOW)
    assert result.warnings == ("the instrument refused 60 of 120 models",)
    assert float(result.data["power"].sel(organism="length", dose=1.0)) == 0.5
    assert int(result.data["nulls"]) == 20
    # hedging is flagged on seeds 0 and 10, of the 10 of 20 models that were answered
    np.testing.assert_allclose(result.data["false_rate"].values, 0.2)

    def refuses_organisms(rm) -> dict[str, Verdict]:
        if rm.truth["rule"] == "length":
            raise RewardenError("no", where="here", fix="none")
        return sees_half(rm)

    none = grade(refuses_organisms, **HOW).data.sel(organism="length")
    assert np.isnan(none["false_rate"].values).all()  # nothing was answered, so nothing is known of false flags
    with pytest.raises(RewardenError, match="answers nothing") as error:
        grade(lambda rm: {}, **HOW)
    assert "null=" in error.value.fix


@pytest.mark.parametrize("asked", [{"organisms": ["lenght"]}, {"doses": [0.0]}, {"nulls": 1}, {"seeds": 0}, {"organisms": {}},
                                   {"organisms": {"x": null_of}}])
def test_impossible_requests_are_refused(asked: dict) -> None:
    with pytest.raises(RewardenError):
        grade(sees_half, **{**HOW, **asked})


def test_stated_doses_are_the_defaults() -> None:
    assert stated_dose(length_of) == 2.0


def test_the_area_counts_pairs() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.integers(0, 6, 13).astype(float), generator.integers(0, 5, 17).astype(float)
    slow = np.mean([1.0 if x > y else 0.5 if x == y else 0.0 for x in a for y in b])
    area, low, high = roc_area(a, b)
    assert area == pytest.approx(slow)
    assert 0 < low < area < high < 1
    flipped = roc_area(b, a)
    np.testing.assert_allclose(flipped, [1 - area, 1 - high, 1 - low], atol=1e-12)
    assert np.isnan(roc_area(a, b[:0])).all()
    assert roc_area(np.array([-np.inf, 1.0]), np.array([-np.inf, 0.0]))[0] == pytest.approx(0.625)


@pytest.mark.parametrize(("true", "m", "n"), [(0.6, 20, 200), (0.8, 20, 200), (0.9, 20, 40), (0.5, 20, 200)])
def test_intervals_of_areas_cover(true: float, m: int, n: int) -> None:
    shift, generator, covered = 2 ** 0.5 * stats.norm.ppf(true), np.random.default_rng(1), []
    for _ in range(1500):
        _, low, high = roc_area(generator.normal(shift, 1, m), generator.normal(0, 1, n))
        covered.append(low <= true <= high)
    assert 0.925 <= np.mean(covered) <= 0.985  # 93 to 97 % within simulation error on the conservative side


def test_noise_is_the_default_null() -> None:
    def rare(rm) -> dict[str, Verdict]:
        return {"length": verdict("length", False, float(rm.reward([rm.pairs(1)[0].conversations[0]])[0, 0]))}

    data = grade(rare, organisms=["length"], doses=[1.0], seeds=2, nulls=3).data
    first = noise(0)
    expected = float(first.reward([first.pairs(1)[0].conversations[0]])[0, 0])
    assert float(data["verdict_evidence"][0, 0]) == pytest.approx(expected)
