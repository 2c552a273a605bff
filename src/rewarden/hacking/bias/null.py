"""How large do the t values of each axis become on models without any bias, because of what its texts share?

A model with random weights reacts to any token in always the same way. Where all wordings of an axis share something (a line
break before every list, the first bytes of every emoji, the order of sentences, or simply more tokens), that reaction is no
chance over wordings, and the t test of the axis fires too often. So every axis is also asked of small random-weight models with
the same tokenizer and many random heads each; the factor by which their t values exceed Student's is the factor by which
errors are widened before p is taken. In: questions, a tokenizer. Out: factors, p. Ignorant of the model under test.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats

from rewarden.hacking.bias.answering import Answer, answer_all
from rewarden.hacking.bias.axis_effects import Estimate, t_values
from rewarden.hacking.bias.questions import Question
from rewarden.options.bias import BiasOptions
from rewarden.readout import SequenceHead

if TYPE_CHECKING:
    from rewarden.reward_model import RewardModel

FACTORS = Path(__file__).with_name("null.json")
"""Factors of the bundled axes with the bundled tokenizer, made by `benchmarks/bias_null.py`."""

SCALES = (0.02, 0.15)
"""Standard deviations of random weights: what training starts from (attention almost even), and where attention selects."""

TRUNKS, HEADS = 4, 200
"""Random trunks of each scale, and random heads on each."""

WIDTH, DEPTH = 64, 2

_MEASURED: dict[tuple[str, int, str], np.ndarray] = {}
"""Factors measured in this process, by what writes the texts, seed and question."""

RATES = (0.05, 0.01)
"""Rates at which |t| on random models is brought down to Student's; the larger factor is taken, since tails can be heavy."""


def null_p(found: Estimate, factor: float, design: str) -> np.ndarray:
    """p [K] with the error widened by a factor; one-sided (larger) for spreads.

    Example:
        >>> one = Estimate(*(np.array([value]) for value in (4.0, 1.0, 10.0, 1.8, 6.2, 0.0025)))
        >>> null_p(one, 1.0, "mean").round(4).tolist(), null_p(one, 2.0, "mean").round(4).tolist()
        ([0.0025], [0.0734])
    """
    ratio = t_values(found.value, found.error) / factor
    return stats.t.sf(ratio, found.df) if design == "spread" else 2 * stats.t.sf(np.abs(ratio), found.df)


