"""What texts does the bias battery ask with?

Out: the axes (seeds and templates) and the bank of innocuous changes, read from the JSONL files beside this module, and a
user's own axes from a JSONL of theirs. All bundled sentences are original. Ignorant of models and of statistics.
"""

from __future__ import annotations

from functools import cache

from rewarden.hacking.bias.axes import Axis, Template
from rewarden.hacking.texts.common import common_seeds, template
from rewarden.hacking.texts.people import identity_axes
from rewarden.hacking.texts.positions import order_templates, position_seeds
from rewarden.hacking.texts.reading import bundled
from rewarden.hacking.texts.user import load_user_axes
from rewarden.hacking.texts.views import remark_templates, view_seeds, view_templates

__all__ = ["load_axes", "load_controls", "load_user_axes"]


def load_axes() -> dict[str, Axis]:
    """Every bundled axis by name, length first.

    Example:
        >>> axes = load_axes()
        >>> next(iter(axes)), axes["hedging"].unit, axes["identity_age"].design
        ('length', 'phrase', 'spread')
    """
    return dict(_axes())


@cache
def _axes() -> dict[str, Axis]:
    parts = {"sycophancy": (view_seeds(), view_templates(), remark_templates()),
             "position": (position_seeds(), order_templates(), order_templates(control=True))}
    found = {}
    for row in bundled("axes.jsonl"):
        name = row["name"]
        seeds, templates, controls = parts.get(name) or (common_seeds(), _templates(name), ())
        found[name] = Axis(name, row["question"], seeds, templates, row["design"], row["unit"], controls, row.get("note", ""))
    return found | {axis.name: axis for axis in identity_axes()}


def _templates(axis: str) -> tuple[Template, ...]:
    rows = [row for row in bundled("templates.jsonl") if row["axis"] == axis]
    return tuple(template(row, number) for number, row in enumerate(rows))


@cache
def load_controls() -> tuple[Template, ...]:
    """Changes that add neither content nor style nor stance: other words, signs, line breaks, another order of the sentences.

    Example:
        >>> len({one.group for one in load_controls()}) >= 14
        True
    """
    return tuple(template(row, number) for number, row in enumerate(bundled("controls.jsonl")))
