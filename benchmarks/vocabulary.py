"""What does it cost to score a vocabulary, many phrases, or a search step? Against what transformers can do by itself.

`python benchmarks/vocabulary.py` prints ratios (minimum / median / maximum over interleaved repetitions) of the scan, of
`score_responses` and of a GCG step over whole rows in batches and over a key-value cache expanded to the batch, and memory;
`--out benchmarks/results` writes them as JSON and Markdown. Ratios, never seconds. Ignorant of how the work is done.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread: with more, a busy machine blurs every ratio
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
from harness import plain, results, tables
from harness.models import SPECIAL, TEMPLATE_TOKENS, Shape, save_model, words
from harness.peers import environment
from harness.tables import Findings
from harness.timing import Seconds, interleave, load_average, machine, ratio_row, take_turns, timed
from harness.tokens import Expanded, rows_of, whole
from torch import Tensor, nn
from transformers.utils import logging

import rewarden
from rewarden.edits import BaseRun
from rewarden.edits.gradients import run_gradients
from rewarden.tokens.candidates import Candidates
from rewarden.tokens.slot import find_slot

HERE = Path(__file__).resolve().parent
LONGEST = 8
"""Words of the longest phrase."""


@dataclass(frozen=True)
class Sizes:
    """Model, prompts and samples. P counts the tokens before the response; one token follows it."""

    model: Shape
    n_words: int
    """Vocabulary, less six special tokens."""
    prompt: int
    prompts: tuple[int, int]
    """P of the scans whose speeds and memory are compared with each other."""
    candidates: int
    whole_sample: int
    """Candidates that whole rows are timed on; their time is scaled to all."""
    cached_sample: int
    whole_batches: tuple[int, ...]
    cached_batches: tuple[int, ...]
    memory_batch: int
    phrases: int
    phrase_sample: int
    """Phrases that `rm.reward` is timed on; its time is scaled to all."""
    width: int
    """Candidates of a search step."""
    responses: tuple[int, int]
    """Tokens of the response in a search step."""


FULL = Sizes(model=Shape(layers=12, width=512, heads=8, kv_heads=4, inner=1408), n_words=31_994, prompt=40, prompts=(20, 320),
             candidates=2048, whole_sample=128, cached_sample=512, whole_batches=(32, 128), cached_batches=(32, 128, 512),
             memory_batch=512, phrases=1000, phrase_sample=125, width=128, responses=(5, 20))
SMOKE = Sizes(Shape(2, 32, 4, 2, 48), 480, 12, (8, 24), 240, 16, 48, (8, 16), (16, 48), 16, 40, 20, 16, (3, 5))
STEP_TARGETS = (">= 8", ">= 4")
"""Of search steps over whole rows, by length of the response."""


@dataclass(eq=False)
class Prompt:
    """A prompt of P tokens, ours and as transformers sees it, with what both know before the candidates come."""

    rm: rewarden.RewardModel
    model: nn.Module
    tokens: int
    seed: int = 0

    def __post_init__(self) -> None:
        self.text = words(self.tokens - TEMPLATE_TOKENS + 1, random.Random(self.seed))
        self.slot = find_slot(self.rm, self.text)
        self.before, self.after = torch.from_numpy(self.slot.before.ids), torch.from_numpy(self.slot.after.ids)
        assert (len(self.before), len(self.after)) == (self.tokens, 1)
        self.candidates = Candidates(self.rm, self.slot)

    def whole(self, responses: Tensor, batch: int) -> Tensor:
        """Rewards [n] of responses [n, N], every row run from its start."""
        return whole(self.model, rows_of(self.before, responses, self.after), batch)

    def cached(self, expanded: Expanded, responses: Tensor, batch: int) -> Tensor:
        """The same behind the prompt's cache."""
        return expanded(rows_of(self.before[:0], responses, self.after), batch)

    def scan(self, base: BaseRun, ids: np.ndarray) -> np.ndarray:
        """Rewards [n] of single-token responses by the edit engine."""
        return self.candidates.substitute(base, np.zeros(len(ids), np.int64), ids)[:, 0]


def drawn(count: int, sizes: Sizes, seed: int) -> np.ndarray:
    """So many ids, no two equal."""
    return len(SPECIAL) + np.random.default_rng(seed).permutation(sizes.n_words)[:count]


