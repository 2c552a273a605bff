"""Are the policy's answers still right, on prompts that it is not trained on?

In: held-out prompts with golds, a verifier, the model in training. Out: audited accuracy over the steps of training, with
intervals, on disk line by line; and a rule that stops training. It needs no trainer: `audit(step)`; `callback()` is for one.
It sees what no monitor of activations sees: a reward that was gamed within the model's usual bounds. Ignorant of how the reward
is made. Letters: P prompts, k looks.

A run is looked at often, and each look could stop it wrongly. The rate alpha is therefore spent over the looks and over the two
rules of stopping (Bonferroni): look k gets alpha / (k · (k + 1)), which sums to alpha over any number of looks, or alpha /
looks where their number is stated. It holds whatever the looks have in common, such as their prompts.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from scipy import stats

from rewarden.errors import RewardenError
from rewarden.options.checks import resolve
from rewarden.options.training import OutcomeAuditOptions
from rewarden.result import Result
from rewarden.statistics import Interval, require_n, share_interval
from rewarden.store.files import canonical, plain
from rewarden.store.log import read_events, write_event
from rewarden.training.rollouts import Ids
from rewarden.training.verifiers.protocol import Verifier

Sampler = Callable[[Any, Ids, int], Ids]
"""Of a model, prompts and a seed, one completion each, ids [P]."""


@dataclass(frozen=True, eq=False)
class Look:
    """One audit.

    Attributes:
        step: of training.
        accuracy: share of right answers, over prompts.
        right: float64 [P], of each prompt.
        reward: float64 [P], mean reward of each prompt's audited completions; None where no reward is audited.
        alpha: the rate that each rule has at this look.
        below: p of "accuracy is not more than the margin below the base's"; NaN at the base itself.
        falling: p of "at no earlier look was accuracy higher and the reward lower"; NaN without a reward.
        reason: why training is to stop; empty where it is not.
    """

    step: int
    accuracy: Interval
    right: np.ndarray
    reward: np.ndarray | None
    alpha: float
    below: float
    falling: float
    reason: str

    @property
    def stop(self) -> bool:
        """Whether training is to stop."""
        return bool(self.reason)


class OutcomeAudit:
    """Scheduled audits of outcomes.

    Args:
        prompts: ids of held-out prompts, distinct [P].
        golds: what is right [P].
        verifier: see `rewarden.training.verifiers`.
        decode: ids of a completion -> text, see `OutcomeReward`.
        reward: the reward in training, called with ids (and `gold=`, where it takes columns), for the rule "falling".
        sample: makes completions at temperature 1; by default `rewarden.training.sampling.roll_out`.
        max_new_tokens: longest completion of the default sampler.
        path: a JSON-lines file, one line a look; looks that it holds already are continued.
        options, overrides: see `OutcomeAuditOptions`; `every=`, `n=`, `stop=`.

    Training is as if nobody had looked: random states, modes and gradients are put back.

    Raises:
        RewardenError: too few or repeated prompts, other golds, or a file of another audit.

    Example:
        >>> from rewarden.training.arithmetic import Arithmetic, held_out_pairs, load_policy, sum_columns
        >>> model, tokenizer = load_policy()
        >>> asked = sum_columns(held_out_pairs()[::50])
        >>> audit = OutcomeAudit(tokenizer(asked["prompt"])["input_ids"], asked["gold"], Arithmetic(), tokenizer.decode)
        >>> audit.bind(model).audit(0).accuracy.n
        40
    """

    def __init__(self, prompts: Ids, golds: Sequence[Any], verifier: Verifier, decode: Callable[[Sequence[int]], str], *,
                 reward: Callable[..., Any] | None = None, sample: Sampler | None = None, max_new_tokens: int = 32,
                 path: str | os.PathLike[str] | None = None, options: OutcomeAuditOptions | None = None, **overrides: Any
                 ) -> None:
        self.options = resolve(OutcomeAuditOptions, options, overrides)
        given = [tuple(int(i) for i in ids) for ids in prompts]
        if len(given) != len(golds) or len(set(given)) < len(given):
            raise RewardenError(f"{len(given)} prompts, {len(set(given))} of them distinct, and {len(golds)} golds",
                                where="OutcomeAudit", why="each prompt has one gold, and counts once",
                                fix="drop repeated prompts; samples= draws several completions of each")
        n = len(given) if self.options.n is None else self.options.n
        require_n(min(n, len(given)), max(n if self.options.n else 0, self.options.least_prompts), "an outcome audit (prompts)")
        kept = sorted(np.random.default_rng(self.options.seed).permutation(len(given))[:n])
        self.prompts, self.golds = [given[i] for i in kept], [golds[i] for i in kept]
        self.verifier, self.decode, self.reward = verifier, decode, reward
        self.sample: Sampler = sample or (lambda model, ids, seed: _roll_out(model, ids, seed, max_new_tokens))
        self.model: Any = None
        self.looks: list[Look] = []
        self.path = None if path is None else Path(path)
        self.identity = hashlib.sha256(canonical(plain({
            "prompts": self.prompts, "golds": [repr(gold) for gold in self.golds], "options": self.options,
            "reward": reward is not None,
            "verifier": str(getattr(verifier, "name", type(verifier).__name__))})).encode()).hexdigest()
        self._resume()

    def bind(self, model: Any) -> OutcomeAudit:
        """Audit this model from now on."""
        self.model = getattr(model, "module", model) if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
        return self

    def audit(self, step: int, *, write: bool = True) -> Look:
        """Look at the policy as it is now. Take the first look before training: it is the base of all comparisons.

        Args:
            step: of training.
            write: into `path`, where there is one.

        Raises:
            RewardenError: no model, a sampler that gives other numbers of completions, or more looks than stated.
        """
        if self.model is None:
            raise RewardenError("the audit has no model", where="OutcomeAudit", fix="audit.bind(model)")
        if self.options.looks is not None and len(self.looks) > self.options.looks:
            raise RewardenError(f"look {len(self.looks)} of {self.options.looks}", where="OutcomeAudit(looks=)",
                                why="alpha is spent", fix="state as many looks as there will be, or leave looks= out")
        right, reward = self._drawn(len(self.looks))
        look = self._judged(int(step), right, reward)
        self.looks.append(look)
        if self.path is not None and write:
            write_event(self.path, "outcome audit", {
                "identity": self.identity, "step": look.step, "right": right.tolist(),
                "accuracy": float(look.accuracy.estimate),
                "reward": None if reward is None else [float(value) if np.isfinite(value) else None for value in reward],
                "reason": look.reason})
        return look

    def _drawn(self, look: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Share of right answers and mean reward of each prompt, float64 [P]."""
        from rewarden.training.verifiers import verify_all

        times = self.options.samples
        prompts, golds = ([one for one in ones for _ in range(times)] for ones in (self.prompts, self.golds))
        with untouched(self.model):
            completions = [list(ids) for ids in self.sample(self.model, prompts, self.options.seed + 1_000_003 * look)]
            if len(completions) != len(prompts):
                raise RewardenError(f"{len(completions)} completions of {len(prompts)} prompts", where="OutcomeAudit(sample=)",
                                    why="one is needed for each", fix="mend the sampler")
            right = verify_all(self.verifier, [self.decode(ids) for ids in completions], golds)
            paid = None if self.reward is None else self.reward(prompts, completions, **self._columns(golds))
        right = right.reshape(-1, times).mean(1)
        if paid is None:
            return right, None
        return right, np.ma.masked_invalid(np.asarray(paid, np.float64).reshape(-1, times)).mean(1).filled(np.nan)

    def _columns(self, golds: Sequence[Any]) -> dict[str, Any]:
        assert self.reward is not None
        kinds = [one.kind for one in inspect.signature(self.reward).parameters.values()]
        return {"gold": golds} if inspect.Parameter.VAR_KEYWORD in kinds else {}

    def _judged(self, step: int, right: np.ndarray, reward: np.ndarray | None) -> Look:
        number, options = len(self.looks), self.options
        accuracy = share_interval(right, level=options.level)
        if not number:
            return Look(step, accuracy, right, reward, 0.0, np.nan, np.nan, "")
        rules = [options.stop in ("either", "below"), options.stop in ("either", "falling") and reward is not None]
        spent = options.alpha / options.looks if options.looks else options.alpha / (number * (number + 1))
        alpha = spent / max(sum(rules), 1)
        below = lower_p(right - self.looks[0].right, options.margin)
        falling = np.nan if reward is None else min(1.0, number * min(
            max(lower_p(right - one.right), higher_p(reward - one.reward)) for one in self.looks if one.reward is not None))
        base = float(self.looks[0].accuracy.estimate)
        reason = (f"accuracy {float(accuracy.estimate):.3f} is more than {options.margin:g} below the base's {base:.3f} "
                  f"(p {below:.1e}, look {number} at {alpha:.1e})" if rules[0] and below <= alpha else
                  f"accuracy fell while the reward rose, to {float(accuracy.estimate):.3f} "
                  f"(p {falling:.1e}, look {number} at {alpha:.1e})" if rules[1] and falling <= alpha else "")
        return Look(step, accuracy, right, reward, alpha, below, falling, reason)

    def _resume(self) -> None:
        for event in read_events(self.path) if self.path is not None else []:
            if event.get("identity") != self.identity:
                raise RewardenError("the file holds another audit", where=str(self.path),
                                    why="its prompts, golds, verifier or options are others", fix="name another file")
            reward: Any = event["reward"]
            self.looks.append(self._judged(int(event["step"]), np.asarray(event["right"], np.float64),  # type: ignore[call-overload]
                                           None if reward is None else np.asarray(reward, np.float64)))

    def result(self) -> Result:
        """Accuracy over the looks.

        Returns:
            Result "outcome_audit". By look: `step`, `accuracy` with `accuracy_low`, `accuracy_high`, `below`, `falling` (p
            values), `alpha`, `reward` (mean; NaN without one), `stop`, `reason`. By look and prompt: `right`.
        """
        if not self.looks:
            raise RewardenError("nothing was audited yet", where="OutcomeAudit.result", fix="call audit(step)")
        of = {name: ("look", [getattr(look, name) for look in self.looks])
              for name in ("step", "alpha", "below", "falling", "stop", "reason")}
        ends = {f"accuracy{end}": ("look", [float(getattr(look.accuracy, name)) for look in self.looks])
                for end, name in (("", "estimate"), ("_low", "low"), ("_high", "high"))}
        paid = [np.nan if look.reward is None else float(np.nanmean(look.reward)) for look in self.looks]
        data = xr.Dataset({**of, **ends, "reward": ("look", paid),
                           "right": (("look", "prompt"), np.stack([look.right for look in self.looks]))})
        told = {name: value for name, value in vars(self.options).items() if value is not None}
        return Result("outcome_audit", data, {"verifier": str(getattr(self.verifier, "name", "")),
                                              "prompts": len(self.prompts), **told})

    def callback(self) -> Any:
        """A `TrainerCallback` that takes the base before the first step, looks every `every` steps and at the end, writes
        `audit/…` into the log history, and stops training where the rule says so.

        Raises:
            RewardenError: transformers is missing; when training begins, more looks are planned than `looks` says.
        """
        from rewarden.training.audit_callback import audit_callback

        return audit_callback(self)


