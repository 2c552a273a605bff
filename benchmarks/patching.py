"""What does exact patching cost? Sweeps by the edit engine against one hooked forward per site, and against its peers.

`python benchmarks/patching.py` prints ratios (minimum / median / maximum over interleaved repetitions) beside TransformerLens,
nnsight, pyvene and reward-lens on the same weights, tokens and sites, counts of the work done, and memory; `--out
benchmarks/results` writes them as JSON and Markdown. Ratios, never seconds. Ignorant of how the work is done.
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
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread: with more, a busy machine blurs every ratio
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from harness import plain, results, sweeps, tables, workloads
from harness.limits import limit
from harness.models import Shape, pair_of, save_model
from harness.peers import Talk, environment, open_peer
from harness.sweeps import Runs, Sweep
from harness.tables import Findings
from harness.timing import Row, interleave, load_average, machine, ratio_row, take_turns, timed
from transformers.utils import logging

import rewarden
from rewarden.patching import patch

HERE = Path(__file__).resolve().parent
PEERS = {"transformer-lens": "4.3.0", "nnsight": "0.8.1", "pyvene": "0.1.8"}
TARGETS = {("transformer-lens", "run_with_hooks"): ">= 5", ("pyvene", "source run each time"): ">= 10"}
"""Of the sweep without a shared prefix, by peer and way."""
REWARD_LENS = ("reward-lens", "1.0.0")


@dataclass(frozen=True)
class Sizes:
    """Models, sequences and samples."""

    model: Shape
    tokens: int
    pair_tokens: tuple[int, ...]
    """Of the two sides of the pairs."""
    sample: int
    """Sites that the tools with one forward per site are timed on; their time is scaled to the whole sweep."""
    deep: Shape
    deep_tokens: int
    deep_sample: int
    large: Shape
    """The model whose memory is measured."""
    large_tokens: int
    large_sites: int
    large_live: int
    """Positions after the shared prefix of the memory sweep (`--long`: 256); peak memory hardly depends on them."""


FULL = Sizes(model=Shape(layers=8, width=256, heads=8, kv_heads=8, inner=704), tokens=64, pair_tokens=(64, 256), sample=48,
             deep=Shape(layers=24, width=256, heads=8, kv_heads=2, inner=704), deep_tokens=512, deep_sample=6,
             large=Shape(layers=12, width=512, heads=8, kv_heads=8, inner=1408), large_tokens=512, large_sites=20_000,
             large_live=64)
SMOKE = Sizes(Shape(2, 32, 4, 4, 48), 16, (12,), 8, Shape(3, 32, 4, 2, 48), 24, 4, Shape(2, 32, 4, 4, 48), 24, 60, 4)


def examine(sweep: Sweep, name: str, found: Findings) -> None:
    """Equality with hooks, and the work against the limit."""
    plan = sweep.plan()
    edited, expected = plan.run(), sweep.hooks()
    values = edited.values[:, 0].cpu()[sweep.which]
    found.checks[f"{name}: rewarden, largest difference to hooks"] = float((values - expected).abs().max())
    found.checks[f"{name}: largest effect in the sample"] = float((expected - float(edited.base[0])).abs().max())
    found.checks[f"{name}: noise floor of the engine"] = edited.noise_floor
    work = partial(limit, sweep.sites, sweep.shape, len(sweep.runs.base), sweep.runs.shared)
    found.count(f"{name}: sites that can change the reward", len(plan.rows))
    found.count(f"{name}: work planned, in forwards", plan.forwards)
    found.count(f"{name}: work planned / limit of the light cones", plan.cost / work(), "<= 1.25")
    found.count(f"{name}: work planned / limit with what is known of sublayer outputs", plan.cost / work(late=True))


def asked_of(talk: Talk, run: int, way: str, expected: torch.Tensor, worst: list[float]) -> Sequence[float]:
    """A peer's seconds for the sample; its largest difference to hooks is noted."""
    answer = talk.ask(json.dumps({"run": run, "way": way}))
    worst.append(max(abs(a - b) for a, b in zip(answer["rewards"], expected.tolist(), strict=True)))
    return answer["seconds"]


