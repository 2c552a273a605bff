"""What does looking inside cost? Scoring, tracing, and lens + attribution in units of the bare transformers forward.

`python benchmarks/scoring.py` prints machine, versions, sizes and ratios (minimum / median / maximum over interleaved
repetitions), beside reward-lens 1.0.0 on the same weights and tokens; `--out benchmarks/results` writes them as JSON
and Markdown. Ratios, never seconds: only they carry over to another machine. Ignorant of how the work is done.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread: with more, a busy machine blurs every ratio
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from harness import results, tables, workloads
from harness.models import Sizes, conversations, described, pair_of, save_model
from harness.peers import Talk, environment, peer_python, talking_to
from harness.timing import CLOCKS, Row, Seconds, interleave, load_average, machine, ratio_row, timed
from transformers.utils import logging

import rewarden

HERE = Path(__file__).resolve().parent
PEER = ("reward-lens", "1.0.0")
PAIR_ROUNDS = 4
"""Repetitions of a pair's analysis for one of the long measurements."""
SMOKE = Sizes(layers=2, width=32, heads=4, conversations=6, shortest=8, longest=20, traced=2, lengths=((16, 12),),
              pairs=2)
MEMORY = (("scoring", "bare forward"), ("scoring", "rewarden"), ("tracing", "bare forward"),
          ("tracing", "output_hidden_states"), ("tracing", "rewarden"), ("lens", "forward"),
          ("lens", "lens + attribution"))
"""Section and name of each piece of work whose memory is measured."""


def scoring_rows(label: str, rm: rewarden.RewardModel, rows: Sequence[rewarden.Encoded], repetitions: int) -> list[Row]:
    """Throughput: a ratio of rows per second, so the bare forward's time is above."""
    seconds = interleave(workloads.scoring(rm, rows), repetitions)
    what = f"scoring {label}: rows/s, rewarden / bare forward"
    return [ratio_row(what, ">= 0.95", seconds, "bare forward", "rewarden"),
            ratio_row(f"{what} with its default cache", "", seconds, "bare forward, defaults", "rewarden")]


def tracing_rows(rm: rewarden.RewardModel, sizes: Sizes, repetitions: int) -> list[Row]:
    """All residuals at all tokens."""
    found = []
    varied = [rm.encode(text) for text in conversations(sizes.traced, sizes.shortest, sizes.longest)]
    settings = [(f"{sizes.traced} conversations one by one, {sizes.shortest}–{sizes.longest} tokens", varied, False)]
    for length in sorted({longest for longest, _ in sizes.lengths}):
        equal = [rm.encode(text) for text in conversations(sizes.traced, length, length)]
        settings.append((f"one batch of {sizes.traced} × {length} tokens", equal, True))
    for label, rows, together in settings:
        seconds = interleave(workloads.tracing(rm, rows, together), repetitions)
        found += [ratio_row(f"tracing {label}: {name} / bare forward", target, seconds, name, "bare forward")
                  for name, target in (("rewarden", "<= 1.15"), ("output_hidden_states", ""))]
    return found


def lens_rows(rm: rewarden.RewardModel, sizes: Sizes, repetitions: int, peer: Talk | None) -> list[Row]:
    """Lens + attribution of one pair in forwards of one side, ours and the peer's by turns, then of several pairs."""
    found = []
    for start, lengths in enumerate(sizes.lengths):
        pairs = pairs_of(lengths, repetitions)
        work = workloads.lens_and_ledger(rm, [[pair] for pair in pairs])
        ours: Seconds = {clock: {name: [] for name in work} for clock in CLOCKS}
        theirs: Seconds = {clock: {name: [] for name in work} for clock in CLOCKS}
        for repetition in range(len(pairs)):
            number = start * len(pairs) + repetition
            for seconds, measured in ((ours, {name: timed(call) for name, call in work.items()}),
                                      (theirs, peer.ask(number)["seconds"] if peer else {})):
                for name, both in measured.items() if repetition > 0 else ():  # the first warms up
                    for clock, value in zip(CLOCKS, both, strict=True):
                        seconds[clock][name].append(value)
        what = f"lens + attribution of a pair, {lengths[0]} + {lengths[1]} tokens, in forwards of one side"
        found.append(ratio_row(f"{what}: rewarden", "<= 2.6", ours, "lens + attribution", "forward", 2.0))
        if peer:
            found.append(ratio_row(f"{what}: reward-lens 1.0.0", "", theirs, "lens + attribution", "forward", 2.0))
    rounds = max(3, repetitions // 3)
    many = [pairs_of(sizes.lengths[0], sizes.pairs - 1, 1000 + sizes.pairs * i) for i in range(rounds + 1)]
    several = interleave(workloads.lens_and_ledger(rm, many), rounds)
    chosen, rejected = sizes.lengths[0]
    found.append(ratio_row(f"lens + attribution of {sizes.pairs} pairs, {chosen} + {rejected} tokens each, with intervals "
                           "(2,000 resamples), in forwards of one side per pair: rewarden", "", several,
                           "lens + attribution", "forward", 2.0))
    return found


def pairs_of(lengths: tuple[int, int], repetitions: int, seed: int = 0) -> list[rewarden.Pair]:
    """A pair per repetition and one to warm up, all of these lengths."""
    return [pair_of(lengths, seed + index) for index in range(repetitions + 1)]


def same_tokens(rm: rewarden.RewardModel, pairs: Sequence[rewarden.Pair], peer: Talk | None) -> dict[str, object]:
    """Whether all read the same ids; without that the ratios would be of different work. To be asked after the timing."""
    ours = [[rm.encode(side).ids.tolist() for side in pair.conversations] for pair in pairs]
    found: dict[str, object] = {"rewarden reads the chat template's ids": ours == [workloads.ids_of(rm, p) for p in pairs]}
    return found | ({"reward-lens reads the same ids": peer.greeting["ids"] == ours} if peer else {})


def peer_command(folder: Path, pairs: Sequence[rewarden.Pair]) -> list[str]:
    """The command that serves the peer's repetitions."""
    texts = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected} for pair in pairs]
    job = folder.parent / "peer.json"
    job.write_text(json.dumps({"model": str(folder), "pairs": texts}), encoding="utf-8")
    return [str(peer_python(*PEER)), str(HERE / "harness" / "peer_reward_lens.py"), str(job)]


