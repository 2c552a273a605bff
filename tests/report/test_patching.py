"""The causal sections: their numbers are those of the analyses, their claims those of planted effects, and gaps are said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from tests.contracts.test_families import model_of
from tests.report.hostile import HOSTILE
from tests.report.pages import RuleModel

import rewarden as rw
from rewarden.conversation import Pair
from rewarden.hacking.calibration import null_words
from rewarden.options import AuditOptions
from rewarden.organisms import decisive_head
from rewarden.patching import deciding, patch
from rewarden.patching.agreement import agreement as compare
from rewarden.plots.effect_examples import agreement_result, patch_result
from rewarden.report import Audit, Page, Section, render
from rewarden.report.section import build_section, builders
from rewarden.report.sections import agreement, patching
from rewarden.report.words import interval
from rewarden.result import Result

OPTIONS = {"resamples": 100, "lens_pairs": 14, "patch_pairs": 12, "examples": 2}


def audit_of(rm, pairs, **options) -> Audit:
    return Audit(rm=rm, pairs=list(pairs), score=rm.score(pairs), options=AuditOptions(**{**OPTIONS, **options}))


@pytest.fixture(scope="module")
def audit(demo) -> Audit:
    return audit_of(demo, rw.load_pairs("demo", limit=16))


@pytest.fixture(scope="module")
def causal(audit) -> Section:
    section = patching.build(audit)
    assert section is not None
    return section


@pytest.fixture(scope="module")
def direct(audit, demo) -> Result:
    pairs = [audit.pairs[row] for row in patching.patched_pairs(audit)]
    return patch(demo, pairs, sites=("resid_post", "attn_out", "mlp_out", "z"), resamples=100)


# --- numbers -----------------------------------------------------------------------------------------------------------

def test_layers_are_those_of_the_analysis(causal, direct):
    table = causal.blocks[0].table.set_index(["site", "layer"])
    for site in ("resid_post", "attn_out", "mlp_out"):
        for part in ("mean", "low", "high"):
            np.testing.assert_allclose(table.loc[site][part], direct.data[part].sel(site=site), atol=1e-6)
    assert causal.data["margin"] == pytest.approx(float(direct.data["margin"].mean()), abs=1e-6)
    assert causal.data["n"] == 12


def test_heads_stand_beside_the_attribution_of_the_same_pairs(audit, causal, direct, demo):
    table = causal.blocks[1].table
    found = rw.attribute(demo, [audit.pairs[row] for row in patching.patched_pairs(audit)], resamples=100).data
    for row in table.to_dict("records"):
        layer, head = int(row["layer"]), int(row["head"])
        assert row["effect"] == pytest.approx(float(direct.data["mean_heads"].sel(layer=layer, head=head)), abs=1e-6)
        name = f"head.{layer}.{head}"
        assert row["attribution"] == pytest.approx(float(found["difference"].sel(component=name).mean()), abs=1e-6)
    assert len(table) == demo.architecture.n_layers * demo.architecture.n_heads


def test_maps_are_of_the_pairs_they_name(audit, causal, demo):
    shown, said = patching.map_rows(audit, demo.architecture.n_layers)
    assert said == []
    assert [item["pair"] for item in causal.data["maps"]] == [audit.pairs[row].id for row, *_ in shown]
    for block, (row, _, sites) in zip(causal.blocks[2:], shown, strict=True):
        found = patch(demo, audit.pairs[row], sites=sites, positions="each", alignment="prefix", resamples=100)
        effect = found.data["effect"].isel(pair=0)
        first = block.table.iloc[0]
        assert abs(first["effect"]) == pytest.approx(float(np.abs(effect).max()), abs=1e-6)
        for cell in block.table.head(9).to_dict("records"):
            place = {"site": cell["site"], "layer": cell["layer"], "position": cell["position"]}
            assert cell["effect"] == pytest.approx(float(effect.sel(place)), abs=1e-6)
            assert cell["token"] == str(found.data["token"].isel(pair=0).sel(position=cell["position"]).values)


def test_agreement_says_what_the_analysis_found(audit, demo):
    section = agreement.build(audit)
    found = compare(demo, [audit.pairs[row] for row in patching.patched_pairs(audit)], resamples=100).data
    assert section is not None
    rows = {(row["comparison"], row["components"], row["pairs"]): row for row in section.data["correlations"]}
    for comparison in found["comparison"].values:
        for kind in found["type"].values:
            cell = found.sel(comparison=comparison, type=kind)
            if int(cell["n"]):
                row = rows[comparison, kind, "all"]
                assert (row["rho"], row["low"], row["n"]) == (pytest.approx(float(cell["rho_mean"])),
                                                              pytest.approx(float(cell["rho_low"])), int(cell["n"]))
    table = section.blocks[0].table.set_index("component")
    np.testing.assert_allclose(table.loc[found["component"].values, "total"], found["total"].mean("pair"), atol=1e-6)


# --- claims ------------------------------------------------------------------------------------------------------------

def planted(strength: dict[tuple[str, int], float], n: int = 16, layers: int = 5) -> Result:
    """A patch result whose effects are known: the residual stream of layer l carries l / (layers − 1) of a margin of 2."""
    result = patch_result(n=n, layers=layers)
    data = result.data.copy(deep=True)
    for suffix in ("", "_heads"):
        data[f"mean{suffix}"][:] = 0.0
        data[f"marked{suffix}"][:] = False
    data["margin"][:] = 2.0
    stream = np.linspace(0, 2, layers)
    data["mean"].loc[{"site": "resid_post"}] = stream
    data["marked"].loc[{"site": "resid_post"}] = stream > 0
    for (site, layer), value in strength.items():
        data["mean"].loc[{"site": site, "layer": layer}] = value
        data["marked"].loc[{"site": site, "layer": layer}] = True
    for part, shift in (("low", -0.25), ("high", 0.25)):
        data[part], data[f"{part}_heads"] = data["mean"] + shift, data["mean_heads"] + shift
    return replace(result, data=data)


def texts_of(result: Result) -> list[str]:
    return [item.text for item in patching._findings(result, patching.by_layer(result))]


def test_the_layer_from_which_half_of_the_margin_is_there_is_named():
    layer, parts = texts_of(planted({("mlp_out", 3): 0.9, ("attn_out", 1): -0.4}))
    assert "decides half of the margin from layer 2 on (of 0 to 4)" in layer
    assert "1.00 [0.75, 1.25] of the mean margin of 2 are lost (n = 16 pairs)" in layer
    assert parts.startswith("2 of 30 attention writes, MLPs and heads")
    assert parts.endswith("the largest: mlp_out.3 (0.90 [0.65, 1.15]) and attn_out.1 (−0.40 [−0.65, −0.15]).")


def test_nothing_is_claimed_without_a_mark():
    result = planted({})
    result.data["marked"][:] = False
    (text,) = texts_of(result)
    assert text.startswith("There is no evidence that any single attention write, MLP or head")


def test_a_part_out_of_proportion_is_named():
    organism = decisive_head(seed=1)
    pairs = organism.pairs(12)
    result = patch(organism, pairs, sites=("resid_post", "attn_out", "mlp_out", "z"), resamples=100)
    one = deciding(result)[str(organism.truth["component"])]
    (text,) = [text for text in texts_of(result) if text.startswith("One part")]
    head = f"head {organism.truth['head']} of layer {organism.truth['layer']}"
    assert text == (f"One part decides: {head} has an effect of {interval(one.estimate, one.low, one.high)} on the reward, "
                    f"out of proportion to all 19 other heads and MLPs (p = {one.p:.2g}; n = 12 pairs). "
                    f"{null_words('deciding')}")
    assert not any(text.startswith("One part") for text in texts_of(planted({("mlp_out", 3): 0.9})))
    section = patching.build(audit_of(organism, pairs, examples=0))
    assert section is not None
    assert section.data["deciding"] == organism.truth["component"]
    assert text in [item.text for item in section.findings]


def test_few_pairs_support_no_claim():
    (text,) = texts_of(planted({("mlp_out", 3): 0.9}, n=9))
    assert text == "Nothing is said of causal effects: n = 9; at least 10 pairs are needed."
    (text,) = [item.text for item in agreement._findings(agreement_result(n=9))]
    assert text.startswith("Nothing is said of the agreement of attribution with causal effects: n = 9")


def test_both_conventions_are_told_apart():
    ours, published = (item.text for item in agreement._findings(agreement_result()))
    assert "direct effects with ρ = 0.930 [0.920, 0.940], and by their total effects with ρ = 0.600 [0.590, 0.610]" in ours
    assert "gives ρ = 0.050 [0.040, 0.060] on the same pairs" in published
    assert "rejected shorter ρ = 0.050 [0.030, 0.070] (aligned: ρ = 0.600 [0.580, 0.620])" in published


# --- which pairs are shown ---------------------------------------------------------------------------------------------

def rule_audit(lengths: list[tuple[int, int]], **options) -> Audit:
    """An audit of a rule, in which a token is a word: pairs of these lengths."""
    pairs = [Pair(f"q{row}", "yes " * chosen, "no " * rejected, id=f"p{row}") for row, (chosen, rejected) in enumerate(lengths)]
    return audit_of(RuleModel(lambda prompt, response: float(prompt[1:]) * response.startswith("yes")), pairs, **options)


def test_short_pairs_of_like_length_are_shown():
    lengths = [(3, 30)] * 3 + [(20, 21), (9, 9), (40, 40)] + [(60, 60)] * 12
    shown, said = patching.map_rows(rule_audit(lengths, examples=3), layers=4)
    assert said == []
    rows = [row for row, *_ in shown]
    assert set(rows) <= set(range(3, 18))
    assert rows[-1] == max(row for row in range(3, 15))  # the surest success among the 12 shortest of like length


@pytest.mark.parametrize(("layers", "sites"), [
    (4, ("resid_post", "attn_out", "mlp_out")), (100, ("resid_post",)), (10_000, ())])
def test_a_map_that_would_cost_too_much_is_not_drawn(layers, sites):
    shown, said = patching.map_rows(rule_audit([(20, 20)] * 6, examples=1), layers)
    assert [found for _, _, found in shown] == ([sites] if sites else [])
    assert said == ([] if sites else ["No token by token map is drawn of 1 pair: it would cost more than 600 forwards."])


def test_no_examples_no_maps(demo):
    section = patching.build(audit_of(demo, rw.load_pairs("demo", limit=4), examples=0))
    assert section is not None
    assert len(section.blocks) == 2


def test_no_patching_no_sections(demo):
    audit = audit_of(demo, rw.load_pairs("demo", limit=4), patch_pairs=0)
    assert (patching.build(audit), agreement.build(audit)) == (None, None)


# --- what a model does not have, and hostile text ----------------------------------------------------------------------

@pytest.mark.filterwarnings("ignore")
def test_a_post_norm_encoder_gets_what_exists_and_is_told_what_does_not():
    pairs = [Pair(f"what is {word}", f"yes it is {word} and so it is", f"no {word} it", id=word)
             for word in ("red", "sun", "moon", "early", "question", "help", "please", "cold", "dog", "sky")]
    audit = audit_of(model_of("bert"), pairs, patch_pairs=10, examples=1)
    made = {builder.name: build_section(builder, audit) for builder in builders() if builder.name in ("patching", "agreement")}
    causal, compared = made["patching"], made["agreement"]
    assert causal is not None
    assert compared is not None
    assert causal.problem is None
    assert {row["site"] for row in causal.data["cells"]} == {"resid_post"}
    said = " ".join(item.text for item in causal.findings)
    assert "Attn_out and mlp_out cannot be patched: a layer's output is not its input plus" in said
    assert "Z cannot be patched: no linear map from concatenated heads" in said
    assert compared.problem is not None
    assert "agreement is not defined" in compared.problem.what
    assert "post-norm" in compared.problem.why
    assert "Not available" in render(Page(name="x", sections=[causal, compared]))


def test_a_deep_model_compares_fewer_pairs(audit, demo, monkeypatch):
    monkeypatch.setattr(agreement, "FORWARDS", 3 * 2 * demo.architecture.n_layers)
    found = agreement.agreement_of(audit)
    patched = {audit.pairs[row].id for row in patching.patched_pairs(audit)}
    assert len(found.data["pair"]) == 3
    assert set(found.data["pair"].values) <= patched


def test_an_ensemble_is_told_to_take_its_members(demo):
    audit = audit_of(demo, rw.load_pairs("demo", limit=4))
    audit.rm = rw.Ensemble([demo, demo])  # type: ignore[assignment]
    made = [build_section(builder, audit) for builder in builders() if builder.name in ("patching", "agreement")]
    assert ["rm.models" in made_of.problem.fix for made_of in made if made_of and made_of.problem] == [True, True]


def test_hostile_tokens_do_not_become_markup(demo):
    texts = [text.encode("utf-8", "replace").decode() for text in HOSTILE[:24]]
    pairs = [Pair(texts[row], texts[row + 1] + " a", texts[row + 2] + " b", id=texts[row], subset=texts[row + 3])
             for row in range(0, 16, 4)]
    section = patching.build(audit_of(demo, pairs, patch_pairs=4))
    assert section is not None
    page = render(Page(name="x", sections=[section]))
    body = page[: page.index('id="rewarden-data"')]
    assert "__hit()" in body
    for start in ("<script>__hit", "<img src=x", "<svg onload", "<iframe src", "<svg/onload", "<a href=\"java"):
        assert start not in body


def test_attribution_of_some_of_its_pairs():
    difference = np.arange(12.0).reshape(4, 3)
    data = xr.Dataset({"difference": (("pair", "component"), difference),
                       **{name: ("component", np.zeros(3)) for name in ("mean", "low", "high")}})
    found = patching.same_pairs(Result("attribution", data), rows=[5, 9], all_rows=[2, 5, 7, 9])
    np.testing.assert_array_equal(found.data["mean"], difference[[1, 3]].mean(axis=0))
