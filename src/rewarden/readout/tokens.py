"""Read-outs of language-model and token heads: process rewards, judges, and DPO's implicit reward.

In: normed hidden states at several positions. Out: one score, with its per-step or per-token terms as parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from rewarden.conversation import Conversation, Message
from rewarden.encoding import RESPONSE, Encoded
from rewarden.errors import RewardenError
from rewarden.norms import Norm
from rewarden.readout.base import Reading, Readout, last_position
from rewarden.readout.heads import SequenceHead

VOCABULARY_CHUNK = 16384  # rows of the unembedding upcast at once: 16384·4096·4 B = 256 MB


@dataclass(eq=False)
class TokenHead(Readout):
    """A per-token head read at step ends (process reward model), over the response, or at the last token.

    Args:
        weight: float32 [c, d].
        bias: float32 [c].
        norm: the final norm.
        where: "steps" (ends of reasoning steps), "response" (every response token) or "last".
        separator: regular expression between steps, when `step_token` is None.
        step_token: id of a token that marks a step's end (Qwen2.5-Math-PRM's <extra_0>), else None.
        activation: "auto" is the last class's probability for several classes and the raw value for one; "sigmoid" for one
            class; "none" is the (last class's) raw logit.
        aggregate: how steps make the score: "min", "mean", "last" or "product".
    """

    weight: Tensor
    bias: Tensor
    norm: Norm
    where: Literal["steps", "response", "last"] = "steps"
    separator: str = r"\n+"
    step_token: int | None = None
    activation: Literal["auto", "none", "sigmoid"] = "auto"
    aggregate: Literal["min", "mean", "last", "product"] = "min"
    names: tuple[str, ...] = ("score",)

    def __post_init__(self) -> None:
        known = {"where": ("steps", "response", "last"), "activation": ("auto", "none", "sigmoid"),
                 "aggregate": ("min", "mean", "last", "product")}
        wrong = {name: values for name, values in known.items() if getattr(self, name) not in values}
        if wrong:
            raise RewardenError(f"impossible options of a token head: {', '.join(f'{n}={getattr(self, n)!r}' for n in wrong)}",
                                where="TokenHead", fix="; ".join(f"{n} is one of {v}" for n, v in wrong.items()))
        self.reads_ids = self.where == "steps"

    def read(self, encoded: Encoded) -> Reading:
        """Step ends, response tokens, or the last token."""
        if self.where == "last":
            return Reading(last_position(encoded))
        response = np.flatnonzero(encoded.spans == RESPONSE)
        if self.where == "response":
            return Reading(response)
        if self.step_token is not None:
            marked = np.flatnonzero(encoded.ids == self.step_token)
            marked = marked[marked >= response[0]]
            if not len(marked):
                raise RewardenError("the response has no step", where="TokenHead",
                                    why=f"token {self.step_token} marks a step's end and does not occur",
                                    fix="insert the marker after each step, or use separator= with step_token=None")
            return Reading(marked)
        return Reading(self._step_ends(encoded, response))

    def _step_ends(self, encoded: Encoded, response: np.ndarray) -> np.ndarray:
        """The last token of each step: the last one that starts before the separator (or the response's end)."""
        start, end = int(encoded.offsets[response[0], 0]), int(encoded.offsets[response[-1], 1])
        text = encoded.text[start:end]
        borders = [start + m.start() for m in re.finditer(self.separator, text) if text[:m.start()].strip()]
        ends = {int(response[encoded.offsets[response, 0] < border][-1]) for border in [*borders, end]}
        return np.asarray(sorted(ends))

    def apply_normed(self, normed: Tensor, reading: Reading) -> Tensor:
        """The aggregated score [..., 1]."""
        steps = self._values(normed)
        how = {"min": lambda: steps.amin(-1), "mean": lambda: steps.mean(-1), "last": lambda: steps[..., -1],
               "product": lambda: steps.prod(-1)}
        return how[self.aggregate]()[..., None]

    def _values(self, normed: Tensor) -> Tensor:
        logits = normed @ self.weight.T + self.bias  # [..., R, c]
        if len(self.weight) > 1:
            return logits[..., -1] if self.activation == "none" else logits.softmax(-1)[..., -1]
        return logits[..., 0].sigmoid() if self.activation == "sigmoid" else logits[..., 0]

    def parts(self, residual: Tensor, reading: Reading) -> dict[str, Tensor]:
        """The value at each read position, [..., R]."""
        return {"step": self._values(self.norm(residual.float()))}

    def native(self, model: nn.Module, inputs: dict[str, Tensor], reading: Reading) -> Tensor | None:
        """The same aggregation of the model's own token logits."""
        logits = model(**inputs).logits
        if logits.ndim != 3:
            return None
        probe = TokenHead(torch.eye(logits.shape[-1], device=logits.device), torch.zeros(1, device=logits.device),
                          Norm.identity(logits.shape[-1], logits.device), activation=self.activation,
                          aggregate=self.aggregate)
        return probe.apply_normed(logits[0, torch.as_tensor(reading.positions, device=logits.device)].float(), reading)


JUDGE_QUESTION = ("Here is a question and an answer.\n\nQuestion: {prompt}\n\nAnswer: {response}\n\n"
                  "Is the answer good? Reply with Yes or No.")


@dataclass(eq=False)
class JudgeHead(SequenceHead):
    """A generative judge: logit of the good verdict token minus that of the bad one, before anything is generated.

    Args:
        question: text with `{prompt}` and `{response}`, shown as one user message.
    """

    question: str = JUDGE_QUESTION
    tokens: tuple[int, int] = (0, 0)
    transform: Callable[[Tensor], Tensor] | None = None
    generation_prompt: bool = True

    def messages(self, conversation: Conversation) -> Sequence[Message]:
        """The judge's question about this conversation."""
        prompt = "\n\n".join(message["content"] for message in conversation.prompt)
        values = {"{prompt}": prompt, "{response}": conversation.response}
        # one pass: a prompt that itself says "{response}" must stay as it is
        text = re.sub(r"\{prompt\}|\{response\}", lambda match: values[match[0]], self.question)
        return ({"role": "user", "content": text},)

    def apply_normed(self, normed: Tensor, reading: Reading) -> Tensor:
        """logit(good) − logit(bad)."""
        logits = normed[..., -1, :] @ self.weight.T + self.bias
        logits = self.transform(logits) if self.transform else logits
        return (logits[..., 0] - logits[..., 1])[..., None]

    def weights_normed(self, normed: Tensor, reading: Reading, output: int) -> tuple[Tensor, Tensor]:
        """Difference of the two unembedding rows (the tangent where logits are soft-capped)."""
        if self.transform:
            return Readout.weights_normed(self, normed, reading, output)
        return (self.weight[0] - self.weight[1])[None], self.bias[0] - self.bias[1]

    def native(self, model: nn.Module, inputs: dict[str, Tensor], reading: Reading) -> Tensor | None:
        """The same difference of the language model's logits."""
        logits = model(**inputs).logits[0, -1].float()
        return (logits[self.tokens[0]] - logits[self.tokens[1]])[None]


@dataclass(eq=False)
class ImplicitHead(Readout):
    """DPO's implicit reward: β·Σ_t [log π(y_t) − log π_ref(y_t)] over the response and its end token.

    Args:
        unembedding: [V, d] in the model's dtype; upcast in chunks.
        bias: float32 [V] or None.
        norm: the final norm.
        reference: maps `Encoded` and read positions to reference log-probabilities [R] of the next tokens.
        beta: DPO's β.
        end_token: id that closes the response and is part of it, or None.
        transform: soft-cap or scale of the logits, or None.

    Source: Rafailov et al., arXiv 2305.18290, eq. 5 without the partition term.
    """

    unembedding: Tensor
    bias: Tensor | None
    norm: Norm
    reference: Callable[[Encoded, np.ndarray], Tensor]
    beta: float = 0.1
    end_token: int | None = None
    transform: Callable[[Tensor], Tensor] | None = None
    names: tuple[str, ...] = ("score",)
    reads_ids: bool = field(default=True, init=False, repr=False)
    _memory: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def read(self, encoded: Encoded) -> Reading:
        """The position before each response token (and before the closing end token)."""
        tokens = np.flatnonzero(encoded.spans == RESPONSE)
        after = tokens[-1] + 1
        if after < encoded.length and encoded.ids[after] == self.end_token:
            tokens = np.append(tokens, after)
        positions, key = tokens - 1, encoded.key()
        if key not in self._memory:
            if len(self._memory) > 4096:
                self._memory.clear()
            self._memory[key] = self.reference(encoded, positions)
        targets = torch.as_tensor(encoded.ids[tokens], device=self.unembedding.device)
        return Reading(positions, targets, self._memory[key].to(self.unembedding.device))

    def _terms(self, normed: Tensor, reading: Reading) -> Tensor:
        if reading.targets is None or reading.reference is None:
            raise RewardenError("an implicit reward needs target tokens", where="ImplicitHead",
                                fix="make the reading with ImplicitHead.read(encoded)")
        return self.beta * (target_log_probabilities(normed, self.unembedding, self.bias, reading.targets, self.transform)
                            - reading.reference)

    def apply_normed(self, normed: Tensor, reading: Reading) -> Tensor:
        """The summed reward [..., 1]."""
        return self._terms(normed, reading).sum(-1, keepdim=True)

    def parts(self, residual: Tensor, reading: Reading) -> dict[str, Tensor]:
        """Per-token terms [..., R]; they sum to the score."""
        return {"token": self._terms(self.norm(residual.float()), reading)}

    def native(self, model: nn.Module, inputs: dict[str, Tensor], reading: Reading) -> Tensor | None:
        """The same sum from the language model's logits."""
        logits = model(**inputs).logits[0].float().log_softmax(-1)
        rows = torch.as_tensor(reading.positions, device=logits.device)
        return self.beta * (logits[rows, reading.targets] - reading.reference).sum()[None]


def target_log_probabilities(normed: Tensor, unembedding: Tensor, bias: Tensor | None, targets: Tensor,
                             transform: Callable[[Tensor], Tensor] | None) -> Tensor:
    """log p(target) [..., R] in float32 from normed states [..., R, d], the vocabulary in chunks."""
    wanted = unembedding[targets].float()
    logit = (normed * wanted).sum(-1) + (0 if bias is None else bias[targets])
    logit = transform(logit) if transform else logit
    total: Tensor | None = None
    for start in range(0, len(unembedding), VOCABULARY_CHUNK):
        rows = slice(start, start + VOCABULARY_CHUNK)
        logits = normed @ unembedding[rows].float().T + (0 if bias is None else bias[rows])
        part = (transform(logits) if transform else logits).logsumexp(-1)
        total = part if total is None else torch.logaddexp(total, part)
    assert total is not None
    return logit - total


def logit_transform(config: object) -> Callable[[Tensor], Tensor] | None:
    """The family's own last step on its logits: soft-capping or scaling; None where there is none."""
    cap = getattr(config, "final_logit_softcapping", None)
    factor = getattr(config, "logit_scale", None) or 1 / (getattr(config, "logits_scaling", None) or 1)
    if cap:
        return lambda logits: cap * torch.tanh(logits / cap)
    return (lambda logits: logits * factor) if factor != 1 else None
