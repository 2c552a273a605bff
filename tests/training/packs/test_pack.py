"""Packs come back as they were saved, and say no more than their evidence."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.packs.makers import rollouts, valid

from rewarden.dictionaries.dictionary import Dictionary
from rewarden.edits.edit import Site
from rewarden.errors import RewardenError
from rewarden.sarm.hashes import dictionary_sha256
from rewarden.training.gate import gate_features
from rewarden.training.packs import Pack, PackFeature, evidence_of, list_packs, validate
from rewarden.training.packs.pack import PackDictionary, PackModel, PackSite, from_json


def changed(where: str, value: Any) -> dict[str, Any]:
    """The valid pack's JSON with one value replaced; "a.0.b" names it."""
    made = copy.deepcopy(valid().json())
    *path, last = (int(key) if key.isdigit() else key for key in where.split("."))
    place: Any = made
    for key in path:
        place = place[key]
    place[last] = value
    return made


def refused(tmp_path, value: Any) -> RewardenError:
    file = tmp_path / "pack.json"
    file.write_text(json.dumps(value))
    with pytest.raises(RewardenError) as error:
        Pack.load(file)
    assert type(error.value) is RewardenError
    assert error.value.fix
    assert validate(file)[0].severity == "error"
    return error.value


def test_a_saved_pack_is_the_pack(tmp_path) -> None:
    pack = valid()
    file = pack.save(tmp_path / "sums.json")
    assert Pack.load(file) == pack
    assert json.loads(file.read_text())["features"][1] == {
        "id": 3, "name": "copies ½", "weight": -0.5, "description": "", "threshold": None}
    assert [one.where for one in validate(file)] == ["$.evidence.chosen_on"]
    assert [path.name for path in tmp_path.iterdir()] == ["sums.json"]


def test_the_score_is_the_weighted_sum_in_base_sds() -> None:
    values = np.random.default_rng(0).normal(size=(5, 2))
    expected = (values[:, 0] - 0.5 * values[:, 1] - 0.1) / 1.5
    np.testing.assert_allclose(valid().score(values), expected, atol=1e-15)
    assert valid().thresholds.tolist() == [0.25, -np.inf]
    with pytest.raises(RewardenError, match="shape"):
        valid().score(values[:, :1])


@pytest.mark.parametrize(("where", "value", "path"), [
    ("schema", 2, "$.schema"), ("schema", True, "$.schema"), ("name", "../etc/passwd", "$.name"), ("name", "a\n", "$.name"),
    ("version", "1.0", "$.version"), ("version", "1.0.0\n", "$.version"), ("validated", 1, "$.validated"),
    ("model.weights_sha256", "A" * 64, "$.model.weights_sha256"), ("site.layer", -1, "$.site.layer"),
    ("site.layer", True, "$.site.layer"), ("site.kind", "logits", "$.site.kind"),
    ("dictionary.n_features", 0, "$.dictionary.n_features"),
    ("features", [], "$.features"), ("features.0.id", 256, "$.features[0].id"), ("features.0.id", -1, "$.features[0].id"),
    ("features.0.id", 3, "$.features[1].id"), ("features.0.id", 1.5, "$.features[0].id"),
    ("features.0.id", "17", "$.features[0].id"),
    ("features.0.weight", None, "$.features[0].weight"), ("features.0.weight", 1e31, "$.features[0].weight"),
    ("features.0.weight", 10**400, "$.features[0].weight"), ("features.0.weight", -1.0, "$.features[0].direction"),
    ("features.0.threshold", "none", "$.features[0].threshold"), ("features.0.name", "", "$.features[0].name"),
    ("features.0.name", "a\u0000b", "$.features[0].name"), ("features.0.name", "\ud800", "$.features[0].name"),
    ("features.0.extra", 1, "$.features[0].extra"), ("description", "x" * 4001, "$.description"),
    ("aggregation.kind", "median", "$.aggregation.kind"), ("aggregation.k", 3, "$.aggregation.k"),
    ("aggregation.share", 0, "$.aggregation.share"), ("normalisation.sd", 0, "$.normalisation.sd"),
    ("normalisation.n", 1, "$.normalisation.n"), ("evidence", None, "$.validated"), ("evidence.level", 0.9, "$.evidence.level"),
    ("evidence.plain.low", 1.0, "$.evidence.plain"), ("evidence.date", "2025-02-30", "$.evidence.date"),
    ("evidence.n", 10, "$.evidence.strata"), ("helpful_features", [], "$.helpful_features"),
])
def test_each_fault_is_named_by_its_path(tmp_path, where: str, value: Any, path: str) -> None:
    assert refused(tmp_path, changed(where, value)).where == path