def fastest(seconds: Seconds, names: Sequence[str]) -> str:
    """The name with the smallest median of processor time."""
    return min(names, key=lambda name: median(seconds["cpu"][name]))


def apart(ours: np.ndarray, theirs: Tensor) -> float:
    """Largest difference."""
    return float(np.abs(ours - theirs.numpy()).max())


def scan_rows(prompt: Prompt, sizes: Sizes, found: Findings, repetitions: int) -> int:
    """The scan over whole rows and over the expanded cache; returns the batch size that is best for whole rows."""
    ids, some = drawn(sizes.candidates, sizes, 1), sizes.whole_sample
    column = torch.from_numpy(ids)[:, None]
    base, expanded = prompt.candidates.base(ids[:1]), Expanded(prompt.model, prompt.before)
    ours = prompt.scan(base, ids)
    theirs = prompt.cached(expanded, column, sizes.cached_batches[-1])
    orders, ends = [np.argsort(-values, kind="stable") for values in (ours, theirs.numpy())], min(100, len(ids) // 2)
    name = f"scan of {len(ids)} candidates, P = {prompt.tokens}"
    found.checks |= {
        f"{name}: largest difference to whole rows ({some} candidates)": apart(
            ours[:some], prompt.whole(column[:some], sizes.whole_batches[0])),
        f"{name}: largest difference to the expanded cache": apart(ours, theirs),
        f"{name}: standard deviation of the reward": float(ours.std()),
        f"{name}: the same {ends} highest and {ends} lowest, in order": all(
            np.array_equal(orders[0][part], orders[1][part]) for part in (slice(ends), slice(-ends, None)))}
    samples = {f"whole rows, batch {batch}": some for batch in sizes.whole_batches} | {
        f"expanded cache, batch {batch}": sizes.cached_sample for batch in sizes.cached_batches}
    work: dict[str, Callable[[], object]] = {"rewarden": lambda: prompt.scan(base, ids)}
    work |= {f"whole rows, batch {batch}": partial(prompt.whole, column[:some], batch) for batch in sizes.whole_batches}
    work |= {f"expanded cache, batch {batch}": partial(prompt.cached, expanded, column[:sizes.cached_sample], batch)
             for batch in sizes.cached_batches}
    work["rw.score_vocabulary"] = lambda: rewarden.score_vocabulary(prompt.rm, prompt.text, ids=ids)
    seconds = interleave(work, repetitions)
    whole_best, cached_best = (
        fastest(seconds, [n for n in samples if n.startswith(start)]) for start in ("whole rows", "expanded cache"))
    targets = {whole_best: ">= 15", cached_best: ">= 1.3"}
    found.rows += [ratio_row(f"{name}, candidates/s: rewarden / {peer}", targets.get(peer, ""), seconds, peer, "rewarden",
                             len(ids) / count) for peer, count in samples.items()]
    found.rows.append(ratio_row(f"{name}, candidates/s: rw.score_vocabulary (text flags, base run, check) / {whole_best}", "",
                                seconds, whole_best, "rw.score_vocabulary", len(ids) / some))
    return next(batch for batch in sizes.whole_batches if whole_best.endswith(f" {batch}"))


def prompt_rows(rm: rewarden.RewardModel, model: nn.Module, sizes: Sizes, found: Findings, repetitions: int) -> None:
    """How much of its speed a scan keeps behind a long prompt; what a prompt costs once."""
    ids = drawn(sizes.candidates // 2, sizes, 2)
    short, long = (Prompt(rm, model, tokens) for tokens in sizes.prompts)
    work: dict[str, Callable[[], object]] = {}
    for prompt in (short, long):
        base = prompt.candidates.base(ids[:1])
        prompt.scan(base, ids[:8])
        work[f"{prompt.tokens}"] = partial(prompt.scan, base, ids)

        def once(prompt: Prompt = prompt) -> None:
            fresh = Candidates(rm, prompt.slot)
            fresh.substitute(fresh.base(ids[:1]), np.zeros(4, np.int64), ids[:4])

        work[f"{prompt.tokens} once"] = once
    seconds = interleave(work, repetitions)
    P = [str(tokens) for tokens in sizes.prompts]
    found.rows.append(ratio_row(f"scan, candidates/s: P = {P[1]} / P = {P[0]}", ">= 0.70", seconds, P[0], P[1]))
    found.rows += [ratio_row(f"base run and check of one prompt, P = {p}, in candidates", "", seconds, f"{p} once", p, len(ids))
                   for p in P]


def memory_rows(folder: Path, sizes: Sizes, found: Findings) -> None:
    """Peak resident memory of scans behind a short and a long prompt, each in a fresh process."""
    ids = drawn(2 * sizes.memory_batch, sizes, 3).tolist()
    for who in ("rewarden",) if sizes == SMOKE else ("rewarden", "expanded cache"):
        peaks = []
        for tokens in sizes.prompts:
            text = words(tokens - TEMPLATE_TOKENS + 1, random.Random(0))
            job = {"model": str(folder), "prompt": text, "ids": ids, "batch": sizes.memory_batch, "who": who}
            done = subprocess.run([sys.executable, "-m", "harness.scan_memory", json.dumps(job)], cwd=HERE, check=True,
                                  text=True, stdout=subprocess.PIPE, env=environment())
            told = json.loads(done.stdout.splitlines()[-1])
            found.memory.append({"work": f"scan, {sizes.memory_batch} candidates a batch, P = {tokens}: {who}", **told})
            peaks.append(told["peak_mb"])
        what = f"peak memory, P = {sizes.prompts[1]} less P = {sizes.prompts[0]}, {sizes.memory_batch} candidates a batch, MB"
        found.count(f"{what}: {who}", peaks[1] - peaks[0], "<= 60" if who == "rewarden" else "")


def phrases(count: int, seed: int) -> list[str]:
    """So many texts of 1 to `LONGEST` words, no two equal."""
    draw = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        made[words(draw.randint(1, LONGEST), draw)] = None
    return list(made)


def phrase_rows(rm: rewarden.RewardModel, sizes: Sizes, found: Findings, repetitions: int) -> None:
    """`score_responses` over `rm.reward`. Every repetition has its own phrases: nothing is remembered."""
    text, sample = words(sizes.prompt - TEMPLATE_TOKENS + 1, random.Random(0)), sizes.phrase_sample
    conversations = [[rewarden.Conversation.of(text, phrase) for phrase in phrases(sample, 2 * seed)]
                     for seed in range(repetitions + 1)]
    asked = [phrases(sizes.phrases, 2 * seed + 1) for seed in range(repetitions + 1)]
    known = phrases(sample, 10**6)
    name = f"{sizes.phrases} phrases of 1 to {LONGEST} words, P = {sizes.prompt}"
    found.checks[f"{name}: score_responses, largest difference to rm.reward ({sample} phrases)"] = float(np.abs(
        rewarden.score_responses(rm, text, known).data["reward"].values[0]
        - rm.reward([rewarden.Conversation.of(text, phrase) for phrase in known])[:, 0]).max())
    theirs, ours = iter(conversations), iter(asked)
    seconds = take_turns({
        "rm.reward": lambda: timed(partial(rm.reward, next(theirs))),
        "score_responses": lambda: timed(partial(rewarden.score_responses, rm, text, next(ours)))}, repetitions)
    found.rows.append(ratio_row(f"{name}: score_responses / rm.reward, phrases/s", ">= 3", seconds, "rm.reward",
                                "score_responses", sizes.phrases / sample))


def step_rows(prompt: Prompt, sizes: Sizes, batch: int, found: Findings, repetitions: int) -> None:
    """The candidates of a GCG step, each with one token of the response exchanged; its base run and gradient beside them."""
    expanded, again = (Expanded(prompt.model, prompt.before, anew) for anew in (False, True))
    searching = Candidates(prompt.rm, prompt.slot, repeated=True)  # as a search has them: the prompt is run once for all steps
    draw, anew = np.random.default_rng(4), f"expanded cache made anew, batch {sizes.width}"
    table: Any = prompt.rm.architecture.embedding.weight
    for length, target in zip(sizes.responses, STEP_TARGETS, strict=True):
        response = drawn(length, sizes, 5)
        positions, ids = draw.integers(0, length, sizes.width), len(SPECIAL) + draw.integers(0, sizes.n_words, sizes.width)
        rows = torch.from_numpy(np.repeat(response[None], sizes.width, 0))
        rows[torch.arange(sizes.width), torch.from_numpy(positions)] = torch.from_numpy(ids)
        base = searching.base(response)
        ours = partial(searching.substitute, base, positions, ids)

        def gradient(base: BaseRun = base, where: slice = slice(prompt.tokens, prompt.tokens + length)) -> Tensor:
            return run_gradients(base, ["embed"]).at("embed")[where] @ table.T

        cached = {f"expanded cache, batch {n}": n for n in (sizes.width // 4, sizes.width)}
        plain_rows = f"whole rows, batch {batch}"
        work: dict[str, Callable[[], Any]] = {
            "rewarden": ours, "base run": partial(searching.base, response), "gradient": gradient,
            plain_rows: partial(prompt.whole, rows, batch),
            **{label: partial(prompt.cached, expanded, rows, n) for label, n in cached.items()},
            anew: partial(prompt.cached, again, rows, sizes.width)}
        name = f"search step, {length} response tokens, {sizes.width} candidates"
        for label in (plain_rows, *cached, anew):
            found.checks[f"{name}: largest difference to {label}"] = apart(ours()[:, 0], work[label]())
        seconds = interleave(work, repetitions)
        for clock in seconds.values():
            clock["step"] = [sum(both) for both in zip(clock["rewarden"], clock["base run"], strict=True)]
        targets = {plain_rows: target, fastest(seconds, list(cached)): ">= 1.5"}
        for label in (plain_rows, *cached, anew):
            found.rows.append(ratio_row(f"{name}: {label} / rewarden", targets.get(label, ""), seconds, label, "rewarden"))
        for label in targets:
            found.rows.append(ratio_row(f"{name}: {label} / rewarden with the base run", "", seconds, label, "step"))
        found.rows.append(ratio_row(f"{name}: gradient at every embedding / candidates, rewarden", "", seconds, "gradient",
                                    "rewarden"))


def measure(scratch: Path, sizes: Sizes, repetitions: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Every section; a dict that JSON can hold."""
    found, start = Findings(), load_average()
    folder = save_model(scratch / "model", sizes.model, sizes.n_words)
    rm, model = rewarden.load(str(folder)), plain.load(str(folder))
    prompt = Prompt(rm, model, sizes.prompt)
    say("scan")
    batch = scan_rows(prompt, sizes, found, repetitions)
    say("prompts")
    prompt_rows(rm, model, sizes, found, repetitions)
    say("phrases")
    phrase_rows(rm, sizes, found, repetitions)
    say("search steps")
    step_rows(prompt, sizes, batch, found, repetitions)
    say("memory")
    memory_rows(folder, sizes, found)
    toy = {"target": ""} if sizes == SMOKE else {}  # no target at toy sizes
    return {"machine": machine() | {"threads": str(torch.get_num_threads()), "load average at the start": start},
            "sizes": asdict(sizes), "repetitions": repetitions, "repeated": "", "checks": found.checks,
            "ratios": [row.described() | toy for row in found.rows], "counts": [count | toy for count in found.counts],
            "memory": found.memory}


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5, help="in which all ways take turns")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, two repetitions: does it run?")
    parser.add_argument("--long", action="store_true", help="no samples: others score every candidate and phrase too")
    parser.add_argument("--out", type=Path, help="folder for vocabulary-DATE-cpu.json and .md")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    sizes, repetitions = (SMOKE, 2) if given.smoke else (FULL, given.repetitions)
    if given.long:
        sizes = replace(sizes, whole_sample=sizes.candidates, cached_sample=sizes.candidates, phrase_sample=sizes.phrases)

    def say(text: str) -> None:
        print(f"measuring {text} ...", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        found = measure(Path(scratch), sizes, repetitions, say)
    asked = " --smoke" * given.smoke + " --long" * given.long
    found = results.record("vocabulary", f" --repetitions {repetitions}{asked}", found)
    results.tell(found, "vocabulary-DATE-cpu", given.out, tables.page)


if __name__ == "__main__":
    main()
