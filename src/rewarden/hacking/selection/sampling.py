"""What does a policy answer, several times?

In: a causal language model and prompts. Out: responses, the same for the same seed whatever is drawn beside them, in a folder
that resumes. Ignorant of rewards. Letters: P prompts, m samples, B rows of one batch, V vocabulary.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rewarden.conversation import Message, as_messages
from rewarden.errors import RewardenError
from rewarden.options.best_of_n import SampleOptions
from rewarden.options.checks import resolve
from rewarden.store import Run, row_key


@dataclass(frozen=True)
class Samples:
    """Responses of a policy.

    Attributes:
        responses: texts, [P][m]; a text may be empty.
        finished: bool [P, m], whether the policy ended the response itself.
        provenance: policy and settings.
    """

    responses: tuple[tuple[str, ...], ...]
    finished: np.ndarray
    provenance: dict[str, str | int | float | bool]


def sample_responses(policy: Any, prompts: Sequence[str | Sequence[Message]], n: int | None = None, *,
                     options: SampleOptions | None = None, folder: str | os.PathLike[str] | None = None,
                     progress: Callable[[int], None] | None = None, **overrides: Any) -> Samples:
    """Draw n responses to each prompt.

    Every prompt draws from a generator of its own, so that its responses do not depend on the prompts beside it (but for the
    rounding of batched arithmetic), and the global generator is not touched. A prompt that stands there again gets other draws.

    Args:
        policy: a folder, Hub id or "demo:language_model" of a causal language model; or (model, tokenizer).
        prompts: strings (one user turn) or messages; the policy's chat template is applied.
        n: responses a prompt, short for `samples`.
        options, **overrides: see `SampleOptions`.
        folder: a run folder; what is in it already is not drawn again.
        progress: called with the number of prompts finished.

    Raises:
        RewardenError: no such policy, no chat template, a prompt too long, or a folder of other draws.

    Example:
        >>> found = sample_responses("demo:language_model", ["Say hello."], 2, max_new_tokens=4)
        >>> len(found.responses), len(found.responses[0]), found.finished.shape
        (1, 2, (1, 2))
    """
    options = resolve(SampleOptions, options, overrides if n is None else {**overrides, "samples": n})
    model, tokenizer, name = _policy(policy)
    texts = [_prompt_text(tokenizer, prompt, name) for prompt in prompts]
    settings = {key: value for key, value in asdict(options).items() if key != "prompts_at_once"}
    facts = {"policy": name, **settings}
    run = None if folder is None else Run.open_or_create(folder, {"verb": "sample", **facts}, facts, identity={
        **facts, "prompts": hashlib.sha256("\0".join(texts).encode()).hexdigest()})
    keys = [row_key(str(place), text) for place, text in enumerate(texts)]
    seeds = _seeds(texts, options.sample_seed)
    done = {} if run is None else {row["key"]: row for row in run.rows().to_dict("records")}
    missing = [place for place, key in enumerate(keys) if key not in done]
    for start in range(0, len(missing), options.prompts_at_once):
        group = missing[start: start + options.prompts_at_once]
        rows = [{"key": keys[place], "responses": json.dumps(said), "finished": json.dumps(ended)} for place, (said, ended) in
                zip(group, _draw(model, tokenizer, [texts[place] for place in group], [seeds[place] for place in group],
                                 options), strict=True)]
        if run is not None:
            run.append([{name: row[name] for name in ("responses", "finished")} for row in rows], [row["key"] for row in rows])
        done.update({row["key"]: row for row in rows})
        if progress:
            progress(len(prompts) - len(missing) + start + len(group))
    found = [done[key] for key in keys]
    finished = np.array([json.loads(row["finished"]) for row in found], dtype=bool).reshape(len(found), options.samples)
    return Samples(tuple(tuple(json.loads(row["responses"])) for row in found), finished, facts)


def _seeds(texts: Sequence[str], seed: int) -> list[int]:
    """A seed for each prompt, of its text and how often it stood there before."""
    met: Counter[str] = Counter()
    found = []
    for text in texts:
        again = f"\0{met[text]}" if met[text] else ""
        found.append(int.from_bytes(hashlib.sha256(f"{seed}\0{text}{again}".encode()).digest()[:8], "big") >> 1)
        met[text] += 1
    return found


def _policy(policy: Any) -> tuple[Any, Any, str]:
    """Model, tokenizer and name of what was given."""
    if isinstance(policy, tuple) and len(policy) == 2:
        model, tokenizer = policy
        return model, tokenizer, str(getattr(getattr(model, "config", None), "_name_or_path", "") or type(model).__name__)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from rewarden.checkpoint import quiet_bars, resolve_name

    path = resolve_name(policy)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        with quiet_bars():
            model = AutoModelForCausalLM.from_pretrained(path, dtype="auto" if device == "cuda" else torch.float32)
        return model.to(device).eval(), AutoTokenizer.from_pretrained(path), str(policy)
    except (OSError, ValueError) as error:
        raise RewardenError(f"cannot load the policy {policy!r}", where="policy", why=str(error).splitlines()[0],
                            fix="give the folder or Hub id of a causal language model, or (model, tokenizer)") from error


def _prompt_text(tokenizer: Any, prompt: str | Sequence[Message], name: str) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise RewardenError(f"the policy {name} has no chat template", where="policy",
                            why="without one it is not known how a prompt is shown to it",
                            fix="set tokenizer.chat_template, and pass (model, tokenizer)")
    return tokenizer.apply_chat_template([dict(m) for m in as_messages(prompt)], tokenize=False, add_generation_prompt=True)


def _draw(model: Any, tokenizer: Any, texts: list[str], seeds: list[int], options: SampleOptions
          ) -> list[tuple[list[str], list[bool]]]:
    """Texts and whether they ended, of each prompt of a group."""
    from transformers import GenerationConfig, LogitsProcessorList

    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max(map(len, ids))
    if limit and longest + options.max_new_tokens > limit:
        raise RewardenError(f"a prompt of {longest} tokens leaves no room for {options.max_new_tokens} more",
                            where="sample_responses", why=f"the policy reads {limit} tokens",
                            fix="shorten the prompts or lower max_new_tokens")
    config = model.generation_config
    ends = [config.eos_token_id, tokenizer.eos_token_id]
    stops = sorted({int(i) for end in ends if end is not None for i in (end if isinstance(end, list) else [end])})
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (stops[0] if stops else 0)
    # left: what is generated follows the prompt at once, and positions count from the first real token
    rows = [[pad] * (longest - len(one)) + one for one in ids for _ in range(options.samples)]
    mask = [[0] * (longest - len(one)) + [1] * len(one) for one in ids for _ in range(options.samples)]
    settings = GenerationConfig(do_sample=False, max_new_tokens=options.max_new_tokens, pad_token_id=pad,
                                eos_token_id=stops or None)
    noise = _OwnNoise(seeds, options.samples, options.temperature)
    with torch.no_grad(), _defaults(model):
        out = model.generate(torch.tensor(rows, device=model.device), attention_mask=torch.tensor(mask, device=model.device),
                             generation_config=settings, logits_processor=LogitsProcessorList([noise]))
    new = out[:, longest:].cpu().tolist()
    cut = [next((place for place, i in enumerate(row) if i in stops), None) for row in new]
    said = [tokenizer.decode(row[:end], skip_special_tokens=True) for row, end in zip(new, cut, strict=True)]
    m = options.samples
    return [(said[at: at + m], [end is not None for end in cut[at: at + m]]) for at in range(0, len(said), m)]


@contextmanager
def _defaults(model: Any) -> Iterator[None]:
    """No settings of the model's own: generation_config may hold a temperature, a repetition penalty and the like."""
    from transformers import GenerationConfig

    kept, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = kept


class _OwnNoise:
    """Gumbel noise on logits [B, V]: their argmax is then a draw from softmax(logits / temperature).

    Args:
        seeds: of each prompt's generator.
        samples: rows a prompt.
        temperature: of the policy.
    """

    def __init__(self, seeds: Sequence[int], samples: int, temperature: float) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.samples, self.temperature = samples, temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Noisy scores."""
        shape = (self.samples, scores.shape[-1])
        # exponential noise e: −log e is Gumbel; made on the CPU, so that the device does not decide the draws
        noise = torch.cat([torch.empty(shape).exponential_(generator=one).log_().neg_() for one in self.generators])
        return scores.float() / self.temperature + noise.to(scores.device)
