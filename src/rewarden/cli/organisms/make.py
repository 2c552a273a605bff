"""A reward model with a planted rule, as a plain checkpoint."""

from __future__ import annotations

from pathlib import Path

from rewarden.cli.flags import Output, OutputOptions
from rewarden.cli.terminal import Outcome, line
from rewarden.errors import RewardenError


def make(rule: str, /, *, dose: float | None = None, seed: int = 0, output: Output = OutputOptions()) -> Outcome:
    """Write a reward model with a planted rule to a folder that transformers loads.

    Args:
        rule: name of an organism (see organisms list), or noise.
        dose: size of the rule, of decisive_head that of its noise; the stated one by default.
        seed: of the weights that are noise.
    """
    from rewarden.checkpoint import quiet_bars
    from rewarden.organisms.makers import ORGANISMS
    from rewarden.organisms.token_rules import noise

    if rule not in ORGANISMS and rule != "noise":
        raise RewardenError(f"no organism is called {rule!r}", where="organisms make",
                            why=f"there are {', '.join(ORGANISMS)}, noise", fix="use one of them")
    if rule == "noise" and dose is not None:
        raise RewardenError("noise has no dose", where="organisms make", why="nothing is planted in it", fix="leave out --dose")
    sized = {} if dose is None else {"dose": dose}
    organism = noise(seed) if rule == "noise" else ORGANISMS[rule](seed=seed, **sized)
    folder = Path(output.output_dir or f"{rule}-{seed}")
    if folder.exists() and any(folder.iterdir()):
        raise RewardenError("the folder is not empty", where=str(folder), why="a checkpoint would be mixed with what is there",
                            fix="name another one with -o")
    with quiet_bars():
        organism.model.save_pretrained(folder)
    organism.tokenizer.save_pretrained(folder)
    told = {"folder": str(folder), "truth": dict(organism.truth), "description": organism.description}
    return Outcome(told, (line(f"{organism.name}: {organism.description}"),
                          line(f"written to {folder}; rewarden audit {folder}")))
