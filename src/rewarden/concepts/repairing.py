"""How is a concept taken out of a reward model's head (or a layer shifted against it), and kept out when the model is saved?

In: a model with a linear head, directions or contrasts. Out: `Repaired`: the edited model, a report of what changed, and a
plain transformers checkpoint. Ignorant of how directions are found (see `directions`) and of what changed (see
`verification`). Letters: d width, k directions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rewarden.concepts.checkpoints import Changes, holds_constant, saved, steered_model
from rewarden.concepts.directions import Corpus, Direction, corpus_rows, direction
from rewarden.concepts.erasure import affine, covariance_of
from rewarden.concepts.examples import FEWEST
from rewarden.concepts.places import Place, activations
from rewarden.concepts.verification import verify
from rewarden.contrasts import Contrast
from rewarden.conversation import Pair
from rewarden.edits.edit import Site
from rewarden.errors import RewardenError
from rewarden.options.checks import resolve
from rewarden.options.concepts import EditOptions
from rewarden.preferences import prompt_keys
from rewarden.readout.base import Reading
from rewarden.readout.heads import SequenceHead
from rewarden.result import Result
from rewarden.statistics import require_n

if TYPE_CHECKING:
    from pathlib import Path

    from rewarden.reward_model import RewardModel


@dataclass(eq=False)
class EditedHead(SequenceHead):
    """A linear head whose weights were changed after loading."""

    def provenance(self) -> dict[str, str | int | float | bool]:
        """A hash of the weights, which no file's hash covers."""
        numbers = torch.cat([self.weight.ravel(), self.bias.ravel()]).cpu().numpy().tobytes()
        return {"head_sha256": hashlib.sha256(numbers).hexdigest()}

    def native(self, model: Any, inputs: dict[str, Tensor], reading: Reading) -> Tensor | None:
        """None: the module inside still has its own head."""
        return None


@dataclass(frozen=True, eq=False)
class Repaired:
    """A model after a repair.

    Attributes:
        rm: the repaired model, to be used like any other.
        before: the model as it was.
        directions: what was taken out.
        changes: what is different in the checkpoint.
        report: Result "repair" (see `verification.verify`), from contrasts and pairs that made nothing; None without any.
            It warns of concepts whose effect may be all there still (the interval of `kept` includes 1).
    """

    rm: RewardModel
    before: RewardModel
    directions: tuple[Direction, ...]
    changes: Changes
    report: Result | None

    def save(self, path: Any) -> Path:
        """Write a plain transformers checkpoint: `AutoModelForSequenceClassification.from_pretrained(path)` scores the same.

        Args:
            path: folder; made where it does not exist.

        Returns:
            The folder. Beside weights, config and tokenizer it holds `repair.json`: what was done.

        Raises:
            RewardenError: a folder that holds something else than an earlier repair, a model that transformers does not load as
                a sequence classifier, or one that has no head of that kind.
        """
        return saved(self, path)


