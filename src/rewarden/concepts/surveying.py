"""Which concepts does the model know, which does its reward follow, and which move it?

In: a model, contrasts of several axes, maybe a corpus. Out: a Result "concepts", one row an axis: held-out AUC, alignment with
the reward against random read-outs, slope of the reward along the direction in a middle layer against random directions; and
`verdicts` and `followed`. Ignorant of where the contrasts come from. Letters: n texts, d width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from rewarden.concepts.directions import Corpus, Direction, corpus_rows, cosine_of, direction_of
from rewarden.concepts.dose import dose_response
from rewarden.concepts.examples import FEWEST, Examples, examples_of
from rewarden.concepts.places import Place, activations_at, place_of, reward_direction
from rewarden.contrasts import Contrast
from rewarden.conversation import Conversation
from rewarden.edits.edit import Site
from rewarden.encoding import RESPONSE, Encoded
from rewarden.errors import RewardenError
from rewarden.options.checks import resolve
from rewarden.options.concepts import ConceptOptions, DoseOptions, SurveyOptions
from rewarden.result import Result
from rewarden.statistics import Verdict, holm

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel


def survey(rm: RewardModel, contrasts: Sequence[Contrast], texts: Corpus | None = None, *,
           progress: Callable[[int], None] | None = None, options: SurveyOptions | None = None, **overrides: Any) -> Result:
    """Which concepts does a model know, and which does its reward follow?

    Three questions an axis. Known: does a direction found on some seeds tell the texts of other seeds apart? Followed: on the
    corpus, does the reward go along with that direction further than random read-outs of the same states would? Moved: does
    the reward change when texts are moved along the concept's direction in a middle layer, where the reward is read, and more
    than along random directions?

    A direction that reads a concept is no direction to move along: what reads it best also weighs against whatever hides it,
    and a move along that leaves the texts there are. So concepts are read by linear discriminants, and texts are moved along
    differences of means (Haufe et al. 2014, NeuroImage 87:96).

    Texts with more of a concept are often longer, and a reward that follows length alone would seem to follow it, too. So of
    every direction, but those of the axes named in `length_axes`, the part along which the corpus's states vary with the number
    of response tokens (and its logarithm) is taken out first: what is left has no correlation with length on the corpus.

    Args:
        rm: the reward model.
        contrasts: of one or several axes, each with at least 10 seeds; axes with fewer are set apart.
        texts: the corpus on which reward and concept are compared; the contrasts' own texts by default.
        progress: called with 1 after each axis.
        options: `SurveyOptions`; single fields may be given as keywords.

    Returns:
        Result "concepts" over `axis`. Of the direction as it was found, length and all: `auc`, `auc_low`, `auc_high`, `paired`
        (see `concepts.direction`). Of what is left of it without length, and NaN where nothing is: `cosine`, `cosine_low`,
        `cosine_high` in the frame of the corpus; `random_cosine`, the 95 % point of random read-outs' |cosine|;
        `p`, `p_adjusted` (Holm over axes), `follows`: the reward follows the concept; `slope`, `slope_low`, `slope_high`,
        reward units for as much of the concept as its texts have; `random_slope`, root mean square of random directions'
        slopes; `slope_p`, `slope_p_adjusted` (Holm), `moves`; `above_noise`: the slope is more than rounding. `length_share`,
        squared share of the direction at the read-out that was length and is taken out; `contrasts`, `seeds`.

    Raises:
        RewardenError: no contrasts, no axis with enough seeds, or a read-out without a direction.

    Example:
        >>> import rewarden as rw
        >>> told = [Contrast.of(f"Name {n} things.", f"**{n}** things!", f"{n} things.", axis="bold", seed=str(n))
        ...         for n in range(20, 50)]
        >>> found = survey(rw.load(), told, items=2, randoms=5, heads=99)
        >>> bool(found.auc[0] > 0.9)
        True
    """
    chosen = resolve(SurveyOptions, options, overrides)
    axes, apart = _axes(contrasts, chosen)
    layer = rm.architecture.n_layers // 2 if chosen.layer is None else chosen.layer
    places = [place_of(rm, "read"), place_of(rm, Site("resid_post", layer))]
    known = {name: examples_of(rm, items) for name, items in axes.items()}
    frame, clusters = corpus_rows(rm, texts if texts is not None else [item for items in axes.values() for item in items])
    at_read, inside = activations_at(rm, [*frame, *(row for one in known.values() for row in one.rows)], places,
                                     batch_size=chosen.batch_size)
    weight = reward_direction(rm, places[0], at_read[:len(frame)], frame)
    lengths = [_length_part(states[:len(frame)], frame) for states in (at_read, inside)]
    rows, start = [], len(frame)
    for name, examples in known.items():
        part = slice(start, start + len(examples.rows))
        start = part.stop
        raw = [_direction(examples, states[part], place, name, method, chosen)
               for states, place, method in zip((at_read, inside), places, (chosen.method, "mean_difference"), strict=True)]
        read, moved = (one if name in chosen.length_axes else without(one, length)
                       for one, length in zip(raw, lengths, strict=True))
        cosine = None if read is None else cosine_of(read.vector, at_read[:len(frame)], weight, clusters, chosen.heads,
                                                     chosen.level, chosen.seed)
        dose = None if moved is None else _dose(rm, moved, axes[name], chosen)
        share = 1.0 if read is None else 1 - float(raw[0].vector @ read.vector) ** 2
        rows.append(_row(raw[0].report.data, cosine, dose, axes[name], share))
        if progress:
            progress(1)
    data = xr.Dataset({key: ("axis", np.array([row[key] for row in rows])) for key in rows[0]}, coords={"axis": list(axes)})
    for p, flag, needs in (("p", "follows", np.ones(len(rows), bool)), ("slope_p", "moves", data["above_noise"].values)):
        adjusted = holm(data[p].values)
        data[f"{p}_adjusted"] = ("axis", adjusted)
        data[flag] = ("axis", (adjusted <= chosen.alpha) & needs)
    facts = {**asdict(chosen), "length_axes": " ".join(chosen.length_axes), "layer": layer, "frame_texts": len(frame),
             "frame": "contrasts" if texts is None else "corpus"}
    warnings = tuple(f"the axis {name!r} is set apart: {count} seeds, at least {FEWEST} needed"
                     for name, count in apart.items()) + tuple(
        f"of the direction of {name!r} nothing is left without length: it is not known whether the reward {asked} it"
        for name, row in zip(axes, rows, strict=True)
        for key, asked in (("cosine", "follows"), ("slope", "is moved by")) if np.isnan(row[key]))
    return Result("concepts", data, {**rm.provenance(), **facts}, True, rm.noise_floor, warnings)


def verdicts(result: Result) -> dict[str, Verdict]:
    """For each axis, whether the reward moves along the concept; evidence is the slope in random directions' slopes.

    Example:
        >>> from rewarden.plots.concept_examples import concepts_result
        >>> [name for name, one in verdicts(concepts_result()).items() if one.flag]
        ['hedging', 'lists']
    """
    found = {}
    for name in result.data["axis"].values:
        one = result.data.sel(axis=name)
        size = float(one["random_slope"])
        evidence = abs(float(one["slope"])) / size if size > 0 else 0.0  # NaN where nothing was left without length
        found[str(name)] = Verdict(str(name), bool(one["moves"]), evidence,
                                   float(one["slope"]), float(one["slope_low"]), float(one["slope_high"]),
                                   float(one["slope_p"]), int(one["seeds"]))
    return found


def followed(result: Result) -> dict[str, Verdict]:
    """For each axis, whether the reward follows the concept on the corpus; evidence is −log10 of p among random read-outs.

    Args:
        result: of `survey`.

    Example:
        >>> from rewarden.plots.concept_examples import concepts_result
        >>> [name for name, one in followed(concepts_result()).items() if one.flag]
        ['hedging', 'emoji']
    """
    found = {}
    for name in result.data["axis"].values:
        one = result.data.sel(axis=name)
        p = float(one["p"])
        found[str(name)] = Verdict(str(name), bool(one["follows"]), -math.log10(p) if p > 0 else 0.0, float(one["cosine"]),
                                   float(one["cosine_low"]), float(one["cosine_high"]), p, int(one["seeds"]))
    return found


def _axes(contrasts: Sequence[Contrast], options: SurveyOptions) -> tuple[dict[str, list[Contrast]], dict[str, int]]:
    """Contrasts to use of each axis, and axes with too few seeds."""
    if not contrasts:
        raise RewardenError("no contrasts", where="survey", why="the list is empty",
                            fix="give contrasts of one or several axes")
    axes: dict[str, list[Contrast]] = {}
    apart: dict[str, int] = {}
    for name in dict.fromkeys(item.axis for item in contrasts):
        items = in_turns([item for item in contrasts if item.axis == name], options.contrasts_each)
        count = len({item.cluster for item in items})
        if count < FEWEST:
            apart[name] = count
        else:
            axes[name] = items
    if not axes:
        raise RewardenError("no axis has enough seeds", where="survey", why=", ".join(f"{n}: {c}" for n, c in apart.items()),
                            fix=f"give contrasts with at least {FEWEST} different seeds an axis")
    return axes, apart


def in_turns(contrasts: Sequence[Contrast], most: int) -> list[Contrast]:
    """At most so many contrasts: one of every seed, then a second of every seed, …, with templates that take turns.

    Example:
        >>> told = [Contrast.of("Hi", f"a{i}", "b", seed=str(i // 3), id=str(i)) for i in range(6)]
        >>> [item.id for item in in_turns(told, 3)]
        ['0', '4', '1']
    """
    by_seed: dict[str, list[Contrast]] = {}
    for item in contrasts:
        by_seed.setdefault(item.cluster, []).append(item)
    # each seed begins one place further on: else all would begin with the first template
    queues = [items[turn % len(items):] + items[:turn % len(items)] for turn, items in enumerate(by_seed.values())]
    longest = max(map(len, queues))
    return [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)][:most]


def _length_part(states: np.ndarray, rows: Sequence[Encoded]) -> np.ndarray:
    """Orthonormal directions [d, 2] along which states [n, d] vary with the number of response tokens and its logarithm."""
    tokens = np.array([(row.spans == RESPONSE).sum() for row in rows], dtype=np.float64)
    covariates = np.column_stack([tokens, np.log(np.maximum(tokens, 1))])
    covariates -= covariates.mean(0)
    directions, sizes, _ = np.linalg.svd((states - states.mean(0)).T @ covariates, full_matrices=False)
    return directions[:, sizes > 1e-9 * max(float(sizes.max()), 1e-30)]


def without(concept: Direction, part: np.ndarray) -> Direction | None:
    """A direction without its part in the space of orthonormal columns [d, k]; None where nothing is left."""
    vector = concept.vector - part @ (part.T @ concept.vector)
    size = float(np.linalg.norm(vector))
    return replace(concept, vector=vector / size) if size > 1e-6 else None


def _direction(examples: Examples, states: np.ndarray, place: Place, name: str, method: Any, options: SurveyOptions
               ) -> Direction:
    settings = ConceptOptions(method=method, folds=options.folds, controls=0, level=options.level, seed=options.seed)
    return direction_of(states, examples, place, settings, name, {})


def _dose(rm: RewardModel, moved: Direction, contrasts: Sequence[Contrast], options: SurveyOptions) -> xr.Dataset:
    """The reward along a direction, from texts without the concept."""
    plain: dict[str, Conversation] = {}
    for item in contrasts:
        plain.setdefault(item.cluster, next(text for weight, text in item.terms if weight < 0))
    settings = DoseOptions(doses=(-1.0, 1.0), randoms=options.randoms, level=options.level, seed=options.seed)
    return dose_response(rm, moved, list(plain.values())[:options.items], options=settings).data


def _row(read: xr.Dataset, cosine: xr.Dataset | None, dose: xr.Dataset | None, contrasts: Sequence[Contrast], share: float
         ) -> dict[str, Any]:
    """What is said of one axis; NaN where there is no direction left to ask with."""
    def part(data: xr.Dataset | None, **names: str) -> dict[str, float]:
        return {key: math.nan if data is None else float(data[name]) for key, name in names.items()}

    return {**part(read, auc="auc", auc_low="auc_low", auc_high="auc_high", paired="paired"),
            **part(cosine, cosine="cosine", cosine_low="low", cosine_high="high", p="p"),
            "random_cosine": math.nan if cosine is None else float(np.quantile(np.abs(cosine["random"].values), 0.95)),
            **part(dose, slope="slope_mean", slope_low="slope_low", slope_high="slope_high", slope_p="p"),
            "random_slope": math.nan if dose is None else math.sqrt(float((dose["random_slope"] ** 2).mean())),
            "above_noise": dose is not None and bool(dose["above_noise"]), "length_share": share,
            "contrasts": len(contrasts), "seeds": len({item.cluster for item in contrasts})}