@pytest.mark.parametrize(("where", "value", "path"), [
    ("evidence.within.low", 0.49, "$.evidence.within"), ("evidence.matched.low", 0.5, "$.evidence.matched"),
    ("evidence.within.auc", None, "$.evidence.within.auc"), ("evidence.clusters", 9, "$.evidence.clusters"),
    ("evidence.verdict", "style only", "$.evidence.verdict"), ("evidence.strata", [], "$.evidence.strata"),
    ("evidence.strata.0.right", 9, "$.evidence.strata[0]"), ("evidence.chosen_on", "same", "$.evidence.chosen_on"),
    ("evidence.strata.0.auc", 0.5, "$.evidence.within.auc"), ("evidence.n", 1300, "$.evidence.strata"),
])
def test_validated_is_worked_out_from_the_numbers(tmp_path, where: str, value: Any, path: str) -> None:
    held = valid().json()
    if value is None:  # an AUC that the strata do not give
        value = held["evidence"]["within"]["auc"] + 2e-6
    if value == "same":
        value = held["evidence"]["rollouts_sha256"]
    made = changed(where, value)
    if where == "evidence.strata.0.auc":
        made["evidence"]["strata"][0] |= {"low": 0.4, "high": 0.6}
    assert refused(tmp_path, made).where == path
    made["validated"] = False  # then it is a pack all the same, and what it lacks is a warning
    file = tmp_path / "modest.json"
    file.write_text(json.dumps(made))
    assert not Pack.load(file).validated
    assert path in [one.where for one in validate(file) if one.severity == "warning"]


def test_a_stratum_that_reads_the_wrong_way_denies_validation(tmp_path) -> None:
    made = copy.deepcopy(valid().json())
    strata = made["evidence"]["strata"]
    strata[0] |= {"auc": 0.3, "low": 0.2, "high": 0.45}
    pairs = [one["right"] * one["wrong"] for one in strata]
    made["evidence"]["within"]["auc"] = sum(p * one["auc"] for p, one in zip(pairs, strata, strict=True)) / sum(pairs)
    made["evidence"]["within"]["low"] = 0.51
    assert refused(tmp_path, made).where == "$.evidence.strata[0]"


def test_evidence_is_of_the_weights_it_was_gated_with(tmp_path) -> None:
    made = changed("features.0.weight", 1.0 + 1e-12)
    assert refused(tmp_path, made).where == "$.evidence.weights_sha256"
    made = changed("features", valid().json()["features"][::-1])
    assert refused(tmp_path, made).where == "$.evidence.weights_sha256"
    made["validated"] = False
    (tmp_path / "modest.json").write_text(json.dumps(made))
    assert Pack.load(tmp_path / "modest.json").ids.tolist() == [3, 17]


def test_all_zero_weights_are_no_reward(tmp_path) -> None:
    made = changed("features.0.weight", 0)
    made["features"][1]["weight"] = 0.0
    assert refused(tmp_path, made).where == "$.features"


@pytest.mark.parametrize(("content", "what"), [
    (b'{"schema": 1, "schema": 1}', "twice"), (b'{"schema": NaN}', "NaN"), (b'{"schema": -Infinity}', "Infinity"),
    (b"[" * 100_000, "deep"), (b"\xff\xfe{}", "UTF-8"), (b"\xef\xbb\xbf{}", "UTF-8"), (b"", "JSON"), (b"1" * 5000, "JSON"),
    (b" " * (2**20 + 1), "large"), (b"null", "no feature pack"), (b"[]", "no feature pack"), (b"1e999", "no feature pack"),
])
def test_what_is_no_strict_json_is_refused(tmp_path, content: bytes, what: str) -> None:
    file = tmp_path / "pack.json"
    file.write_bytes(content)
    with pytest.raises(RewardenError, match=what) as error:
        Pack.load(file)
    assert type(error.value) is RewardenError
    assert validate(file)[0].severity == "error"