def repair(rm: RewardModel, what: Any, *, contrasts: Sequence[Contrast] | None = None, pairs: Sequence[Pair] | None = None,
           corpus: Corpus | None = None, options: EditOptions | None = None, **overrides: Any) -> Repaired:
    """Turn the head off concepts, so that the reward loses them; or shift a layer against them, which is no repair.

    With u a concept's unit vector in the normed space that the head reads and w the head: "project" makes the head
    w − α·(w·u)·u, of several concepts w less its part in the space they span. "leace" folds the least-squares eraser into
    the head: of all heads that give texts with and without the concept the same mean reward, the one that changes the rewards
    of the corpus least. It does so through states that hardly vary on the corpus, so that on other texts more of the effect
    is left than after "project".

    "steer" leaves the head alone and subtracts α times the concept's mean difference from the residual stream after one layer,
    as a bias of that layer. It does not take the concept out: texts with and without it are shifted alike, so that most of the
    difference of their rewards stays. It is there to try what a shift does.

    Args:
        rm: a model with a linear head at the last token.
        what: a `Direction` or several (at "read" for the head, at a "resid_post" site for steering); or `Contrast`s, one
            concept an axis: half of their seeds find the directions, the others verify.
        contrasts: verify with these instead; they must not have found the directions.
        pairs: preference pairs: their accuracy before and after, by subset.
        corpus: texts whose rewards "leace" changes least. Without them, it takes pairs of half of the prompts (as many as
            `held_out` leaves), and only the pairs of the other prompts verify.
        options: `EditOptions`; single fields may be given as keywords.

    Raises:
        RewardenError: a head that is not linear, directions of another place, too few seeds, no corpus for "leace", or a layer
            that holds no bias.

    Source: LEACE: Belrose et al. 2023, arXiv 2306.03819; projection: Bolukbasi et al. 2016, arXiv 1607.06520.

    Example:
        >>> import rewarden as rw
        >>> from rewarden.contrasts import Contrast
        >>> rm = rw.load()
        >>> told = [Contrast.of(f"Name {n} things.", f"**{n}** things!", f"{n} things.", axis="bold", seed=str(n))
        ...         for n in range(20, 50)]
        >>> mended = repair(rm, told)
        >>> before, after = np.abs(mended.report.effect[:, 0])
        >>> bool(after < before / 2)
        True
    """
    chosen = resolve(EditOptions, options, overrides)
    if not isinstance(rm.readout, SequenceHead):
        raise RewardenError(f"a {type(rm.readout).__name__} cannot be repaired", where="repair",
                            why="only a linear head at the last token has one direction that can be turned",
                            fix="use a model with a sequence classification head")
    place = _place(rm, chosen)
    found, held_out = _directions(rm, what, contrasts, place, chosen)
    wrong = [one for one in found if str(one.place) != str(place)]
    if wrong:
        raise RewardenError(f"the direction {wrong[0].name!r} lies at {wrong[0].place}", where="repair",
                            why=f"{chosen.method} acts at {place}",
                            fix=f"find it with direction(rm, data, site={str(place)!r})")
    if chosen.method == "steer":
        move = -chosen.alpha * sum(np.asarray(one.difference) for one in found)
        after, changes = steered_model(rm, place.site.layer, np.asarray(move))
    else:
        if chosen.method == "leace" and corpus is None:
            corpus, pairs = _corpus_of(pairs, chosen)
        head = _head(rm, found, corpus, chosen)
        after = rm.reading(head)
        after.main, after.health = rm.main, {"noise_floor": rm.noise_floor}
        changes = Changes(weight=head.weight, bias=head.bias)
    report = None
    if held_out or pairs:
        report = verify(rm, after, held_out, pairs or (), level=chosen.level, batch_size=chosen.batch_size)
        facts = {"concepts": ", ".join(one.name for one in found), "site": str(place),
                 **{k: v for k, v in asdict(chosen).items() if v is not None}}
        facts |= {"corpus": len(corpus)} if corpus is not None and chosen.method == "leace" else {}
        report = replace(report, provenance={**report.provenance, **facts}, warnings=(*report.warnings, *_still(report, found)))
    return Repaired(after, rm, tuple(found), changes, report)


def _place(rm: RewardModel, options: EditOptions) -> Place:
    """Where the method acts."""
    if options.method != "steer":
        return Place(Site("resid_post", rm.read_layer), True)
    layer = rm.architecture.n_layers // 2 if options.layer is None else options.layer
    if layer > rm.read_layer:
        raise RewardenError(f"layer {layer} does not reach the read-out", where="layer=",
                            why=f"the reward is read after layer {rm.read_layer}", fix="choose an earlier one")
    return Place(Site("resid_post", layer), False, "response")


def _directions(rm: RewardModel, what: Any, contrasts: Sequence[Contrast] | None, place: Place, options: EditOptions
                ) -> tuple[list[Direction], list[Contrast]]:
    """Directions to take out, and contrasts to verify with."""
    given = [what] if isinstance(what, Direction) else list(what)
    if given and all(isinstance(item, Direction) for item in given):
        return given, list(contrasts or ())
    if not given or not all(isinstance(item, Contrast) for item in given):
        raise RewardenError("nothing to take out", where="repair(what=)",
                            why="neither directions nor contrasts were given", fix="give a Direction, several, or Contrasts")
    find, rest = (given, list(contrasts)) if contrasts is not None else _split(given, options)
    axes = dict.fromkeys(item.axis for item in find)
    found = [direction(rm, [item for item in find if item.axis == axis], site=place, name=axis, controls=0, seed=options.seed,
                       batch_size=options.batch_size) for axis in axes]
    return found, rest