def null_interval(found: Estimate, factor: float, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Ends [K] of the interval with the error widened by a factor: it leaves out 0 only where the two-sided `null_p` is small.

    Example:
        >>> one = Estimate(*(np.array([value]) for value in (4.0, 1.0, 10.0, 1.8, 6.2, 0.0025)))
        >>> [end.round(2).tolist() for end in null_interval(one, 2.0, 0.95)]
        [[-0.46], [8.46]]
    """
    half = stats.t.ppf(0.5 + level / 2, found.df) * found.error * factor
    return found.value - half, found.value + half


def wording_p(found: tuple[np.ndarray, int] | None, factor: float, outputs: int) -> np.ndarray:
    """p [K] of the wording that lies farthest out, for the number of wordings (Bonferroni); NaN where none were looked at.

    Example:
        >>> wording_p((np.array([[1.0], [-9.0]]), 14), 1.0, 1).round(7).tolist()
        [7e-07]
    """
    if found is None:
        return np.full(outputs, np.nan)
    t, df = found
    return np.minimum(1.0, 2 * len(t) * stats.t.sf(np.abs(t).max(0) / factor, df))


def joint_p(kind: np.ndarray, wording: np.ndarray) -> np.ndarray:
    """p of two looks at one axis: as a kind, and at its farthest wording (NaN where none was looked at).

    Example:
        >>> joint_p(np.array([0.2, 0.03]), np.array([0.01, np.nan])).tolist()
        [0.02, 0.03]
    """
    return np.minimum(1.0, (1 + np.isfinite(wording)) * np.fmin(kind, wording))


def null_factors(rm: RewardModel, questions: Sequence[Question], options: BiasOptions) -> tuple[np.ndarray, str]:
    """Factors [question, 2], 1 or more: of the kind of change, and of single wordings; and where they are from.

    What is packaged holds for the bundled texts as the bundled tokenizer and chat template write them. For all else the factors
    are measured, once in a process for each tokenizer, template and question.

    Args:
        rm: the model under test; only its tokenizer and template are used.
        questions: what is asked.
        options: `calibration`, and the seed of the random models.

    Returns:
        Factors, and "packaged", "measured" (also where some are) or "off".
    """
    found = np.ones((len(questions), 2))
    if options.calibration == "off":
        return found, "off"
    usable = options.calibration == "auto" and options.per_seed <= BiasOptions().per_seed
    known = packaged()["factors"] if usable and written_by(rm) == packaged()["written_by"] else {}
    # what was measured holds for the bundled texts alone; contrasts of the user's may bear the same name
    packed = [question.axis.name in known and len(question.axis.templates) > 0 for question in questions]
    open_ = [question for question, has in zip(questions, packed, strict=True) if not has]
    measured = iter(_measured_once(rm, open_, options))
    for number, (question, has) in enumerate(zip(questions, packed, strict=True)):
        found[number] = known[question.axis.name] if has else next(measured)
    return found, "measured" if open_ else "packaged"


def written_by(rm: RewardModel) -> str:
    """Short hash of what turns texts into tokens: the vocabulary, the chat template and the begin-of-sequence policy.

    Example:
        >>> import rewarden as rw
        >>> written_by(rw.load()) == packaged()["written_by"]
        True
    """
    parts = [sorted(rm.tokenizer.get_vocab().items()), rm.encoder.template_hash, rm.encoder.bos]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _measured_once(rm: RewardModel, questions: Sequence[Question], options: BiasOptions) -> list[np.ndarray]:
    """`measure_factors`, of each question once in a process."""
    writer = written_by(rm)
    keys = [(writer, options.seed, _asked(question)) for question in questions]
    fresh = {key: question for key, question in zip(keys, questions, strict=True) if key not in _MEASURED}
    if fresh:
        _MEASURED.update(zip(fresh, measure_factors(rm, list(fresh.values()), options), strict=True))
    return [_MEASURED[key] for key in keys]


def _asked(question: Question) -> str:
    """Hash of all that a factor of a question depends on besides the tokenizer."""
    parts = hashlib.sha256(repr((question.axis.design, question.wordings)).encode())
    for contrasts in (question.contrasts, *question.controls):
        parts.update(repr([(one.terms, one.seed, one.template) for one in contrasts]).encode())
    return parts.hexdigest()


def measure_factors(rm: RewardModel, questions: Sequence[Question], options: BiasOptions,
                    progress: Callable[[int], None] | None = None) -> np.ndarray:
    """Factors [question, 2] from random-weight models that share the tokenizer: the larger one of the two scales of weights.

    Args:
        rm: whose tokenizer and template are used.
        questions: what is asked.
        options: the seed, and the batch size.
        progress: called with the number of random models done.
    """
    found = np.ones((len(questions), 2))
    for number, scale in enumerate(SCALES):
        quotients: list[list[np.ndarray]] = [[] for _ in questions]
        for trunk in range(TRUNKS):
            null = random_model(rm, scale, 1000 * (options.seed + 1) + len(SCALES) * trunk + number)
            for place, answer in enumerate(answer_all(null, questions, options)[0]):
                quotients[place].append(_quotients(answer, questions[place].axis.design))
            if progress:
                progress(number * TRUNKS + trunk + 1)
        for level, rate in enumerate(RATES):
            # NaN, where a tokenizer leaves an axis too few contrasts, leaves 1
            found = np.fmax(found, [np.quantile(np.concatenate([one[level] for one in some], 1), 1 - rate, axis=1)
                                    for some in quotients])
    return found


def _quotients(answer: Answer, design: str) -> np.ndarray:
    """t values over what Student's exceeds at each rate, [rate, 2, K]: of the kind of change, of the farthest wording."""
    t, spread = t_values(answer.net.value, answer.net.error), design == "spread"
    size = t if spread else np.abs(t)
    rows = []
    for rate in RATES:
        kind = size / stats.t.isf(rate if spread else rate / 2, answer.net.df)
        word = np.zeros_like(kind)
        if answer.wordings is not None:
            each, df = answer.wordings
            word = np.abs(each).max(0) / stats.t.isf(rate / (2 * len(each)), df)
        rows.append([kind, word])
    return np.array(rows)


def random_model(rm: RewardModel, scale: float, seed: int, heads: int = HEADS) -> RewardModel:
    """A small Llama with random weights and random heads that reads what `rm` reads.

    Args:
        rm: whose tokenizer, template and begin-of-sequence policy are used.
        scale: standard deviation of all weights.
        seed: of the weights.
        heads: outputs.
    """
    from transformers import LlamaConfig, LlamaForSequenceClassification

    from rewarden.reward_model import RewardModel

    size = max(len(rm.tokenizer), *(int(i) + 1 for i in rm.tokenizer.all_special_ids), 1)
    config = LlamaConfig(vocab_size=size, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=DEPTH,
                         num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096, initializer_range=scale,
                         pad_token_id=None, bos_token_id=None, eos_token_id=None, num_labels=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForSequenceClassification(config).eval().requires_grad_(False)
        weight = torch.randn(heads, WIDTH)
    null = RewardModel(model, rm.tokenizer, name=f"random weights {seed}", bos=rm.encoder.bos, check=False)
    names = tuple(f"random_{number}" for number in range(heads))
    return null.reading(SequenceHead(weight, torch.zeros(heads), null.readout.norm, names))


@cache
def packaged() -> dict[str, Any]:
    """What was measured: `factors` of the bundled axes, and the hash of what they were `written_by`."""
    return json.loads(FACTORS.read_text(encoding="utf-8")) if FACTORS.is_file() else {"factors": {}, "written_by": ""}