def memory_rows(folder: Path, sizes: Sizes, peer: Talk | None) -> list[dict[str, object]]:
    """Peak resident memory, each piece of work in a fresh process."""
    found: list[dict[str, object]] = []
    works = MEMORY[-1:] if sizes is SMOKE else MEMORY  # a process per line takes longer than all of a smoke run
    for section, name in works:
        job = json.dumps({"model": str(folder), "section": section, "work": name, "sizes": described(sizes)})
        done = subprocess.run([sys.executable, "-m", "harness.memory", job], cwd=HERE, check=True, text=True,
                              stdout=subprocess.PIPE, env=environment())
        found.append({"work": f"{section}: {name}", **json.loads(done.stdout.splitlines()[-1])})
    if peer:
        answer = peer.ask(0)  # its peak so far: the longest pair was among the repetitions
        found.append({"work": "lens: reward-lens 1.0.0, lens + attribution", "loaded_mb": peer.greeting["loaded_mb"],
                      "peak_mb": answer["peak_mb"]})
    return found


def measure(folder: Path, sizes: Sizes, repetitions: int, paired: Sequence[rewarden.Pair], peer: Talk | None,
            say: Callable[[str], None]) -> dict[str, object]:
    """Every section; a dict that JSON can hold."""
    rm, demo = rewarden.load(str(folder)), rewarden.load()
    encoded = [rm.encode(text) for text in conversations(sizes.conversations, sizes.shortest, sizes.longest)]
    bundled = [demo.encode(side) for pair in rewarden.load_pairs("demo") for side in pair.conversations]
    # equal rows would be scored once only, which is no merit of the forward
    demo_encoded = list({row.key(): row for row in bundled}.values())[:sizes.conversations]
    start = load_average()
    checks: dict[str, object] = {
        "scores, random model: largest difference to the bare logits": workloads.agreement(rm, encoded),
        "scores, bundled model: largest difference to the bare logits": workloads.agreement(demo, demo_encoded),
        "residuals: largest difference to hidden_states": workloads.tracing_agreement(rm, encoded[:4])}
    say("scoring")
    rows = scoring_rows(f"{len(encoded)} conversations, random model", rm, encoded, repetitions)
    rows += scoring_rows(f"{len(demo_encoded)} conversations, bundled model", demo, demo_encoded, repetitions)
    say("tracing")
    rows += tracing_rows(rm, sizes, repetitions)
    say("lens + attribution")
    rows += lens_rows(rm, sizes, PAIR_ROUNDS * repetitions, peer)
    checks |= same_tokens(rm, paired, peer)
    say("memory")
    memory = memory_rows(folder, sizes, peer)
    facts = machine() | {"reward-lens": peer.greeting["versions"]["reward-lens"] if peer else "not run",
                         "threads": str(torch.get_num_threads()), "load average at the start": start}
    return {"machine": facts, "sizes": described(sizes), "repetitions": repetitions, "checks": checks, "memory": memory,
            "peer_versions": peer.greeting["versions"] if peer else {},
            "ratios": [row.described() | ({"target": ""} if sizes is SMOKE else {}) for row in rows]}  # none at toy sizes


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5,
                        help="of the long measurements; pairs take four times as many")
    parser.add_argument("--peer", choices=("install", "none"), default="install",
                        help="install: reward-lens 1.0.0 in benchmarks/.peers on first use; none: leave it out")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, two repetitions: does it run?")
    parser.add_argument("--out", type=Path, help="folder for scoring-DATE-cpu.json and .md")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write where asked."""
    given = arguments()
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    sizes, repetitions = (SMOKE, 2) if given.smoke else (Sizes(), given.repetitions)

    def say(text: str) -> None:
        print(f"measuring {text} ...", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as scratch:
        folder = save_model(Path(scratch) / "model", sizes)
        paired = [pair for lengths in sizes.lengths for pair in pairs_of(lengths, PAIR_ROUNDS * repetitions)]
        if given.peer == "none":
            found = measure(folder, sizes, repetitions, paired, None, say)
        else:
            with talking_to(peer_command(folder, paired)) as peer:
                found = measure(folder, sizes, repetitions, paired, peer, say)
    asked = " --smoke" * given.smoke + " --peer none" * (given.peer == "none")
    found = results.record("scoring", f" --repetitions {repetitions}{asked}", found)
    results.tell(found, "scoring-DATE-cpu", given.out, tables.page)


if __name__ == "__main__":
    main()
