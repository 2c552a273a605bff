"""What a search found: one response a restart, how each came about, and whether it is certified.

In: walks. Out: `Found`, a Result. Ignorant of how walks were made.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from rewarden.options import SearchOptions
from rewarden.result import Result
from rewarden.tokens.scan import apart
from rewarden.tokens.scores import texts
from rewarden.tokens.search.exchange import Space, Walk


@dataclass(frozen=True, repr=False)
class Found(Result):
    """Responses with the largest (or smallest) rewards that were found.

    Variables by `restart`: `ids` (restart, position), `objective` (what was searched: in units of the reward, or of standard
    deviations; the smallest is the best where direction is "min"), `start` (of the random start), `certified`, `steps`
    (gradient-guided), `scans` (exact scans of a position), `evaluations` (responses), `round_trip` (the text gives these ids
    again), `log_probability` (mean per token, where a bound was asked for); coordinate `response`. `rewards` (restart, prompt,
    model), from whole forwards. `path` (restart, move): the objective after the start and after each move, NaN after the
    last one; `evaluated` (restart, move): responses evaluated up to there. `centre` and `spread` (model): what rewards
    were standardised with.
    """

    @property
    def best(self) -> int:
        """Number of the best restart; of equal ones a certified one, the first."""
        objective, certified = self.data["objective"].values, self.data["certified"].values
        sign = -1.0 if self.provenance["direction"] == "min" else 1.0
        return int(np.lexsort((np.arange(len(objective)), ~certified, -sign * objective))[0])

    @property
    def response(self) -> str:
        """Text of the best response."""
        return str(self.data["response"].values[self.best])

    @property
    def ids(self) -> list[int]:
        """Token ids of the best response."""
        return self.data["ids"].values[self.best].tolist()

    @property
    def reward(self) -> float:
        """Reward of the best response under the first prompt and model."""
        return float(self.data["rewards"].values[self.best, 0, 0])

    @property
    def objective(self) -> float:
        """What was searched for: the mean or worst reward over prompts and models, in standard deviations where asked for."""
        return float(self.data["objective"].values[self.best])

    @property
    def certified(self) -> bool:
        """No exchange of one token by another that the constraints allow is better by more than the noise floor."""
        return bool(self.data["certified"].values[self.best])

    def table(self) -> pd.DataFrame:
        """All restarts, best first: restart, response, ids, objective, certified, start, steps, scans, evaluations, round_trip.

        Example:
            >>> import rewarden as rw
            >>> from rewarden.tokens.search import search
            >>> found = search(rw.load(), "Hi", 1, restarts=2, steps=0)
            >>> bool(found.table()["objective"][0] == found.objective)
            True
        """
        names = ["objective", "certified", "start", "steps", "scans", "evaluations", "round_trip"]
        names += ["log_probability"] * ("log_probability" in self.data)
        columns = {"restart": np.arange(self.data.sizes["restart"]), "response": self.data["response"].values,
                   "ids": self.data["ids"].values.tolist(), **{name: self.data[name].values for name in names}}
        sign = -1.0 if self.provenance["direction"] == "min" else 1.0
        order = np.lexsort((columns["restart"], ~columns["certified"], -sign * columns["objective"]))
        return pd.DataFrame(columns).iloc[order].reset_index(drop=True)


def assemble(space: Space, walks: list[Walk], options: SearchOptions) -> Found:
    """The Result of finished walks; their responses are run once more, whole."""
    objective, checks = space.objective, space.checks
    members, sign = objective.members, objective.sign
    ids = np.stack([walk.ids for walk in walks])
    rewards = objective.rewards(ids)  # [restart, member]
    scores = objective.scores(rewards)
    walked = np.asarray([walk.score for walk in walks])
    off = float(np.abs(scores - walked)[np.isfinite(scores)].max(initial=0.0))
    models = [next(m.rm for m in members if m.model == k) for k in range(members[-1].model + 1)]
    prompts = [m.slot.label for m in members if m.model == 0]
    longest = max(len(walk.path) for walk in walks)

    def padded(values: list[float], empty: float) -> list[float]:
        return [*values, *[empty] * (longest - len(values))]

    firsts = [next(m for m in members if m.model == k) for k in range(len(models))]
    stable = checks.round_trip(ids)
    data = xr.Dataset(
        {"ids": (("restart", "position"), ids), "objective": ("restart", sign * scores.astype(np.float64)),
         "start": ("restart", [sign * walk.path[0] for walk in walks]),
         "certified": ("restart", np.asarray([walk.certified for walk in walks])),
         "steps": ("restart", [walk.steps for walk in walks]), "scans": ("restart", [walk.scans for walk in walks]),
         "evaluations": ("restart", [walk.evaluated[-1] for walk in walks]), "round_trip": ("restart", stable),
         "rewards": (("restart", "prompt", "model"), rewards.reshape(len(walks), len(models), -1).transpose(0, 2, 1)),
         "path": (("restart", "move"), [padded([sign * s for s in walk.path], np.nan) for walk in walks]),
         "evaluated": (("restart", "move"), [padded(walk.evaluated, walk.evaluated[-1]) for walk in walks]),
         "centre": ("model", [m.centre for m in firsts]), "spread": ("model", [m.spread for m in firsts])},
        coords={"response": ("restart", texts(models[0].tokenizer.batch_decode(
                    ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))),
                "prompt": texts(apart(prompts)), "model": texts(apart([model.name for model in models]))})
    if checks.likelihood is not None:
        data["log_probability"] = ("restart", checks.likelihood(ids))
    provenance = {**models[0].provenance(), "model": " + ".join(model.name for model in models),
                  "direction": "max" if sign > 0 else "min", "length": ids.shape[1], "allowed": len(space.allowed),
                  "constraints": checks.constraints.describe(), "aggregate": options.aggregate, "scale": options.scale,
                  "seed": options.seed, "restarts": options.restarts, "steps": options.steps, "width": options.width,
                  "top_k": options.top_k, "polish": options.polish}
    if options.scale == "z":
        provenance["reference"] = f"{options.reference_sample} random responses of {ids.shape[1]} allowed tokens"
    found = Found("search", data, provenance, True, max(objective.floor, off))
    return Found("search", data, provenance, True, found.noise_floor, _notes(found, options))


def _notes(found: Found, options: SearchOptions) -> tuple[str, ...]:
    notes = []
    if options.polish != "none" and not found.certified:
        notes.append(f"the best response still improved after {options.sweeps} sweeps: it has no certificate (raise sweeps)")
    if np.ptp(found.data["path"].values[np.isfinite(found.data["path"].values)]) <= (found.noise_floor or 0.0):
        notes.append("every response met has the same reward within rounding: there is nothing to search for")
    if not found.data["round_trip"].values[found.best]:
        notes.append("written as text, the best response is tokenised into other ids: its reward is that of the ids "
                     "(Constraints(round_trip=True) searches among responses that a text can say)")
    return tuple(notes)