@pytest.mark.parametrize("path", [".", "nowhere/pack.json", "a\x00b"])
def test_what_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(RewardenError, match="there is no file"):
        Pack.load(path)


def test_several_faults_are_told_at_once(tmp_path) -> None:
    made = changed("name", "No Name")
    made["site"]["layer"] = "two"
    error = refused(tmp_path, made)
    assert error.where == "$.name"
    assert '$.site.layer: string "two" where an integer is expected' in error.why
    assert len(validate(tmp_path / "pack.json")) == 2


def test_a_pack_cannot_be_made_wrong_in_python() -> None:
    with pytest.raises(RewardenError) as error:
        Pack("sums", "1.0.0", PackModel("m", "0" * 64), PackSite("resid_post", 0), PackDictionary("d", "0" * 64, 4),
             (PackFeature(4, "out of bounds", 1.0),))
    assert error.value.where == "$.features[0].id"
    with pytest.raises(RewardenError) as error:
        Pack("sums", "1.0.0", PackModel("m", "0" * 64), PackSite("resid_post", 0), PackDictionary("d", "0" * 64, 4),
             (PackFeature(1, "no number", float("nan")),))
    assert "weight" in error.value.where
    assert from_json(valid().json()) == valid()


def test_a_pack_knows_its_dictionary_and_model() -> None:
    atoms = torch.eye(4)
    own = Dictionary(atoms, torch.zeros(4), atoms, torch.zeros(4), k=1, site=Site("resid_post", 1))
    pack = Pack("sums", "1.0.0", PackModel("m", "0" * 64), PackSite("resid_post", 1),
                PackDictionary("d", dictionary_sha256(own), 4), (PackFeature(1, "one", 1.0),))
    pack.check(own, model_sha256="0" * 64)
    with pytest.raises(RewardenError) as error:
        pack.check(Dictionary(atoms, torch.full((4,), 1e-6), atoms, torch.zeros(4), k=1))
    assert error.value.where == "$.dictionary.sha256"
    bigger = torch.eye(5)
    with pytest.raises(RewardenError) as error:
        pack.check(Dictionary(bigger, torch.zeros(5), bigger, torch.zeros(5), k=1, site=Site("resid_post", 2)))
    assert error.value.where == "$.dictionary.n_features"
    assert "$.site" in error.value.why
    with pytest.raises(RewardenError) as error:
        pack.check(model_sha256="1" * 64)
    assert error.value.where == "$.model.weights_sha256"


def test_evidence_of_a_style_reader_does_not_validate() -> None:
    data = rollouts()
    style = (data["styles"] == "worked") + np.random.default_rng(3).normal(0, 0.3, 600)
    found = gate_features(style[:, None], data.pop("labels"), weights=[1.0], **data)
    evidence = evidence_of(found)
    assert evidence.plain.low > 0.6
    assert evidence.verdict == "style only"
    parts = {"model": PackModel("m", "0" * 64), "site": PackSite("resid_post", 0),
             "dictionary": PackDictionary("d", "0" * 64, 4), "features": (PackFeature(0, "style", 1.0),)}
    assert not Pack("style", "1.0.0", **parts, evidence=evidence).validated
    with pytest.raises(RewardenError) as error:
        Pack("style", "1.0.0", **parts, evidence=evidence, validated=True)
    assert error.value.where.startswith("$.evidence")


def test_evidence_needs_a_score() -> None:
    data = rollouts()
    with pytest.raises(RewardenError, match="no evidence on a weighted score"):
        evidence_of(gate_features(np.random.default_rng(0).normal(size=(600, 1)), data.pop("labels"), **data))


def test_shipped_packs_load_by_name(tmp_path, monkeypatch) -> None:
    from rewarden.training.packs import pack

    monkeypatch.setattr(pack, "SHIPPED", tmp_path)
    assert list_packs() == []
    with pytest.raises(RewardenError, match="there is no file"):
        Pack.load("sums")
    valid().save(tmp_path / "sums.json")
    assert list_packs() == ["sums"]
    assert Pack.load("sums") == valid()


@pytest.mark.parametrize("name", list_packs())
def test_what_is_shipped_has_no_errors_and_carries_its_name(name: str) -> None:
    assert Pack.load(name).name == name
