"""Which reward models with a planted rule there are."""

from __future__ import annotations

from rewarden.cli.flags import Output, OutputOptions
from rewarden.cli.terminal import Outcome, line, table


def list_(*, output: Output = OutputOptions()) -> Outcome:
    """The organisms, with the dose each states, and the instruments that can be graded on them."""
    from rewarden.hacking.instruments import INSTRUMENTS
    from rewarden.organisms.grading import stated_dose
    from rewarden.organisms.makers import ORGANISMS

    rules = [{"organism": name, "dose": stated_dose(make), "rule": " ".join((make.__doc__ or "").partition("\n\n")[0].split())}
             for name, make in ORGANISMS.items()]
    asked = [{"instrument": one.name, "flags": one.asks} for one in INSTRUMENTS.values()]
    view = (table("Organisms: reward models whose rule is planted", ("organism", "dose", "rule"),
                  [tuple(one.values()) for one in rules]),
            table("Instruments that raise flags", ("instrument", "a flag says"), [tuple(one.values()) for one in asked]),
            line("noise is the null of all: random weights"))
    return Outcome({"organisms": rules, "instruments": asked}, view)