def ways_of(peers: dict[str, Talk | str], found: Findings, name: str) -> list[tuple[str, Talk, str]]:
    """Every (package, peer, way) that works; for the others a row says why not."""
    usable = []
    for package, peer in peers.items():
        if isinstance(peer, str):
            found.rows.append(Row(f"{name}: {package} {PEERS[package]} / rewarden", "", missing=f"not run: {peer}"))
            continue
        for way in peer.greeting["ways"]:
            problem = peer.ask(json.dumps({"run": 0, "way": way})).get("error")
            if not problem:
                usable.append((package, peer, way))
                continue
            found.rows.append(Row(f"{name}: {package} {PEERS[package]}, {way} / rewarden", "", missing=f"not run: {problem}"))
    return usable


def by_position(sweep: Sweep, number: int, name: str, target: str, peers: dict[str, Talk | str], found: Findings,
                repetitions: int) -> None:
    """Layer × position: everybody takes turns."""
    examine(sweep, name, found)
    expected, targets = sweep.hooks(), {"hooks": target}
    work: dict[str, Callable[[], Sequence[float]]] = {
        "rewarden": lambda: timed(sweep.ours), "hooks": lambda: timed(sweep.hooks),
        "hooks, 8 sites per forward": lambda: timed(lambda: sweep.hooks(8))}
    errors: dict[str, list[float]] = {}
    for package, peer, way in ways_of(peers, found, name):
        label = f"{package} {PEERS[package]}, {way}"
        errors[label], targets[label] = [], TARGETS.get((package, way), "") if sweep.runs.shared == 0 else ""
        work[label] = partial(asked_of, peer, number, way, expected, errors[label])
    seconds = take_turns(work, repetitions)
    found.rows += [ratio_row(f"{name}: {label} / rewarden", targets.get(label, ""), seconds, label, "rewarden", sweep.factor)
                   for label in work if label != "rewarden"]
    found.checks |= {f"{name}: {label}, largest difference to hooks": max(worst) for label, worst in errors.items()}


def at_read_out(sweep: Sweep, name: str, targets: tuple[str, str], found: Findings, repetitions: int) -> None:
    """Every site at the last token, in forwards and against hooks."""
    examine(sweep, name, found)
    seconds = interleave({"rewarden": sweep.ours, "hooks": sweep.hooks,
                          "forward": lambda: plain.forward(sweep.model, sweep.ids)}, repetitions)
    found.rows += [ratio_row(f"{name}: rewarden, in forwards", targets[0], seconds, "rewarden", "forward"),
                   ratio_row(f"{name}: hooks / rewarden", targets[1], seconds, "hooks", "rewarden", sweep.factor)]


def pairs_of(tokens: int, count: int) -> list[rewarden.Pair]:
    """So many pairs with sides of equal length."""
    return [pair_of((tokens, tokens), seed) for seed in range(count)]