def _split(contrasts: Sequence[Contrast], options: EditOptions) -> tuple[list[Contrast], list[Contrast]]:
    """Contrasts that find and contrasts that verify: a seed is on one side only, for all axes.

    Raises:
        RewardenError: too few seeds of an axis are left to find its direction.
    """
    seeds = list(dict.fromkeys(item.cluster for item in contrasts))
    order = np.random.default_rng((options.seed, 7)).permutation(len(seeds))
    apart = {seeds[i] for i in order[:max(1, round(options.held_out * len(seeds)))]}
    for axis in dict.fromkeys(item.axis for item in contrasts):
        left = {item.cluster for item in contrasts if item.axis == axis} - apart
        require_n(len(left), FEWEST, f"the direction of {axis or 'the concept'!r}: seeds that do not verify, "
                  f"with held_out={options.held_out:g}")
    held = [item.cluster in apart for item in contrasts]
    return ([item for item, out in zip(contrasts, held, strict=True) if not out],
            [item for item, out in zip(contrasts, held, strict=True) if out])


def _corpus_of(pairs: Sequence[Pair] | None, options: EditOptions) -> tuple[list[Pair], list[Pair]]:
    """Pairs that make the head of "leace", and pairs that verify: a prompt is on one side only."""
    keys = prompt_keys(pairs or ())
    prompts = np.unique(keys)
    if pairs is None or len(prompts) < 2:
        raise RewardenError("method='leace' needs a corpus", where="repair(corpus=)",
                            why="it changes the rewards of a corpus least, and the pairs that verify must be others",
                            fix="pass corpus=, or pairs= of several prompts; or use method='project'")
    count = min(max(1, round(options.held_out * len(prompts))), len(prompts) - 1)
    apart = np.isin(keys, np.random.default_rng((options.seed, 9)).permutation(prompts)[:count])
    return ([pair for pair, out in zip(pairs, apart, strict=True) if not out],
            [pair for pair, out in zip(pairs, apart, strict=True) if out])


def _still(report: Result, found: Sequence[Direction]) -> tuple[str, ...]:
    """Warnings of concepts whose effect may be there as before."""
    data = report.data
    names = {one.name for one in found} & set(map(str, data["axis"].values)) if "axis" in data.coords else set()
    told = []
    for name in sorted(names):
        kept, low, high = (float(data[f"kept{end}"].sel(axis=name)) for end in ("", "_low", "_high"))
        if low <= 1 <= high:
            told.append(f"nothing shows that {name!r} is out of the reward: {kept:.2f} of its effect is left, and the interval "
                        f"{low:.2f} to {high:.2f} includes 1")
    return tuple(told)


def _head(rm: RewardModel, found: Sequence[Direction], corpus: Corpus | None, options: EditOptions) -> EditedHead:
    """The head without the concepts; of several outputs, the one that is the reward."""
    assert isinstance(rm.readout, SequenceHead)
    weight = rm.readout.weight[rm.main].double().cpu().numpy()
    if options.method == "project":
        basis = np.linalg.qr(np.stack([one.vector for one in found], axis=1))[0]  # [d, k]
        new, constant = weight - options.alpha * basis @ (basis.T @ weight), 0.0
    else:
        assert corpus is not None  # see `repair`
        states = activations(rm, corpus_rows(rm, corpus)[0], found[0].place, batch_size=options.batch_size)
        cross = np.stack([one.difference for one in found], axis=1)  # [d, k]
        erased, constant = affine(states.mean(0), covariance_of(states, True), cross).folded(weight)
        new, constant = weight + options.alpha * (erased - weight), options.alpha * constant
    rows, biases = rm.readout.weight.clone(), rm.readout.bias.clone()
    # what the checkpoint can hold: its own number format
    rows[rm.main] = torch.as_tensor(new, dtype=torch.float64).to(rm.dtype).to(rows)
    biases[rm.main] += constant if holds_constant(rm) else 0.0  # without a place for it, all rewards shift alike
    return EditedHead(rows, biases, rm.readout.norm, rm.readout.names)
