"""Which direction stands for a concept, and is it there in texts that did not find it?

In: a model, texts with and without the concept, a place. Out: a `Direction` with a report: held-out AUC, control tasks, how far
the reward is aligned with it on a corpus. Ignorant of what the model does when it is moved along (see `dose`).
Letters: n texts, d width, K clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.concepts.examples import Examples, examples_of
from rewarden.concepts.places import Place, activations, place_of, reward_direction
from rewarden.concepts.probes import auc, cross_scores, fit_vector
from rewarden.contrasts import Contrast, prompt_key
from rewarden.conversation import Conversation, Pair
from rewarden.edits.edit import Site
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.options.checks import resolve
from rewarden.options.concepts import ConceptOptions
from rewarden.result import Result
from rewarden.statistics import content_clusters, share_interval
from rewarden.statistics.clustered import auc_interval, correlation_interval

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

Corpus = Sequence[Conversation | Pair | Contrast]
"""Texts to look at; of pairs and contrasts, all their conversations."""


@dataclass(frozen=True, eq=False)
class Direction:
    """A concept as a direction in one space of activations.

    Attributes:
        name: of the concept.
        vector: float64 [d], unit length, towards texts that have the concept.
        place: the space.
        difference: float64 [d], mean of the texts that have the concept less mean of those that have not.
        mean: float64 [d], midpoint of the two means.
        report: Result "direction": see `direction`.
    """

    name: str
    vector: np.ndarray
    place: Place
    difference: np.ndarray
    mean: np.ndarray
    report: Result

    @property
    def gap(self) -> float:
        """Mean distance along it between texts with and without the concept, in units of the activations."""
        return float(self.difference @ self.vector)

    def __repr__(self) -> str:
        found = self.report.data
        return (f"Direction({self.name!r} at {self.place}, held-out AUC {float(found['auc']):.3f} "
                f"[{float(found['auc_low']):.3f}, {float(found['auc_high']):.3f}], n={int(found['n'])})")

    def along(self, states: Any) -> np.ndarray:
        """How far activations [..., d] lie along it, from the midpoint."""
        return (np.asarray(states, np.float64) - self.mean) @ self.vector

    def cosine(self, rm: RewardModel, texts: Corpus, *, heads: int = 1999, level: float = 0.95, seed: int = 0,
               batch_size: Any = "auto") -> Result:
        """How far do concept and reward go together on a corpus? See `reward_cosine`."""
        return reward_cosine(rm, self, texts, heads=heads, level=level, seed=seed, batch_size=batch_size)


def direction(rm: RewardModel, data: Any, *, site: str | Site | Place = "read", name: str = "",
              options: ConceptOptions | None = None, **overrides: Any) -> Direction:
    """Find the direction of a concept, and test it on texts that did not find it.

    Args:
        rm: the reward model.
        data: `Pair`s (chosen has the concept), `Contrast`s (texts of positive weight have it), a tuple (with, without) of
            conversations, or (conversation, label) items; of at least 10 prompts or seeds.
        site: "read" (the normed state that the head reads), or a site such as "resid_post.3", "attn_out.2", "z.3.5".
        name: of the concept; by default the axis of the contrasts.
        options: `ConceptOptions`; single fields may be given as keywords.

    Returns:
        A direction. Its `report` is a Result of kind "direction": `score` (text), cross-fitted, of texts that their vector has
        not seen; `label`, `cluster`, `fold` (text); `auc` with `auc_low`, `auc_high` (cluster DeLong, within folds); `paired`
        with `paired_low`, `paired_high`, share of pairs or contrasts whose side with the concept scores higher (NaN for
        labelled texts); `auc_taught`, on the texts that made the vector; `control_auc`, `control_taught` (control), the same
        for shuffled labels; `selectivity`, AUC less mean `control_taught`: by how much the probe does better on new texts than
        it does on texts it can learn by heart, below 0 where the AUC is no more than such a probe's capacity would give; `p`
        of the AUC among the controls' AUCs on new texts; `n`, `n_clusters`.

    Raises:
        RewardenError: data of another form, too few clusters, or kinds that do not differ.

    Source: Hewitt & Liang 2019, arXiv 1909.03368 (control tasks, which a probe solves by memory: their test words are among
    those taught, so that here the control is asked on the texts that taught it); mean difference: Marks & Tegmark 2023,
    arXiv 2310.06824.

    Example:
        >>> import rewarden as rw
        >>> pairs = [rw.Pair(f"Name {n} things.", f"**{n}** things!", f"{n} things.") for n in range(20, 40)]
        >>> found = direction(rw.load(), pairs, name="bold", controls=2)
        >>> bool(found.report.auc > 0.9), round(float(np.linalg.norm(found.vector)), 6)
        (True, 1.0)
    """
    chosen = resolve(ConceptOptions, options, overrides)
    place = place_of(rm, site, chosen.positions if site != "read" else "read")
    examples = examples_of(rm, data)
    states = activations(rm, examples.rows, place, batch_size=chosen.batch_size)
    called = name or next((item.axis for item in data if isinstance(item, Contrast)), "") or "concept"
    provenance = {**rm.provenance(), "concept": called, "site": str(place), "positions": place.positions,
                  "data": examples.kind, "texts": len(states), **asdict(chosen)}
    return direction_of(states, examples, place, chosen, called, provenance)


def direction_of(states: np.ndarray, examples: Examples, place: Place, options: ConceptOptions, name: str,
                 provenance: dict[str, Any]) -> Direction:
    """The direction of activations [n, d] that are at hand already; see `direction`."""
    settings: dict[str, Any] = {"method": options.method, "ridge": options.ridge}
    folds = examples.folds(options.folds, options.seed)
    vector = fit_vector(states, examples.labels, examples.weights, **settings)
    weights = [np.where(side, examples.weights, 0.0) / examples.weights[side].sum()
               for side in (examples.labels, ~examples.labels)]
    means = np.stack([weight @ states for weight in weights])
    scores, taught = cross_scores(states, examples.labels, examples.weights, folds, fit_vector, **settings)
    found = auc_interval(scores, examples.labels, examples.clusters, folds, level=options.level)
    controls = [(auc(one, labels, folds), _taught_auc(seen, labels))
                for labels in examples.shuffles(options.controls, options.seed)
                for one, seen in [cross_scores(states, labels, examples.weights, folds, fit_vector, **settings)]]
    control = np.array(controls).reshape(-1, 2)
    paired = _paired(scores, examples, options)
    beaten = int((control[:, 0] >= found.estimate).sum())
    data = xr.Dataset({
        "score": ("text", scores), "label": ("text", examples.labels), "cluster": ("text", examples.clusters),
        "fold": ("text", folds), "vector": ("width", vector),
        "auc": found.estimate, "auc_low": found.low, "auc_high": found.high,
        **{f"paired{end}": value for end, value in zip(("", "_low", "_high"), paired, strict=True)},
        "auc_taught": _taught_auc(taught, examples.labels), "control_auc": ("control", control[:, 0]),
        "control_taught": ("control", control[:, 1]),
        "selectivity": found.estimate - (control[:, 1].mean() if len(control) else np.nan),
        "p": (beaten + 1) / (len(control) + 1) if len(control) else np.nan,
        "gap": float((means[0] - means[1]) @ vector), "n": len(states), "n_clusters": examples.n_clusters})
    result = Result("direction", data, provenance)
    return Direction(name, vector, place, means[0] - means[1], means.mean(0), result)


def _taught_auc(taught: np.ndarray, labels: np.ndarray) -> float:
    """Mean AUC over folds on the texts that made the vectors."""
    inside = [np.isfinite(scores) for scores in taught]
    return float(np.mean([auc(scores[on], labels[on], np.zeros(on.sum())) for scores, on in zip(taught, inside, strict=True)]))


def _paired(scores: np.ndarray, examples: Examples, options: ConceptOptions) -> tuple[float, float, float]:
    """Share of pairs or contrasts whose texts with the concept score higher, and its interval over clusters."""
    if examples.kind == "labelled":
        return (np.nan, np.nan, np.nan)
    sign = np.where(examples.labels, examples.weights, -examples.weights)
    difference = np.bincount(examples.groups, weights=sign * scores)
    clusters = examples.clusters[np.unique(examples.groups, return_index=True)[1]]
    found = share_interval((np.sign(difference) + 1) / 2, clusters, level=options.level, seed=options.seed)
    return float(found.estimate), float(found.low), float(found.high)


def opposite(found: Direction) -> Direction:
    """The direction towards texts without the concept; the report stays that of the concept.

    Example:
        >>> import rewarden as rw
        >>> pairs = [rw.Pair(f"Name {n} things.", f"**{n}** things!", f"{n} things.") for n in range(20, 40)]
        >>> bold = direction(rw.load(), pairs, controls=0)
        >>> bool((opposite(bold).vector == -bold.vector).all())
        True
    """
    return replace(found, name=f"not {found.name}", vector=-found.vector, difference=-found.difference)


def reward_cosine(rm: RewardModel, concept: Direction, texts: Corpus, *, heads: int = 1999, level: float = 0.95, seed: int = 0,
                  batch_size: Any = "auto") -> Result:
    """How far do a concept and the reward go together on a corpus, and further than a random read-out would?

    The cosine of two directions means nothing where activations vary more along some axes than along others. In the frame of
    a corpus, cos(Σ^½u, Σ^½w), Σ the covariance of its activations, it is the correlation of the two read-outs u·x and w·x.

    Args:
        rm: the reward model.
        concept: its direction, at a place where the reward has one (see `places.reward_direction`).
        texts: the corpus; of pairs and contrasts, all conversations.
        heads: random read-outs, Gaussian vectors in the place of w.
        level: of the interval.
        seed: of the random read-outs.
        batch_size: texts in one forward, or "auto".

    Returns:
        Result "reward_cosine": `concept`, `reward` (text), the two read-outs; `cosine` with `low`, `high` (Fisher's scale, over
        prompts); `random` (head), cosines of random read-outs; `p`, share of random read-outs at least as far aligned, either
        way round; `plain`, the cosine without a frame.

    Raises:
        RewardenError: fewer than three texts, a direction of another model's width, or a place without one of the reward.

    Example:
        >>> import rewarden as rw
        >>> pairs = [rw.Pair(f"Name {n} things.", f"**{n}** things!", f"{n} things.") for n in range(20, 40)]
        >>> bold = direction(rw.load(), pairs, controls=0)
        >>> found = reward_cosine(rw.load(), bold, pairs, heads=99)
        >>> bool(abs(found.cosine - np.corrcoef(found.concept, found.reward)[0, 1]) < 1e-9)
        True
    """
    rows, clusters = corpus_rows(rm, texts)
    states = activations(rm, rows, concept.place, batch_size=batch_size)
    check_width(concept, states)
    data = cosine_of(concept.vector, states, reward_direction(rm, concept.place, states, rows), clusters, heads, level, seed)
    asked = {"concept": concept.name, "site": str(concept.place), "texts": len(rows), "heads": heads, "level": level,
             "seed": seed}
    return Result("reward_cosine", data, {**rm.provenance(), **asked})


def cosine_of(vector: np.ndarray, states: np.ndarray, reward: np.ndarray, clusters: np.ndarray, heads: int, level: float,
              seed: int) -> xr.Dataset:
    """The arrays of `reward_cosine` from activations [n, d] and the reward's direction [d]."""
    if len(states) < 3:
        raise RewardenError(f"a frame of {len(states)} texts", where="texts", why="a correlation needs three",
                            fix="give more texts")
    u, w = states @ vector, states @ reward
    found = correlation_interval(u, w, clusters, level=level)
    random = random_cosines(vector, states, heads, seed)
    p = (1 + (np.abs(random) >= abs(found.estimate) - 1e-12).sum()) / (1 + len(random))
    size = np.linalg.norm(reward) * np.linalg.norm(vector)
    return xr.Dataset({"concept": ("text", u), "reward": ("text", w), "random": ("head", random), "cosine": found.estimate,
                       "low": found.low, "high": found.high, "p": p, "plain": float(vector @ reward / size)})


