"""How likely is each token as the first one of a response, to a language model?

In: a causal model and prompts. Out: log p(token | prompt) of every id at the response slot; the read-out that makes a language
model of a causal checkpoint. Ignorant of rewards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rewarden.architecture import Architecture
from rewarden.encoding import Encoded
from rewarden.errors import RewardenError
from rewarden.norms import Norm
from rewarden.readout.base import Reading, Readout, last_position
from rewarden.readout.tokens import VOCABULARY_CHUNK, logit_transform
from rewarden.result import Result
from rewarden.reward_model import RewardModel
from rewarden.tokens.scan import apart, listed_prompts
from rewarden.tokens.scores import token_scores
from rewarden.tokens.slot import Prompt, find_slot
from rewarden.tokens.vocabulary import describe_ids, every_id


@dataclass(eq=False)
class NextTokenHead(Readout):
    """A language model read as itself: logits of the next token at the last position.

    Its scalar is the logits' log-sum-exp: the self-check at load, which compares it with the model's own head, then covers
    the whole unembedding.

    Args:
        unembedding: [V, d] in the model's dtype; upcast in chunks.
        bias: float32 [V] or None.
        norm: the final norm.
        transform: soft-cap or scale of the logits, or None.
    """

    unembedding: Tensor
    bias: Tensor | None
    norm: Norm
    transform: Callable[[Tensor], Tensor] | None = None
    names: tuple[str, ...] = ("log_partition",)

    def read(self, encoded: Encoded) -> Reading:
        """The last token."""
        return Reading(last_position(encoded))

    def logits(self, normed: Tensor) -> Tensor:
        """float32 [..., V] of normed states [..., d], the vocabulary in chunks."""
        parts = []
        for start in range(0, len(self.unembedding), VOCABULARY_CHUNK):
            rows = slice(start, start + VOCABULARY_CHUNK)
            parts.append(normed @ self.unembedding[rows].float().T + (0 if self.bias is None else self.bias[rows]))
        logits = torch.cat(parts, -1)
        return self.transform(logits) if self.transform else logits

    def apply_normed(self, normed: Tensor, reading: Reading) -> Tensor:
        """log Σ exp logits [..., 1]."""
        return self.logits(normed[..., -1, :]).logsumexp(-1, keepdim=True)

    def native(self, model: nn.Module, inputs: dict[str, Tensor], reading: Reading) -> Tensor | None:
        """The same of the language model's own logits."""
        return model(**inputs).logits[0, -1].float().logsumexp(-1, keepdim=True)


def next_token(model: nn.Module, tokenizer: Any, architecture: Architecture) -> NextTokenHead:
    """Read-out that makes a language model of a causal checkpoint: `rw.load(path, readout=next_token)`.

    Raises:
        RewardenError: no unembedding.
    """
    find: Any = getattr(model, "get_output_embeddings", lambda: None)
    unembedding = find()
    weight = getattr(unembedding, "weight", None)
    if weight is None or weight.ndim != 2 or weight.shape[1] != architecture.d_model:
        raise RewardenError(f"{type(model).__name__} is no language model", where="next_token", why="it has no unembedding",
                            fix="pass the causal checkpoint that the reward model was trained from")
    bias = getattr(unembedding, "bias", None)
    return NextTokenHead(weight.detach(), None if bias is None else bias.detach().float(), architecture.norm,
                         logit_transform(model.config.get_text_config()))  # type: ignore[operator, union-attr]


def next_token_log_probs(lm: RewardModel | tuple[nn.Module, Any], prompt: Prompt | Sequence[Prompt], *,
                         system: str | None = None, ids: Sequence[int] | np.ndarray | None = None) -> Result:
    """How likely is each token as the first one of a response?

    The slot is that of `rw.score_vocabulary`, so the two can be compared id by id. Probabilities are normalised over the whole
    unembedding, rows without a token included, whatever `ids` asks for.

    Args:
        lm: a causal model loaded by rewarden (`readout=next_token`, or any other: "judge", "implicit"), or a transformers
            causal model with its tokenizer.
        prompt: the user's text, a conversation, or several.
        system: text of a system message put before each.
        ids: tokens asked for; by default every id that has a token and an embedding.

    Returns:
        Result "next_token": `log_prob` (prompt, token), natural logarithm, float32; `entropy` (prompt) in nats; coordinates of
        `token` as in `TokenScores`.

    Raises:
        RewardenError: no language model, ids without an unembedding row.

    Example:
        >>> import torch, rewarden as rw
        >>> from transformers import AutoModelForCausalLM
        >>> rm = rw.load()
        >>> config = rm.model.config.__class__(**{**rm.model.config.to_dict(), "num_hidden_layers": 1})
        >>> lm = AutoModelForCausalLM.from_config(config)
        >>> found = next_token_log_probs((lm.eval(), rm.tokenizer), "Hi")
        >>> found.log_prob.dtype, bool(found.log_prob.max() < 0)
        (dtype('float32'), True)
    """
    if isinstance(lm, RewardModel):
        language = lm.reading(next_token(lm.model, lm.tokenizer, lm.architecture))
    else:
        language = RewardModel(lm[0], lm[1], readout=next_token)
    head: Any = language.readout
    chosen = every_id(language) if ids is None else np.asarray(list(ids), np.int64).reshape(-1)
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= len(head.unembedding):
        raise RewardenError(f"{len(chosen)} ids, not all from 0 to {len(head.unembedding) - 1}", where="ids=",
                            fix="pass ids of this vocabulary, or None for all")
    labels, rows, entropy = [], [], []
    for text in listed_prompts(prompt):
        slot = find_slot(language, text, system)
        labels.append(slot.label)
        if not slot.start:
            raise RewardenError("nothing stands before the response", where="prompt=", why="the first token has no context",
                                fix="give a chat template that writes the prompt first")
        residual = language.capture([slot.before], ["final"], [np.asarray([slot.start - 1])])[0]["final"]
        with torch.no_grad():
            log_p = head.logits(head.norm(residual.float()))[0].log_softmax(-1)
            entropy.append(float(-(log_p.exp() * log_p.clamp_min(-1e30)).sum()))
        rows.append(log_p.cpu().numpy()[chosen])
    known = describe_ids(language, chosen)
    frame = token_scores(np.stack(rows), token_id=chosen, text=known.text, piece=known.piece, bytes_=known.bytes,
                         flags=known.flags, prompts=apart(labels))
    data = frame.data[["reward"]].rename(reward="log_prob").assign(entropy=("prompt", np.asarray(entropy)))
    return Result("next_token", data, {**language.provenance(), "system": system or ""})