def pair_rows(rm: rewarden.RewardModel, tokens: int, first: int, count: int, peer: Talk | str, found: Findings) -> None:
    """All components and heads of a pair from its text on, both traces included.

    Every repetition has its own pair; the peer knows them from number `first` on.
    """
    pairs = pairs_of(tokens, 2 * count)  # the second half is the engine's: nothing is remembered from one way to the other
    waiting, engine = iter(pairs[:count]), iter(pairs[count:])
    ids = [workloads.ids_of(rm, pair) for pair in pairs[:count]]
    forwards = iter([[{"input_ids": torch.tensor([side])} for side in both] for both in ids])

    def by_engine() -> object:
        base, source = (rm.base(side, sites=sweeps.RECORDED) for side in next(engine).conversations)
        return rm.plan(base, [edit for edit in sweeps.edits_at_read_out(source) if edit.site.kind != "resid_pre"]).run()

    work: dict[str, Callable[[], Sequence[float]]] = {
        "forward": lambda: timed(partial(workloads.bare, rm, next(forwards), use_cache=False)),
        "rw.patch": lambda: timed(partial(patch, rm, next(waiting))), "engine": lambda: timed(by_engine)}
    if isinstance(peer, Talk):
        numbers, last = iter(range(first, first + count)), {}

        def theirs(name: str) -> Sequence[float]:
            if name not in last:  # one line of the peer times both
                last.update(peer.ask(next(numbers))["seconds"])
            return last.pop(name)

        work |= {"their forward": lambda: theirs("forward"), "reward-lens": lambda: theirs("patch")}
    seconds = take_turns(work, count - 1)
    what = f"all components and heads of a pair, 2 × {tokens} tokens, both traces included, in forwards of one side"
    found.rows += [ratio_row(f"{what}: rw.patch", "<= 3.5", seconds, "rw.patch", "forward", 2.0),
                   ratio_row(f"{what}: rm.base twice and rm.plan", "", seconds, "engine", "forward", 2.0)]
    name = f"components of a pair (no heads), 2 × {tokens} tokens, in forwards of one side: reward-lens 1.0.0"
    found.rows.append(Row(name, "", missing=f"not run: {peer}") if isinstance(peer, str) else
                      ratio_row(name, "", seconds, "reward-lens", "their forward", 2.0))
    if isinstance(peer, Talk):
        found.checks[f"reward-lens reads the same ids, {tokens} tokens"] = peer.greeting["ids"][first:first + count] == ids


