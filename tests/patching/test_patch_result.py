"""What a patch Result says: shares, coordinates, costs, pairs set apart, refusals, unusual read-outs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.edits.plain import plain_run
from tests.families import build, cached
from tests.patching.by_hand import EQUAL, FAST, LONGER, SHORTER, SITES, model_of, moves_by_hand
from tests.tokenizers_tiny import WORDS, tiny_tokenizer

from rewarden.conversation import Pair
from rewarden.edits import Edit, Site
from rewarden.ensemble import Ensemble
from rewarden.errors import RewardenError
from rewarden.patching import patch
from rewarden.readout import Reading, SequenceHead
from rewarden.reward_model import RewardModel

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_both_sides_have_read_so_far_is_exactly_nothing(family: str) -> None:
    rm = model_of(family)
    ids = [rm.encode(side).ids for side in EQUAL.conversations]
    shared = int(np.argmax(ids[0] != ids[1]))
    found = patch(rm, EQUAL, ("resid_pre", *SITES), positions="each", **FAST)
    assert not found.effect[..., :shared].any()
    assert not found.effect_heads[..., :shared].any()
    assert found.below_noise[..., :shared].all()
    assert not found.below_noise[..., shared + 1:-1].all()
    assert found.provenance["edits"] == (3 * 3 + 12) * (len(ids[0]) - shared)


def test_normalized_is_the_share_of_the_margin() -> None:
    found = patch(model_of("llama"), [SHORTER, LONGER], **FAST)
    np.testing.assert_allclose(found.normalized, found.effect / found.margin[:, None, None])
    np.testing.assert_allclose(found.normalized_heads, found.effect_heads / found.margin[:, None, None])
    np.testing.assert_allclose(found.margin, model_of("llama").score([SHORTER, LONGER]).margin, atol=1e-6)


def test_effects_of_several_pairs_are_those_of_each() -> None:
    rm, pairs = model_of("llama"), [SHORTER, LONGER, EQUAL]
    steps: list[int] = []
    together = patch(rm, pairs, positions="each", progress=steps.append, **FAST)
    assert steps == [1, 1, 1]
    for number, pair in enumerate(pairs):
        alone = patch(rm, pair, positions="each", **FAST)
        width = alone.data.sizes["position"]
        np.testing.assert_array_equal(together.effect[number][..., -width:], alone.effect[0])
        assert np.isnan(together.effect[number][..., :-width]).all()
        assert together.data["token"].values[number, :-width].tolist() == [""] * (together.data.sizes["position"] - width)
        assert (together.data["span"].values[number, :-width] == -1).all()


def test_a_read_out_that_reads_twice_is_edited_at_both() -> None:
    """All positions that are read are edited together, the first with the first though it is no suffix of the other run."""
    class Twice(SequenceHead):
        def read(self, encoded) -> Reading:
            return Reading(np.asarray([encoded.response_start, encoded.length - 1]))

        def apply_normed(self, normed, reading):
            return normed.sum(-2) @ self.weight.T + self.bias

        native = None

    model = cached("llama")
    rm = RewardModel(model, tiny_tokenizer(), check=False, readout=lambda model, tokenizer, architecture: Twice(
        model.score.weight.float(), torch.zeros(1), architecture.norm))
    found = patch(rm, SHORTER, "mlp_out", **FAST)
    base, other = (rm.base(side, ("mlp_out",)) for side in SHORTER.conversations)
    where = tuple(base.reading.positions.tolist())
    for layer in range(3):
        edit = Edit(Site("mlp_out", layer, where), other.activation("mlp_out", layer)[other.reading.positions])
        edited = rm.plan(base, [edit], backend="hooks").run().values[0, 0]
        assert found.effect[0, 0, layer] == pytest.approx(base.reward - float(edited), abs=1e-5)
    start = where[0] - base.length
    assert found.data["aligned"].sel(position=start).item() == other.reading.positions[0] - other.length


def test_sites_behind_a_read_out_in_the_middle_have_no_effect() -> None:
    def head(model, tokenizer, architecture) -> SequenceHead:
        made = SequenceHead(model.score.weight.float(), torch.zeros(1), architecture.norm)
        made.layer = 1
        return made
    rm = RewardModel(cached("llama"), tiny_tokenizer(), readout=head, check=False)
    found = patch(rm, EQUAL, ("resid_post", *SITES), positions="all", **FAST)
    assert not found.effect[0, :, 2].any()
    assert not found.effect_heads[0, 2].any()
    assert found.effect[0, 0, :2] == pytest.approx(found.margin[0], abs=1e-5)
    base, other = (rm.base(side, sites=("mlp_out",)) for side in EQUAL.conversations)
    edited = rm.plan(base, [Edit(Site("mlp_out", 1), other.activation("mlp_out", 1))], backend="hooks").run().values[0, 0]
    assert abs(base.reward - float(edited)) > 1e-4
    assert found.effect[0, 2, 1] == pytest.approx(base.reward - float(edited), abs=1e-5)


def test_the_cost_is_counted() -> None:
    found = patch(model_of("llama"), [SHORTER, LONGER], **FAST)
    assert found.provenance["edits"] == 2 * 18
    assert 2 < found.provenance["forwards"] / 2 < 3.5
    assert found.provenance["backend"] == "light cone"
    assert found.provenance["sites"] == "attn_out, mlp_out, z"


def test_unequal_pairs_are_missing_under_equal_only_and_counted() -> None:
    rm = model_of("llama")
    found = patch(rm, [SHORTER, EQUAL], alignment="equal_only", **FAST)
    assert np.isnan(found.effect[0]).all()
    assert np.isfinite(found.effect[1]).all()
    assert np.isfinite(found.margin).all()
    assert found.warnings == ("1 of 2 pairs have runs of unequal length, which alignment='equal_only' leaves out; "
                              "their effects are missing",)
    np.testing.assert_array_equal(found.mean, found.effect[1])
    with pytest.raises(RewardenError, match="no pair has sides of equal length"):
        patch(rm, [SHORTER, LONGER], alignment="equal_only")


def test_a_reward_that_is_not_finite_sets_its_pair_apart() -> None:
    model = build("llama")
    model.model.embed_tokens.weight[tiny_tokenizer().convert_tokens_to_ids("spider")] = torch.nan
    rm = RewardModel(model, tiny_tokenizer(), check=False)
    bad = Pair("Tell me a joke", "no", "a spider")
    for mode in ("noising", "denoising", "zero", "mean"):
        found, clean = (patch(rm, pairs, mode=mode, positions="each", **FAST) for pairs in ([bad, EQUAL], [EQUAL]))
        assert np.isnan(found.effect[0]).all()
        assert np.isnan(found.margin[0])
        assert found.warnings[0].startswith("1 of 2 pairs have a non-finite reward")
        if mode != "mean":  # the chosen side of the bad pair counts in the mean
            np.testing.assert_array_equal(found.effect[1], clean.effect[0])


def test_refusals_name_what_is_allowed() -> None:
    rm = model_of("llama")
    with pytest.raises(RewardenError) as error:
        patch(rm, SHORTER, ("attn", "z"), "noise", "last", "left", alpha=2.0)
    for word in ("sites", "attn_out", "mode", "denoising", "positions", "read_out", "alignment", "suffix", "alpha"):
        assert word in str(error.value)
    for sites, part in ((("attn_out",), "attn_out"), (("mlp_out",), "mlp_out"), (("z",), "z"), (("q",), "q")):
        with pytest.raises(RewardenError, match=f"patching {part} is not defined for this model"):
            patch(model_of("bert"), SHORTER, sites)
    with pytest.raises(RewardenError, match="Ensemble has no single residual stream"):
        patch(Ensemble([rm, model_of("gpt2")]), SHORTER)
    with pytest.raises(RewardenError, match="no other pair"):
        patch(rm, SHORTER, mode="resample")
    with pytest.raises(RewardenError, match="did you mean 'alpha'"):
        patch(rm, SHORTER, alhpa=0.1)


def test_a_post_norm_encoder_is_patched_between_its_layers() -> None:
    rm = model_of("bert")
    found = patch(rm, LONGER, ("resid_pre", "resid_post"), positions="each", **FAST)
    ids = [rm.encode(side).ids.tolist() for side in LONGER.conversations]
    held = plain_run(rm.model, "bert", ids[1], watch=("resid_pre", "resid_post"))[1]
    reward = float(plain_run(rm.model, "bert", ids[0])[0])
    moves = moves_by_hand("suffix", *ids, 0)
    for position in (1, 4, len(ids[0]) - 1):
        for number, kind in enumerate(("resid_pre", "resid_post")):
            edit = Edit(Site(kind, 1, position), held[kind][1][moves[position]])
            theirs = reward - float(plain_run(rm.model, "bert", ids[0], [edit])[0])
            assert found.effect[0, number, 1, position] == pytest.approx(theirs, abs=1e-5)


def test_words_make_pairs_of_any_length() -> None:
    """Random pairs: read-out effects equal those of the sweep over positions, at the last one."""
    rng = np.random.default_rng(0)
    pairs = [Pair(f"one {number}", *(" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(2))) for number in range(6)]
    short, long = (patch(model_of("llama"), pairs, positions=positions, **FAST) for positions in ("read_out", "each"))
    for name in ("effect", "effect_heads"):
        np.testing.assert_allclose(short.data[name].values, long.data[name].values[..., -1], atol=1e-5)
