"""What is a section of the report, and how does an analysis add one?

A section is a plain value: findings in sentences, blocks (figure with table, table, text), methods, JSON data. Builders
register by decorator; every module in `report/sections/` is found by itself. Ignorant of pages and of models.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from rewarden.errors import RewardenError

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from rewarden.report.context import Audit
    from rewarden.report.points import Points

Level = Literal["concern", "fact", "clear"]
"""A problem that was found; a measurement; a problem that was looked for and not found."""


@dataclass(frozen=True)
class Finding:
    """One sentence with its numbers, n and interval.

    Args:
        text: the sentence, plain text.
        level: "concern" leads the report, then "fact", then "clear".
        weight: order within a level, larger first.
    """

    text: str
    level: Level = "fact"
    weight: float = 0.0


@dataclass(frozen=True)
class FigureBlock:
    """A figure, what it shows, and the same numbers as a table.

    Args:
        figure: a Plotly figure; its title becomes the heading of the block.
        caption: how to read it, plain text.
        table: the numbers behind it, for screen readers and for comparing two reports.
        points: points that a reader can look up by name in a search box and see marked.
    """

    figure: go.Figure
    caption: str
    table: pd.DataFrame
    points: Points | None = None


@dataclass(frozen=True)
class TableBlock:
    """A table that stands for itself.

    Args:
        title: its heading.
        caption: how to read it, plain text.
        table: its rows.
        folded: whether a reader opens it first.
    """

    title: str
    caption: str
    table: pd.DataFrame
    folded: bool = False


@dataclass(frozen=True)
class HtmlBlock:
    """Ready markup, such as coloured text.

    Args:
        title: its heading.
        caption: how to read it, plain text.
        html: escaped markup without script and without inline style.
        table: the same numbers, where there are any.
    """

    title: str
    caption: str
    html: Markup
    table: pd.DataFrame | None = None


Block = FigureBlock | TableBlock | HtmlBlock


@dataclass(frozen=True)
class Section:
    """One part of the report.

    Args:
        name: a stable word, used in links and as the key of its JSON data.
        title: its heading.
        findings: sentences with numbers; they are collected at the top of the page.
        blocks: what is shown, in order.
        methods: how it was measured and what it cannot say.
        data: JSON-able numbers for machines.
        problem: the error that made the section unavailable, if one did.

    Example:
        >>> Section("dates", "Dates", findings=["5 of 7 are Mondays."]).statements[0].level
        'fact'
    """

    name: str
    title: str
    findings: Sequence[Finding | str] = ()
    blocks: Sequence[Block] = ()
    methods: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    problem: RewardenError | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "findings", self.statements)
        object.__setattr__(self, "blocks", tuple(self.blocks))

    @property
    def statements(self) -> tuple[Finding, ...]:
        """The findings; one given as a plain string is a fact."""
        return tuple(Finding(item) if isinstance(item, str) else item for item in self.findings)


Build = Callable[["Audit"], "Section | None"]


@dataclass(frozen=True)
class Builder:
    """A registered section: its name, its title, its place in the page, and the function that builds it."""

    name: str
    title: str
    order: float
    build: Build


_BUILDERS: dict[str, Builder] = {}


def register_section(name: str, build: Build, *, title: str = "", order: float = 500) -> Builder:
    """Add a section to every later audit.

    Args:
        name: a new stable word of letters, digits, "-" and "_".
        build: takes the `Audit` and returns a `Section`, or None when the section does not apply to the data.
        title: the heading when the section is not available; the name by default.
        order: place in the page, smaller first; the project's own sections use 0 to 999.

    Returns:
        The registered builder.

    Raises:
        RewardenError: the name is taken by another function, or is not such a word.

    Example:
        >>> done = register_section("weekdays", lambda audit: None, order=950)
        >>> forget_section("weekdays")
    """
    if not name or not all(character.isalnum() or character in "-_" for character in name) or not name.isascii():
        raise RewardenError(f"section name {name!r} is not a word", where="register_section(name=)",
                            why="the name becomes an HTML anchor and a JSON key", fix="use letters, digits, '-' and '_'")
    builders()  # the project's own names are taken whether or not an audit ran yet
    return _register(Builder(name, title or name, order, build))


def _register(builder: Builder) -> Builder:
    name, build = builder.name, builder.build
    known = _BUILDERS.get(name)
    if known is not None and (known.build.__module__, known.build.__qualname__) != (build.__module__, build.__qualname__):
        raise RewardenError(f"a section named {name!r} exists already", where="register_section(name=)",
                            why=f"it is built by {known.build.__module__}.{known.build.__qualname__}",
                            fix="choose another name, or forget_section(name) first")
    _BUILDERS[name] = builder
    return builder


def forget_section(name: str) -> None:
    """Remove a section from later audits; unknown names are fine."""
    _BUILDERS.pop(name, None)


def section(name: str, *, title: str = "", order: float = 500) -> Callable[[Build], Build]:
    """`register_section` as a decorator of the build function, for modules in `report/sections/`."""
    def decorate(build: Build) -> Build:
        _register(Builder(name, title or name, order, build))
        return build
    return decorate


def builders() -> list[Builder]:
    """All registered sections in page order, those in `report/sections/` included."""
    package = importlib.import_module("rewarden.report.sections")
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda found: found.name):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return sorted(_BUILDERS.values(), key=lambda builder: (builder.order, builder.name))


def build_section(builder: Builder, audit: Audit) -> Section | None:
    """The section, or a visible box in its place when a `RewardenError` explains why it is not available.

    Any other exception is a bug of the section and passes through.
    """
    try:
        return builder.build(audit)
    except RewardenError as error:
        return Section(builder.name, builder.title, problem=error)