def memory_rows(folder: Path, sizes: Sizes, found: Findings) -> None:
    """Peak resident memory of two sweeps of the large model, each in a fresh process."""
    tokens, kinds = sizes.large_tokens, [*sweeps.KINDS, "z"]
    runs = Runs.of(tokens, tokens - sizes.large_live)
    count = min(tokens, -(-sizes.large_sites // (len(kinds) * sizes.large.layers)))
    spread = [tokens * i // 4 for i in range(4)] + [tokens - 1]
    works = ((f"layer × position over the whole sequence ({len(spread)} positions), set to zero", None, sweeps.KINDS, spread),
             (f"layer × position, the last {count} positions, patched", runs.source, kinds, range(tokens - count, tokens)))
    for what, source, some, positions in works[-1:] if sizes == SMOKE else works:  # as in scoring.py
        job = {"model": str(folder), "base": runs.base, "source": source, "kinds": list(some), "positions": list(positions)}
        done = subprocess.run([sys.executable, "-m", "harness.sweep_memory", json.dumps(job)], cwd=HERE, check=True, text=True,
                              stdout=subprocess.PIPE, env=environment())
        told = json.loads(done.stdout.splitlines()[-1])
        name = f"{what}: {told['sites']} sites, {told['live']} that can change the reward"
        found.memory.append({"work": f"{name}: recorded runs", "loaded_mb": told["loaded_mb"], "peak_mb": told["recorded_mb"]})
        found.memory.append({"work": f"{name}: runs and sweep", "loaded_mb": told["loaded_mb"], "peak_mb": told["peak_mb"]})
        added = told["peak_mb"] - told["loaded_mb"]
        trace = f"peak added / trace of the base run ({told['trace_mb']:.0f} MB)"
        found.count(f"{name}: {trace}", added / told["trace_mb"], "<= 2" if source is None else "")
        if source:
            found.count(f"{name}: peak added, GB", added / 1024, "<= 1.5")


def measure(scratch: Path, sizes: Sizes, repetitions: int, install: bool, say: Callable[[str], None], stack: ExitStack
            ) -> dict[str, Any]:
    """Every section; a dict that JSON can hold."""
    found, start = Findings(), load_average()
    folders = {name: save_model(scratch / name, getattr(sizes, name)) for name in ("model", "deep", "large")}
    shape, tokens, half = sizes.model, sizes.tokens, sizes.tokens // 2
    runs = [Runs.of(tokens, shared) for shared in (0, half)]
    sites = sweeps.sites_by_position(shape.layers, range(tokens))
    jobs = [asdict(one) | {"sites": [sites[i] for i in sweeps.sample(sites, sizes.sample, one.shared)]} for one in runs]
    count = 4 * repetitions + 1  # the first warms up
    texts = [{"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
             for length in sizes.pair_tokens for pair in pairs_of(length, count)]
    job, talk = scratch / "job.json", scratch / "pairs.json"
    job.write_text(json.dumps({"model": str(folders["model"]), "runs": jobs}))
    talk.write_text(json.dumps({"model": str(folders["model"]), "work": "patch", "pairs": texts}))
    say("peers start")
    peers = {name: open_peer(stack, name, release, [str(HERE / "harness" / "peer_patching.py"), name, str(job)])
             for name, release in PEERS.items()} if install else dict.fromkeys(PEERS, "left out")
    lens = open_peer(stack, *REWARD_LENS, [str(HERE / "harness" / "peer_reward_lens.py"), str(talk)]
                     ) if install else "left out"
    rm, model = rewarden.load(str(folders["model"])), plain.load(str(folders["model"]))
    for number, (shared, target) in enumerate(((0, ">= 4"), (half, ">= 14"))):
        name = f"layer × position, {len(sites)} sites, {shared} of {tokens} tokens shared"
        say(name)
        sweep = Sweep(rm, model, shape, runs[number], sites,
                      lambda source: sweeps.edits_by_position(source, range(tokens)), sizes.sample)
        by_position(sweep, number, name, target, peers, found, repetitions)
    for name, folder, one, length, size, targets in (
            ("read-out", "model", shape, tokens, sizes.sample, ("<= 1.5", "")),
            (f"read-out, {sizes.deep.layers} layers, {sizes.deep_tokens} tokens", "deep", sizes.deep, sizes.deep_tokens,
             sizes.deep_sample, ("", ">= 400"))):
        places = sweeps.sites_at_read_out(one, length)
        say(name)
        both = (rm, model) if folder == "model" else (rewarden.load(str(folders[folder])), plain.load(str(folders[folder])))
        sweep = Sweep(*both, one, Runs.of(length, 0), places, sweeps.edits_at_read_out, size)
        at_read_out(sweep, f"{name}, {len(places)} sites", targets, found, repetitions * (4 if folder == "model" else 1))
    say("pairs")
    for number, length in enumerate(sizes.pair_tokens):
        pair_rows(rm, length, number * count, count, lens, found)
    say("memory")
    memory_rows(folders["large"], sizes, found)
    told = {f"{name} {PEERS.get(name, REWARD_LENS[1])}": "" if isinstance(peer, Talk) else f"not run: {peer}"
            for name, peer in [*peers.items(), ("reward-lens", lens)]}
    toy = {"target": ""} if sizes == SMOKE else {}  # no target at toy sizes
    return {"machine": machine() | told | {"threads": str(torch.get_num_threads()), "load average at the start": start},
            "sizes": asdict(sizes), "repetitions": repetitions, "repeated": ", four times as many for the short ones",
            "checks": found.checks, "ratios": [row.described() | toy for row in found.rows],
            "counts": [count | toy for count in found.counts], "memory": found.memory}


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5, help="of the sweeps; short ones take four times as many")
    parser.add_argument("--peer", choices=("install", "none"), default="install",
                        help="install: the peers, in benchmarks/.peers on first use; none: leave them out")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, two repetitions: does it run?")
    parser.add_argument("--long", action="store_true", help="memory with half the sequence shared: some 20 minutes more")
    parser.add_argument("--out", type=Path, help="folder for patching-DATE-cpu.json and .md")
    return parser.parse_args()


def main() -> None:
    """Measure, print, and write where asked."""
    given = arguments()
    warnings.simplefilter("ignore")
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    sizes, repetitions = (SMOKE, 2) if given.smoke else (FULL, given.repetitions)
    if given.long:
        sizes = replace(sizes, large_live=sizes.large_tokens // 2)

    def say(text: str) -> None:
        print(f"measuring {text} ...", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        found = measure(Path(scratch), sizes, repetitions, given.peer == "install", say, stack)
    asked = " --smoke" * given.smoke + " --long" * given.long + " --peer none" * (given.peer == "none")
    found = results.record("patching", f" --repetitions {repetitions}{asked}", found)
    results.tell(found, "patching-DATE-cpu", given.out, tables.page)


if __name__ == "__main__":
    main()
