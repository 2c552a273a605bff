"""Synthetic pages and audits for the tests of the report: planted rules, no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from rewarden import plots
from rewarden.conversation import Pair
from rewarden.errors import RewardenError
from rewarden.options import AuditOptions
from rewarden.plots.effect_examples import agreement_result, estimate_result, flip_result, patch_result, paths_result
from rewarden.plots.examples import attribution_result, lens_result, trace_result
from rewarden.report import Audit, Check, FigureBlock, Finding, HtmlBlock, Page, Section, TableBlock
from rewarden.result import Result

Rule = Callable[[str, str], float]
"""A planted reward: from prompt and response to a number."""


class RuleModel:
    """A reward model whose rule is known: enough of one for the sections that only score."""

    def __init__(self, rule: Rule, noise_floor: float = 1e-6) -> None:
        self.rule, self.noise_floor = rule, noise_floor

    def encode(self, conversation: object) -> object:
        """Every conversation fits."""
        return conversation

    def score(self, pairs: Sequence[Pair]) -> Result:
        """The score layout; a token is a word."""
        reward = np.array([[self.rule(conversation.prompt[-1]["content"], conversation.response)
                            for conversation in pair.conversations] for pair in pairs], dtype=np.float32)
        tokens = np.array([[len(pair.chosen.split()), len(pair.rejected.split())] for pair in pairs])
        finite = np.isfinite(reward).all(axis=1)
        margin = np.where(finite, reward[:, 0] - reward[:, 1], np.nan)
        data = xr.Dataset(
            {"reward": (("pair", "side", "scalar"), reward[:, :, None]), "margin": ("pair", margin),
             "tokens": (("pair", "side"), tokens), "truncated": (("pair", "side"), np.zeros_like(tokens)),
             "finite": ("pair", finite), "chosen_longer": ("pair", (tokens[:, 0] - tokens[:, 1]).astype(float))},
            coords={"pair": [pair.id or str(row) for row, pair in enumerate(pairs)], "side": ["chosen", "rejected"],
                    "scalar": ["reward"], "subset": ("pair", [pair.subset for pair in pairs])})
        return Result(kind="score", data=data, provenance={"model": "rule", "output": "reward"},
                      noise_floor=self.noise_floor)


def audit_of(pairs: Sequence[Pair], rule: Rule, **options: int) -> Audit:
    """An audit of a planted rule, without a run folder."""
    model = RuleModel(rule)
    chosen = AuditOptions(**{"resamples": 400, **options})
    return Audit(rm=model, pairs=list(pairs), score=model.score(pairs), options=chosen)  # type: ignore[arg-type]


def hostile_page(texts: Sequence[str]) -> Page:
    """A page that shows every text in every place a text can come to."""
    texts = list(texts)
    n = len(texts)
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"text": pd.Series(texts, dtype=object), "number": rng.normal(size=n),
                          texts[0]: pd.Series(texts[::-1], dtype=object)})
    score = _score(texts, rng)
    scalar = score.data["scalar"].values[0]
    accuracy = pd.DataFrame({"subset": pd.Series(texts[:30], dtype=object), "n": 10, "accuracy": 0.6, "low": 0.4, "high": 0.8})
    attribution = attribution_result(layers=4)
    names = [f"{texts[row % n]}{row}" for row in range(attribution.data.sizes["component"])]
    attribution = Result("attribution", attribution.data.assign_coords(component=names), {})
    grid = xr.Dataset({"accuracy": (("style_chosen", "style_rejected"), rng.random((4, 4))),
                       "n": (("style_chosen", "style_rejected"), np.ones((4, 4), dtype=int))},
                      coords={"style_chosen": texts[:4], "style_rejected": texts[4:8]})
    exchange = xr.Dataset({"reward": (("pair", "side", "prompt"), rng.normal(size=(n, 2, 2)))},
                          coords={"pair": texts, "side": ["chosen", "rejected"], "prompt": ["own", "other"]})
    fit = np.linspace(-1, 1, 5)
    length = xr.Dataset({"margin": ("pair", rng.normal(size=n)), "length_difference": ("pair", rng.normal(size=n)),
                         "fit": ("grid", fit), "fit_low": ("grid", fit - 1), "fit_high": ("grid", fit + 1)},
                        coords={"pair": texts, "subset": ("pair", texts[::-1]), "grid": fit})
    trace = trace_result(tuple(texts))
    tokens = xr.Dataset({"lens": (("layer", "token"), rng.normal(size=(3, n)))},
                        coords={"layer": [-1, 0, 1], "text": ("token", texts)})
    effects = patch_result(n=2, positions=n, tokens=tuple(texts))
    effects = Result("patch", effects.data.assign_coords(pair=texts[:2], site=texts[2:5]), {"mode": texts[5]})
    paths = paths_result()
    paths = Result("paths", paths.data.assign_coords(sender=texts[:3], receiver=texts[3:7]), {})
    flips = flip_result()
    flips = Result("flip", flips.data.assign(site=flips.data["site"].where(flips.data["site"] == "", texts[7])).assign_coords(
        pair=texts[:3]), {})
    agreed = agreement_result()
    agreed = Result("agreement", agreed.data.assign_coords(component=texts[: agreed.data.sizes["component"]],
                                                           pair=texts[: agreed.data.sizes["pair"]]), {})
    estimated = estimate_result(20)
    estimated = Result("estimate", estimated.data.assign_coords(cell_site=("cell", texts[:20]),
                                                                cell_pair=("cell", texts[10:30])), {})
    figures = [plots.scores(score, scalar=str(scalar)), plots.margins(score), plots.accuracy(accuracy, title=texts[1]),
               plots.attribution(attribution), plots.head_map(attribution), plots.ledger(attribution),
               plots.style_grid(Result("style_grid", grid, {})), plots.prompt_exchange(Result("x", exchange, {})),
               plots.length(Result("length", length, {})), plots.reward_trace(trace), plots.reward_trace(trace, trace),
               plots.lens_tokens(Result("lens_tokens", tokens, {})), plots.lens(lens_result(), raw=True),
               plots.lens_accuracy(lens_result()), plots.patch_positions(effects, name=texts[8]), plots.paths_map(paths),
               plots.patch_layers(Result("patch", patch_result(sites=tuple(texts[:3])).data, {"mode": "noising"})),
               plots.patch_heads(patch_result(), attribution), plots.flip_steps(flips), plots.agreement_scatter(agreed, pair=1),
               plots.agreement_by_length(agreed), plots.estimate_scatter(estimated)]
    blocks = [FigureBlock(figure, texts[place % n], table) for place, figure in enumerate(figures)]
    coloured = plots.side_by_side((texts, rng.normal(size=n)), (texts, rng.normal(size=n)), heads=(texts[0], texts[1]),
                                  unit=texts[2])
    sections = [Section("figures", texts[3], [Finding(text) for text in texts], blocks, texts[4], {"texts": texts}),
                Section("text", texts[5], [Finding(text, "concern") for text in texts[:5]],
                        [HtmlBlock(texts[6], texts[7], coloured.html, table), TableBlock(texts[8], texts[9], table)]),
                Section("broken", texts[10], problem=RewardenError(texts[11], where=texts[12], why=texts[13], fix=texts[14]))]
    return Page(name=texts[2], facts={text: text for text in texts[:6]}, provenance={text: text for text in texts},
                command=texts[1], health=[Check(text, text, "look", text) for text in texts], sections=sections,
                version=texts[0])


def _score(texts: list[str], rng: np.random.Generator) -> Result:
    n = len(texts)
    reward = rng.normal(size=(n, 2, 1)).astype(np.float32)
    data = xr.Dataset({"reward": (("pair", "side", "scalar"), reward), "margin": ("pair", reward[:, 0, 0] - reward[:, 1, 0])},
                      coords={"pair": texts, "side": ["chosen", "rejected"], "scalar": [texts[-2]],
                              "subset": ("pair", [texts[row % 20] for row in range(n)])})
    return Result("score", data, {"model": texts[0]})