def random_cosines(vector: np.ndarray, states: np.ndarray, heads: int, seed: int) -> np.ndarray:
    """Cosines in the frame of states [n, d] between a direction and random read-outs, [heads]."""
    centred = states - states.mean(0)
    u = centred @ vector
    other = centred @ np.random.default_rng((seed, 5)).standard_normal((states.shape[1], heads))  # [n, heads]
    return u @ other / (np.linalg.norm(u) * np.linalg.norm(other, axis=0))


def check_width(concept: Direction, states: np.ndarray) -> None:
    """Refuse a direction that has not as many coordinates as activations [n, d] at its place."""
    if len(concept.vector) != states.shape[1]:
        raise RewardenError(f"the direction {concept.name!r} has {len(concept.vector)} coordinates", where="concept",
                            why=f"activations at {concept.place} of this model have {states.shape[1]}",
                            fix="find the direction with direction(rm, ...) of the same model")


def corpus_rows(rm: RewardModel, texts: Corpus) -> tuple[list[Encoded], np.ndarray]:
    """Encoded texts and the cluster (prompt or seed) of each."""
    rows, keys = [], []
    for item in texts:
        if isinstance(item, Contrast):
            held, key = [text for _, text in item.terms], item.cluster
        else:
            held = list(item.conversations) if isinstance(item, Pair) else [item]
            key = prompt_key(held[0])
        rows += [rm.encode(text) for text in held]
        keys += [key] * len(held)
    if not rows:
        raise RewardenError("no texts", where="texts", why="the list is empty", fix="give conversations, pairs or contrasts")
    return rows, content_clusters(keys)
