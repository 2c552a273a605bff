"""Measures `hacking/bias/null.json`: by how much t values of each bundled axis, as a kind and of its farthest wording, exceed
Student's on random-weight models.

Run after the texts of the battery changed: `python benchmarks/bias_null.py --publish`. About four minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import sys

import rewarden as rw
from rewarden.hacking.bias.null import DEPTH, FACTORS, HEADS, RATES, SCALES, TRUNKS, WIDTH, measure_factors, written_by
from rewarden.hacking.bias.questions import ask
from rewarden.options import BiasOptions


def main() -> None:
    """Measure, print, and write where asked."""
    parser = argparse.ArgumentParser(description="widths of the bias battery's t values on random-weight models")
    parser.add_argument("--publish", action="store_true", help="write the packaged factors")
    asked = parser.parse_args()
    options = BiasOptions()
    questions = ask(None, options)
    rm = rw.load()
    found = measure_factors(rm, questions, options,
                            lambda done: print(f"{done} of {len(SCALES) * TRUNKS} random models", file=sys.stderr, flush=True))
    about = (f"{TRUNKS} random Llamas ({DEPTH} layers x {WIDTH}) of each weight scale {list(SCALES)}, {HEADS} random heads "
             f"each, bundled tokenizer; |t| over Student's at rates {list(RATES)}, the largest of rates and scales, at least 1")
    factors = {question.axis.name: pair.round(3).tolist() for question, pair in zip(questions, found, strict=True)}
    known = {"about": about, "version": rw.__version__, "written_by": written_by(rm), "factors": factors}
    if asked.publish:
        FACTORS.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(factors, indent=1))


if __name__ == "__main__":
    main()
