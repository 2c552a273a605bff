"""How likely is a response under a causal language model? Its mean log-probability per token, and responses drawn from it.

In: a language model whose ids are the searched ones, contexts, responses as ids. Out: natural-log probabilities, float64.
Ignorant of rewards and of what bound is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rewarden.batching import CPU_TOKENS, GPU_TOKENS
from rewarden.errors import RewardenError
from rewarden.trace.hooks import evaluating

LOGITS = 2**25
"""Logits held at once (128 MB in float32)."""


@dataclass(eq=False)
class Likelihood:
    """Log-probabilities of responses after some contexts.

    Attributes:
        model: a transformers causal language model.
        contexts: int64 [C] each, the ids before the response; several count as their least likely one.
    """

    model: nn.Module
    contexts: Sequence[np.ndarray]
    _terms: tuple[bytes, list[np.ndarray]] | None = field(default=None, repr=False)

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Mean log-probability per token, float64 [n], of responses int64 [n, N]: the least over contexts."""
        means = []
        for context in self.contexts:
            found = [self._log_probabilities(context, part).gather(-1, self._tensor(part)[..., None])[..., 0].double().mean(-1)
                     for part in self._parts(context, rows)]
            means.append(torch.cat(found).cpu().numpy())
        return np.min(means, axis=0)

    def best_mean(self, ids: np.ndarray, positions: np.ndarray, others: np.ndarray) -> np.ndarray:
        """What the mean could be at most with token `others[i]` at `positions[i]`, float64 [n].

        No token after it can have a log-probability above 0, so the sum up to it is a bound, from one forward a context.
        """
        key, length = np.asarray(ids, np.int64).tobytes(), len(ids)
        if self._terms is None or self._terms[0] != key:
            terms = []
            for context in self.contexts:
                logs = self._log_probabilities(context, np.asarray(ids, np.int64)[None])[0].double().cpu().numpy()  # [N, V]
                before = np.cumsum(logs[np.arange(length), ids]) - logs[np.arange(length), ids]
                terms.append((before[:, None] + logs) / length)
            self._terms = key, terms
        return np.min([terms[positions, others] for terms in self._terms[1]], axis=0)

    def draw(self, length: int, allowed: np.ndarray, temperature: float, n: int, rng: np.random.Generator) -> np.ndarray:
        """Responses int64 [n, length] drawn from the model after the first context, out of the allowed ids.

        Args:
            length: tokens of a response.
            allowed: int64 [A].
            temperature: 0 starts with each of the n likeliest tokens and goes on with the likeliest.
            n: responses.
            rng: what they are drawn with.
        """
        rows = np.empty((n, 0), np.int64)
        for position in range(length):
            padded = np.concatenate([rows, np.zeros((len(rows), 1), np.int64)], 1)
            logs = torch.cat([self._log_probabilities(self.contexts[0], part)[:, -1]
                              for part in self._parts(self.contexts[0], padded)]).double().cpu().numpy()[:, allowed]
            if temperature == 0:
                order = np.argsort(-logs, axis=1, kind="stable")
                chosen = order[np.arange(n), np.arange(n) % len(allowed)] if position == 0 else order[:, 0]
            else:
                weight = np.exp((logs - logs.max(1, keepdims=True)) / temperature).cumsum(1)
                chosen = (weight < rng.random((n, 1)) * weight[:, -1:]).sum(1).clip(max=len(allowed) - 1)
            rows = np.concatenate([rows, allowed[chosen][:, None]], 1)
        return rows

    def _tensor(self, rows: np.ndarray) -> Tensor:
        return torch.as_tensor(rows, device=next(self.model.parameters()).device)

    def _parts(self, context: np.ndarray, rows: np.ndarray) -> list[np.ndarray]:
        budget = CPU_TOKENS if next(self.model.parameters()).device.type == "cpu" else GPU_TOKENS
        each = len(context) + rows.shape[1]
        size = max(1, min(budget // each, LOGITS // (vocabulary_size(self.model) * (rows.shape[1] + 1))))
        return [rows[k:k + size] for k in range(0, len(rows), size)]

    def _log_probabilities(self, context: np.ndarray, rows: np.ndarray) -> Tensor:
        """Of every token at every place of the responses [n, N]: [n, N, V]. Rows are of one length: nothing is padded."""
        whole = self._tensor(np.concatenate([np.repeat(context[None], len(rows), 0), rows], 1))
        kept = rows.shape[1] + 1
        less = {"logits_to_keep": kept} if "logits_to_keep" in signature(self.model.forward).parameters else {}
        with evaluating(self.model):
            logits = self.model(input_ids=whole, attention_mask=torch.ones_like(whole), use_cache=False, **less).logits
            return logits[:, -kept:-1].float().log_softmax(-1)


def vocabulary_size(model: nn.Module) -> int:
    """Ids that a language model predicts."""
    return int(model.get_output_embeddings().weight.shape[0])  # type: ignore[operator, union-attr]


def language_model(lm: Any) -> nn.Module:
    """The transformers module of a causal language model, given itself or inside a reward model (a judge, a DPO policy).

    Raises:
        RewardenError: it has no language-model head.
    """
    model = getattr(lm, "model", lm) if not hasattr(lm, "get_output_embeddings") else lm
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None:
        raise RewardenError(f"{type(model).__name__} predicts no tokens", where="naturalness=",
                            why="it has no language-model head", fix="pass a model loaded with AutoModelForCausalLM")
    return model
