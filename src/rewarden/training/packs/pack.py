"""A feature pack: which features of which dictionary of which model make up a reward, and what speaks for it.

In: a JSON file, or the parts. Out: a checked `Pack`; there is no other. Ignorant of how features are read from a model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rewarden.errors import RewardenError
from rewarden.store.files import plain, write_bytes
from rewarden.training.packs.evidence import Evidence
from rewarden.training.packs.reading import LARGEST, read_json
from rewarden.training.packs.rules import MOST_FAULTS, built, hints_of, pack_faults
from rewarden.training.packs.schema import Fault

if TYPE_CHECKING:
    from rewarden.dictionaries.dictionary import Dictionary

SHIPPED = Path(__file__).with_name("shipped")


@dataclass(frozen=True)
class PackModel:
    """The model that is read: its name, and `weights_sha256` of its provenance."""

    id: str
    weights_sha256: str


@dataclass(frozen=True)
class PackSite:
    """Where it is read; layers from 0, `resid_post` of l is `hidden_states[l + 1]`."""

    kind: Literal["resid_pre", "resid_post", "attn_out", "mlp_out"]
    layer: int


@dataclass(frozen=True)
class PackDictionary:
    """The dictionary: its name, `rewarden.sarm.hashes.dictionary_sha256`, and how many latents it has."""

    name: str
    sha256: str
    n_features: int


@dataclass(frozen=True)
class PackFeature:
    """One latent.

    Attributes:
        id: from 0.
        name: of what it stands for.
        weight: in the sum that is the score.
        description: longer.
        threshold: a token's value that is not above it counts as 0; None for none.
        direction: "more" or "less" of it is wanted, in agreement with the weight's sign; may be left out.
    """

    id: int
    name: str
    weight: float
    description: str = ""
    threshold: float | None = None
    direction: Literal["more", "less"] | None = None


@dataclass(frozen=True)
class PackAggregation:
    """How the values of a completion's tokens become one: `kind`, with `k` of "last" and `share` of "top"."""

    kind: Literal["mean", "max", "last", "top", "sum"] = "top"
    k: int | None = None
    share: float | None = None


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation of the weighted sum over `n` rollouts of the base model."""

    mean: float
    sd: float
    n: int


@dataclass(frozen=True)
class Pack:
    """Features, weights and evidence.

    Attributes:
        name, version, description: of the pack.
        model, site, dictionary: what it reads.
        features: in the order of `weights`.
        aggregation: over the tokens of a completion.
        normalisation: None where it was not measured.
        evidence: None where there is none.
        validated: whether the evidence meets the rule of `rewarden.training.packs.evidence`; False may always be said.

    Raises:
        RewardenError: anything that `validate` calls an error; `where` is its JSON path.

    Example:
        >>> pack = Pack("sums", "1.0.0", PackModel("demo", "0" * 64), PackSite("resid_post", 2),
        ...             PackDictionary("d", "1" * 64, 8), (PackFeature(3, "carries", 2.0), PackFeature(5, "copies", -1.0)))
        >>> pack.score([[1.0, 0.5], [0.0, 1.0]]).tolist()
        [1.5, -1.0]
    """

    name: str
    version: str
    model: PackModel
    site: PackSite
    dictionary: PackDictionary
    features: tuple[PackFeature, ...]
    aggregation: PackAggregation = PackAggregation()
    normalisation: Normalisation | None = None
    evidence: Evidence | None = None
    validated: bool = False
    description: str = ""

    def __post_init__(self) -> None:
        value = self.json()
        found = list(islice(pack_faults(value), MOST_FAULTS))
        _refuse(found, "Pack")
        for one in fields(self):  # whole numbers given as floats' weights, lists given as tuples: as the file gives them back
            object.__setattr__(self, one.name, built(hints_of(Pack)[one.name], value.get(one.name)))

    @property
    def ids(self) -> np.ndarray:
        """Latents int64 [F]."""
        return np.array([one.id for one in self.features], dtype=np.int64)

    @property
    def weights(self) -> np.ndarray:
        """float64 [F]."""
        return np.array([one.weight for one in self.features], dtype=np.float64)

    @property
    def thresholds(self) -> np.ndarray:
        """float64 [F]; −inf where there is none."""
        return np.array([-np.inf if one.threshold is None else one.threshold for one in self.features], dtype=np.float64)

    def score(self, values: Any) -> np.ndarray:
        """The weighted sum [n] of aggregated values [n, F], in standard deviations from the base model's mean where known."""
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.features):
            raise RewardenError(f"values of shape {values.shape}", where="Pack.score(values)",
                                why=f"this pack has {len(self.features)} features", fix="pass [n, F], in the order of pack.ids")
        total, base = values @ self.weights, self.normalisation
        return total if base is None else (total - base.mean) / base.sd

    def json(self) -> dict[str, Any]:
        """The value of its file."""
        held = {"schema": 1, **asdict(self)}
        held["aggregation"] = _without_none(held["aggregation"])
        held["features"] = [_without_none(one, "direction") for one in held["features"]]
        return plain(held, "$")  # type: ignore[return-value]  # a mapping stays one

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as JSON, whole or not at all.

        Raises:
            RewardenError: the disk refused, or the file would be larger than `load` reads.
        """
        content = (json.dumps(self.json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
        if len(content) > LARGEST:
            raise RewardenError("this pack is too large", where=str(path), why=f"{len(content):,} bytes, at most {LARGEST:,}",
                                fix="shorten the descriptions")
        write_bytes(Path(path), content)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Pack:
        """Read a file, or one of the packs that came with rewarden by its name (see `list_packs`).

        Raises:
            RewardenError: there is no such file or pack; it is no strict JSON; or something in it is wrong: `where` has the
                JSON path, and `why` all that was found.
        """
        shipped = SHIPPED / f"{path}.json"
        file = shipped if str(path) in list_packs() and not Path(path).exists() else Path(path)
        value = read_json(file)
        _refuse(list(islice(pack_faults(value), MOST_FAULTS)), str(path))
        return from_json(value)

    def check(self, dictionary: Dictionary | None = None, *, model_sha256: str | None = None) -> None:
        """Whether a dictionary, and a model, are those that the pack was made with.

        Args:
            dictionary: the one at hand.
            model_sha256: `weights_sha256` of the provenance of the model at hand.

        Raises:
            RewardenError: one is another.
        """
        wrong: list[Fault] = []
        if dictionary is not None:
            from rewarden.sarm.hashes import dictionary_sha256

            if dictionary.d_sae != self.dictionary.n_features:
                wrong.append(Fault("$.dictionary.n_features", f"{self.dictionary.n_features}, this one has {dictionary.d_sae}"))
            found = dictionary_sha256(dictionary)
            if found != self.dictionary.sha256:
                wrong.append(Fault("$.dictionary.sha256", f"{self.dictionary.sha256[:12]}…, this one has {found[:12]}…"))
            site = dictionary.site
            if site is not None and (site.kind, site.layer) != (self.site.kind, self.site.layer):
                wrong.append(Fault("$.site", f"{self.site.kind}.{self.site.layer}, this one reads {site}"))
        if model_sha256 is not None and model_sha256 != self.model.weights_sha256:
            wrong.append(Fault("$.model.weights_sha256",
                               f"{self.model.weights_sha256[:12]}…, this model has {model_sha256[:12]}…"))
        if wrong:
            raise RewardenError(f"the pack {self.name!r} was made with something else", where=wrong[0].where,
                                why="; ".join(f"{one.where}: {one.what}" for one in wrong),
                                fix=f"use {self.dictionary.name} with {self.model.id}, or discover features anew")


def list_packs() -> list[str]:
    """Names of the packs that came with rewarden, for `Pack.load`."""
    return sorted(file.stem for file in SHIPPED.glob("*.json")) if SHIPPED.is_dir() else []


def from_json(value: Mapping[str, Any]) -> Pack:
    """A pack of a JSON value that has no faults."""
    return Pack(**{one.name: built(hints_of(Pack)[one.name], value.get(one.name)) for one in fields(Pack)
                   if one.name in value})


def _refuse(found: list[Fault], file: str) -> None:
    if found:
        others = f"; and {len(found) - 1}{'+' * (len(found) == MOST_FAULTS)} more: " + "; ".join(
            f"{one.where}: {one.what}" for one in found[1:6]) if found[1:] else ""
        raise RewardenError(f"no feature pack: {file[:200]}", where=found[0].where, why=found[0].what + others,
                            fix="rewarden packs validate FILE lists all; pack_schema.json says what can stand where")


def _without_none(value: Any, *names: str) -> Any:
    """A mapping without those of the names (by default: all) that stand for None; anything else as it is."""
    if not isinstance(value, dict):
        return value
    return {key: held for key, held in value.items() if held is not None or (names and key not in names)}
