"""The search finds what brute force finds, and its certificates are true."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from tests.tokens.small import PROMPT, SIZE, every_pair, neighbours, small

import rewarden as rw
from rewarden.errors import RewardenError
from rewarden.result import Result
from rewarden.tokens import score_vocabulary
from rewarden.tokens.search import Constraints, Found, search
from rewarden.tokens.search.objective import Objective, make_objective
from rewarden.tokens.slot import find_slot

SMALL = {"restarts": 10, "steps": 20, "width": 48, "top_k": 32, "patience": 8}
QUICK = {"restarts": 2, "steps": 4, "width": 16, "top_k": 8}


@pytest.mark.slow
def test_of_forty_thousand_responses_the_best_is_found_and_every_end_point_is_a_true_optimum() -> None:
    found = 0
    for seed in range(12):
        direction, sign = ("max", 1) if seed % 2 == 0 else ("min", -1)
        table = sign * every_pair(small(seed))
        result = search(small(seed), PROMPT, 2, direction, seed=seed, **SMALL)  # type: ignore[arg-type]
        assert result.data["certified"].values.all()
        for ids, objective in zip(result.data["ids"].values.tolist(), result.data["objective"].values, strict=True):
            assert sign * objective == pytest.approx(table[tuple(ids)], abs=1e-5)
            assert neighbours(table, ids).max() <= sign * objective + result.noise_floor + 1e-5
        assert sign * result.reward == (sign * result.data["objective"].values).max()
        found += int(sign * result.reward >= table.max() - 1e-5)
    assert found >= 0.8 * 12


@pytest.mark.parametrize("direction", ["max", "min"])
def test_one_token_is_the_end_of_the_scan(direction: str) -> None:
    rm = small(1)
    scan = score_vocabulary(rm, PROMPT)
    expected = (scan.top(1) if direction == "max" else scan.bottom(1)).iloc[0]
    for options in ({"steps": 0}, {"steps": 10, "width": 8}):
        found = search(rm, PROMPT, 1, direction, restarts=1, **options)  # type: ignore[arg-type]
        assert found.ids == [expected["token_id"]]
        assert found.reward == pytest.approx(expected["reward"], abs=1e-5)
        assert found.certified


def test_no_response_is_evaluated_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    plain, at = Objective.exchanged, Objective.at

    def exchanged(self, ids, positions, others, progress=None):
        for position, other in zip(positions, others, strict=True):
            row = np.asarray(ids).copy()
            row[position] = other
            seen.append(tuple(row.tolist()))
        return plain(self, ids, positions, others, progress)

    def started(self, ids):
        seen.append(tuple(np.asarray(ids).tolist()))
        return at(self, ids)

    monkeypatch.setattr(Objective, "exchanged", exchanged)
    monkeypatch.setattr(Objective, "at", started)
    found = search(small(3), PROMPT, 2, **SMALL)  # type: ignore[arg-type]
    assert len(seen) == len(set(seen)) == found.data["evaluations"].values.sum()
    assert len(seen) > 2000


def test_rewards_are_those_of_whole_forwards_and_paths_lead_to_them() -> None:
    rm = small(2)
    found = search(rm, PROMPT, 3, "min", **QUICK)  # type: ignore[arg-type]
    slot = find_slot(rm, PROMPT)
    alone = rm.reward_encoded([slot.filled(ids) for ids in found.data["ids"].values])[:, 0]
    np.testing.assert_array_equal(found.data["rewards"].values[:, 0, 0], alone)
    assert found.reward == alone.min()
    assert found.response == rm.tokenizer.decode(found.ids)
    for path, start, end, evaluated in zip(*(found.data[name].values for name in ("path", "start", "objective", "evaluated")),
                                           strict=True):
        kept = path[np.isfinite(path)]
        assert kept[0] == start
        assert kept[-1] == pytest.approx(end, abs=1e-5)
        assert (np.diff(kept) <= 0).all()  # the best so far; smaller is better here
        assert (np.diff(evaluated) >= 0).all()
    assert found.table()["objective"].tolist() == sorted(found.data["objective"].values)
    assert found.data["evaluated"].values[:, -1].tolist() == found.data["evaluations"].values.tolist()


def test_the_seed_decides_everything() -> None:
    runs = [search(small(4), PROMPT, 3, seed=seed, **QUICK) for seed in (5, 5, 6)]  # type: ignore[arg-type]
    xr.testing.assert_identical(runs[0].data, runs[1].data)
    assert runs[0].data["start"].values.tolist() != runs[2].data["start"].values.tolist()


def test_without_exact_scans_there_is_no_certificate() -> None:
    none = search(small(5), PROMPT, 3, polish="none", **QUICK)  # type: ignore[arg-type]
    assert not none.data["certified"].values.any()
    assert none.data["scans"].values.tolist() == [0, 0]
    assert not none.warnings
    best = search(small(5), PROMPT, 3, polish="best", **QUICK)  # type: ignore[arg-type]
    assert best.data["certified"].values.tolist().count(True) == 1
    assert best.certified
    assert best.objective >= none.objective
    short = search(small(5), PROMPT, 3, restarts=1, steps=0, sweeps=1)
    assert not short.certified
    assert "no certificate" in short.warnings[0]


def test_staying_until_something_is_better_ends_in_optima_too() -> None:
    table = every_pair(small(6))
    found = search(small(6), PROMPT, 2, wander=False, **SMALL)  # type: ignore[arg-type]
    for ids in found.data["ids"].values.tolist():
        assert neighbours(table, ids).max() <= table[tuple(ids)] + found.noise_floor + 1e-5


def test_a_result_is_saved_and_read_again(tmp_path) -> None:
    found = search(small(7), PROMPT, 2, **QUICK)  # type: ignore[arg-type]
    again = Found.load(found.save(tmp_path / "found.nc"))
    assert isinstance(again, Found)
    assert isinstance(again, Result)
    xr.testing.assert_identical(again.data, found.data)
    assert (again.response, again.reward, again.certified) == (found.response, found.reward, found.certified)
    assert again.table().equals(found.table())


def test_the_bundled_model_end_to_end() -> None:
    rm, few = rw.load(), Constraints(allowed=range(300, 330))
    counted: list[int] = []
    found = search(rm, "Hi", 2, constraints=few, restarts=3, steps=5, width=16, progress=counted.append)
    slot = find_slot(rm, "Hi")
    pairs = [(a, b) for a in range(300, 330) for b in range(300, 330)]
    rewards = rm.reward_encoded([slot.filled(pair) for pair in pairs])[:, 0]
    assert found.reward == pytest.approx(rewards.max(), abs=1e-5)
    assert tuple(found.ids) == pairs[int(rewards.argmax())]
    assert sum(counted) + 3 == found.data["evaluations"].values.sum()


def test_what_is_refused() -> None:
    rm = small()
    for wrong in ({"length": 0}, {"direction": "up"}, {"prompt": ""}, {"restarts": 0}, {"aggregate": "min"}, {"prompt": []},
                  {"rm": []}):
        with pytest.raises(RewardenError):
            search(**{"rm": rm, "prompt": PROMPT, "length": 2, **wrong})  # type: ignore[arg-type]
    with pytest.raises(RewardenError, match="leaves no room"):
        search(rm, "w1 " * 120, 20)
    with pytest.raises(RewardenError, match="no vocabulary to scan"):
        search(rw.Ensemble([rm, rm]), PROMPT, 2)  # type: ignore[arg-type]


def test_the_worst_response_of_several_models_and_prompts_has_no_better_neighbour() -> None:
    models, prompts = [small(8), small(9)], ["w1", "w2 w4"]
    found = search(models, prompts, 2, "min", aggregate="worst", scale="z", **QUICK)  # type: ignore[arg-type]
    objective = make_objective(models, prompts, 2, "min", aggregate="worst")
    centre, spread = found.data["centre"].values, found.data["spread"].values
    for ids, stated in zip(found.data["ids"].values, found.data["objective"].values, strict=True):
        rows = np.repeat(ids[None], 2 * SIZE, 0)
        rows[:SIZE, 0] = rows[SIZE:, 1] = np.arange(SIZE)
        rewards = objective.rewards(rows).reshape(-1, 2, 2)  # [row, model, prompt]
        worst = ((rewards - centre[:, None]) / spread[:, None]).max((1, 2))  # for the smallest reward the largest is the worst
        here = worst[int(ids[0])]
        assert worst.min() >= here - found.noise_floor - 1e-5
        assert here == pytest.approx(stated, abs=1e-5)