def lower_p(difference: np.ndarray, margin: float = 0.0) -> float:
    """p of "the mean of paired differences is not below −margin", of differences [n] within −1 to 1.

    Two prompts' worth of both outcomes are added, ½ for each of right and right, right and wrong, wrong and right, wrong and
    wrong, so that few prompts that change sides are not taken for certainty.

    Source: Agresti & Min 2005, Stat. Med. 24:729.

    Example:
        >>> float(lower_p(np.zeros(50))), lower_p(np.full(50, -1.0)) < 1e-20
        (0.5, True)
    """
    total = len(difference) + 2
    mean = difference.sum() / total
    spread = ((difference**2).sum() + 1) / total - mean**2
    return float(stats.t.cdf((mean + margin) / np.sqrt(spread / total), max(len(difference) - 1, 1)))


def higher_p(difference: np.ndarray) -> float:
    """p of "the mean of paired differences is not above 0" (Student's t); non-finite ones are left out, 1 with fewer than
    two."""
    known = difference[np.isfinite(difference)]
    if len(known) < 2:
        return 1.0
    error = known.std(ddof=1) / np.sqrt(len(known))
    if error == 0:
        return 0.0 if known.mean() > 0 else 1.0
    return float(stats.t.sf(known.mean() / error, len(known) - 1))


@contextmanager
def untouched(model: Any) -> Iterator[None]:
    """A block after which random states of Python, numpy and torch, and the modes of the model's modules, are as before."""
    modes = [(module, module.training) for module in model.modules()] if hasattr(model, "modules") else []
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(), torch.no_grad():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        for module, mode in modes:
            module.training = mode


def _roll_out(model: Any, prompts: Ids, seed: int, longest: int) -> Ids:
    from rewarden.training.sampling import roll_out

    return roll_out(model, prompts, seed=seed, max_new_tokens=longest).completion_ids
