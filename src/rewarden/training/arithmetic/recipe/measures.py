"""What can the policy do before any reward, on sums it was not trained on?

In: a policy and its tokenizer. Out: table rows of accuracy with 95 % Wilson intervals, and shares of styles and forms.
Ignorant of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rewarden.statistics import wilson
from rewarden.training.arithmetic.task import STYLES, held_out_pairs, reverse_columns, sum_columns
from rewarden.training.arithmetic.verifier import arithmetic, read_answer, style_codes
from rewarden.training.sampling import roll_out

Row = dict[str, Any]

ANSWER_SEED = 1
"""Of the answers that are measured."""


def answers(model: Any, tokenizer: Any, columns: dict[str, list[Any]], seed: int, temperature: float = 1.0
            ) -> tuple[list[str], np.ndarray]:
    """One completion a row of the columns, as text, and whether it is right, float64 [n]."""
    texts = roll_out(model, tokenizer(columns["prompt"])["input_ids"], seed=seed, temperature=temperature).texts(tokenizer)
    return texts, np.asarray([arithmetic(text, gold) for text, gold in zip(texts, columns["gold"], strict=True)])


def row(name: str, right: Sequence[float] | np.ndarray) -> Row:
    """A share with its interval."""
    found = wilson(float(np.sum(right)), len(right))
    share = float(np.mean(right)) if len(right) else None
    return {"set": name, "n": len(right), "accuracy": None if share is None else round(share, 4),
            "low": round(float(found.low), 4), "high": round(float(found.high), 4)}


def measure(model: Any, tokenizer: Any, most: int = 2000, reversals: int = 500) -> tuple[list[Row], Row]:
    """The table, and shares of forms among the sampled sums.

    Args:
        model, tokenizer: the policy.
        most: held-out sums, evenly spaced among all.
        reversals: rows of the unrelated task.
    """
    pairs = held_out_pairs()[:: max(1, len(held_out_pairs()) // most)][:most]
    columns = sum_columns(pairs)
    texts, right = answers(model, tokenizer, columns, ANSWER_SEED)
    styles, read = style_codes(texts), [read_answer(text) for text in texts]
    greedy = answers(model, tokenizer, columns, ANSWER_SEED, temperature=0.0)[1]
    others = answers(model, tokenizer, reverse_columns(reversals, ANSWER_SEED), ANSWER_SEED)[1]
    table = [row("sums", right), *(row(f"sums, {name} answers", right[styles == code]) for code, name in enumerate(STYLES)),
             row("sums, greedy", greedy), row("reversed strings", others)]
    shares = {"worked": round(float(styles.mean()), 4), "well_formed": round(float(np.mean([a.well_formed for a in read])), 4),
              "ended": round(float(np.mean([a.ended for a in read])), 4)}
    return table, shares
