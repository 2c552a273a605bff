"""How do sections become one HTML file that works offline and executes nothing of what it shows?

In: a `Page` of plain values. Out: the text of report.html. All text goes through Jinja2's autoescape or a JSON encoder
that escapes markup; a Content-Security-Policy allows exactly the scripts and the style whose hashes it lists. Ignorant of
models, of runs and of what the numbers mean.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from rewarden.plots.labels import visible
from rewarden.plots.text import stylesheet
from rewarden.report.points import pack
from rewarden.report.section import FigureBlock, Finding, HtmlBlock, Section, TableBlock
from rewarden.report.tables import page_table

SIZE_LIMIT = 6_000_000
"""Bytes of a report; the largest figures and searches are left out beyond it, their tables stay."""

SCHEMA = "rewarden.report/1"
"""Name and version of the machine-readable block."""

LEADING_FACTS = 5
"""Measurements in the opening list; the others are folded below them. Concerns are never folded."""

_TORN = re.compile(r"\d %|\bn = \d|\d points|\d SD\b")

PLOTLY_STYLE = ""
"""Content of the style element plotly.js adds at run time: empty, its rules follow through the CSSOM."""

_LEVELS = (("concern", "Concerns"), ("fact", "Measured"), ("clear", "Looked for, no evidence"))
_MARKS = {"ok": "✓", "look": "!", "info": "·"}


@dataclass(frozen=True)
class Check:
    """One line of the health box.

    Args:
        name: what was checked.
        value: what was found, with its unit.
        status: "ok", "look" (a reader should know before trusting the numbers) or "info".
        meaning: one sentence on what it means.
    """

    name: str
    value: str
    status: Literal["ok", "look", "info"] = "info"
    meaning: str = ""


@dataclass(frozen=True)
class Page:
    """Everything a report says.

    Args:
        name: what the report is about, usually the model.
        facts: the few facts of the header, by name.
        provenance: all recorded facts.
        command: what to type to make this report again.
        health: lines of the health box.
        sections: in page order.
        version: of rewarden.
    """

    name: str
    facts: Mapping[str, str] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""
    health: Sequence[Check] = ()
    sections: Sequence[Section] = ()
    version: str = ""


def render(page: Page) -> str:
    """The page as HTML, at most 6 MB.

    Args:
        page: what to say.

    Returns:
        One HTML document without any reference to another file or host.

    Example:
        >>> "<script>alert" in render(Page(name="<script>alert(1)</script>"))
        False
    """
    sections = [_section(section) for section in page.sections]
    text = _fill(page, sections)
    parts = sorted(((block, part) for section in sections for block in section["blocks"] for part in ("json", "points")
                    if block.get(part)), key=lambda item: len(item[0][item[1]]))
    while parts and len(text.encode()) > SIZE_LIMIT:
        block, part = parts.pop()  # the largest goes first; tables stay
        block[part] = None
        text = _fill(page, sections)
    return text


def _fill(page: Page, sections: list[dict[str, Any]]) -> str:
    style = resources.files("rewarden.report").joinpath("templates/page.css").read_text(encoding="utf-8")
    boot = resources.files("rewarden.report").joinpath("templates/page.js").read_text(encoding="utf-8")
    style, plotly = f"{style}\n{stylesheet()}", plotly_script()
    provenance = pd.DataFrame({"what": [visible(name) for name in page.provenance],
                               "value": [visible(str(value)) for value in page.provenance.values()]})
    template = _environment().get_template("page.html.j2")
    return template.render(
        policy=policy(scripts=(plotly, boot), styles=(style, PLOTLY_STYLE)), title=f"{page.name} · rewarden audit",
        name=page.name, facts=[{"name": key, "value": value} for key, value in page.facts.items()],
        provenance=page_table(provenance, label="Provenance"), command=page.command,
        health=[{"name": check.name, "value": check.value, "status": check.status, "mark": _MARKS[check.status],
                 "meaning": check.meaning} for check in page.health],
        findings=_top_findings(page.sections), sections=sections, version=page.version, style=Markup(style),
        library=Markup(packed_library()), boot=Markup(boot), data=Markup(embedded_json(page_data(page))))


@lru_cache(maxsize=1)
def _environment() -> Environment:
    # finalize sees every printed expression before it is escaped, so no text reaches the page with control characters.
    return Environment(loader=PackageLoader("rewarden.report"), autoescape=True, undefined=StrictUndefined,
                       trim_blocks=True, lstrip_blocks=True, finalize=_readable)


def _readable(value: Any) -> Any:
    """Text with its control characters made visible; markup and everything else as it is."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@lru_cache(maxsize=1)
def plotly_script() -> str:
    """plotly.js as shipped with the Python package."""
    return get_plotlyjs()


@lru_cache(maxsize=1)
def packed_library() -> str:
    """plotly.js for the page, packed to two fifths: page.js unpacks it, the policy's hash admits exactly this text."""
    return embedded_json(pack(plotly_script().encode()))


def policy(*, scripts: Sequence[str], styles: Sequence[str]) -> str:
    """A Content-Security-Policy that allows exactly these inline scripts and styles, images as data, and no request.

    Example:
        >>> policy(scripts=["1"], styles=[]).split("; ")[:3]
        ["default-src 'none'", "script-src 'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s='", "style-src 'none'"]
    """
    script, style = (" ".join(f"'{_digest(text)}'" for text in texts) or "'none'" for texts in (scripts, styles))
    return (f"default-src 'none'; script-src {script}; style-src {style}; img-src data:; base-uri 'none'; form-action 'none'")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def embedded_json(value: Any) -> str:
    """JSON that cannot leave a script element: ASCII only, `<`, `>`, `&` as escapes, NaN and infinities as null.

    Example:
        >>> embedded_json({"a": "</script>", "b": float("nan")})
        '{"a":"\\\\u003c/script\\\\u003e","b":null}'
    """
    text = json.dumps(plain(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def plain(value: Any) -> Any:
    """The value with numpy scalars and arrays, mappings and sequences as JSON knows them; not finite becomes None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)


def page_data(page: Page) -> dict[str, Any]:
    """The machine-readable content of a page: provenance, health, findings and each section's data."""
    return {"schema": SCHEMA, "name": page.name, "provenance": dict(page.provenance), "facts": dict(page.facts),
            "health": [{"name": check.name, "value": check.value, "status": check.status} for check in page.health],
            "findings": [{"section": section.name, "level": finding.level, "text": finding.text}
                         for section, finding in ranked_findings(page.sections)],
            "sections": {section.name: section.data if section.problem is None else {"problem": str(section.problem)}
                         for section in page.sections}}


def ranked_findings(sections: Sequence[Section]) -> list[tuple[Section, Finding]]:
    """All findings: concerns first, then facts, then what was looked for without evidence; by weight, then page order."""
    order = {level: place for place, (level, _) in enumerate(_LEVELS)}
    pairs = [(section, finding) for section in sections for finding in section.statements]
    return sorted(pairs, key=lambda pair: (order[pair[1].level], -pair[1].weight))


def _top_findings(sections: Sequence[Section]) -> list[dict[str, Any]]:
    ranked = ranked_findings(sections)
    groups = []
    for level, title in _LEVELS:
        rows = [{**_sentence(finding), "anchor": f"section-{section.name}", "section": section.title}
                for section, finding in ranked if finding.level == level]
        shown = LEADING_FACTS if level == "fact" else len(rows)
        if rows:
            groups.append({"level": level, "title": title, "findings": rows[:shown], "more": rows[shown:]})
    return groups


def _sentence(finding: Finding) -> dict[str, str]:
    """A finding for reading: its claim (up to the colon) apart, and numbers not torn from their signs at a line's end."""
    text = _TORN.sub(lambda match: match[0].replace(" ", "\u00a0"), finding.text)
    claim, colon, rest = text.partition(": ")
    return {"claim": claim + colon.strip(), "rest": rest} if colon and len(claim) <= 120 else {"claim": "", "rest": text}


def _section(section: Section) -> dict[str, Any]:
    problem = None
    if section.problem is not None:
        details = (("where", section.problem.where), ("why", section.problem.why), ("fix", section.problem.fix))
        problem = {"what": section.problem.what,
                   "details": [{"name": name, "value": value} for name, value in details if value]}
    return {"anchor": f"section-{section.name}", "title": section.title, "methods": section.methods, "problem": problem,
            "findings": [{**_sentence(item), "level": item.level} for item in section.statements],
            "blocks": [_block(block, f"{section.name}-{place}") for place, block in enumerate(section.blocks)]}


def _block(block: FigureBlock | TableBlock | HtmlBlock, name: str) -> dict[str, Any]:
    if isinstance(block, FigureBlock):
        title, height, text = _figure(block)
        found = block.points
        return {"kind": "figure", "id": f"figure-{name}", "title": title, "caption": block.caption, "json": text,
                "height": height, "table": page_table(block.table, label=title), "noun": found.noun if found else "",
                "points": None if found is None else Markup(embedded_json(found.packed()))}
    if isinstance(block, TableBlock):
        return {"kind": "table", "title": block.title, "caption": block.caption, "folded": block.folded,
                "table": page_table(block.table, label=block.title)}
    return {"kind": "html", "title": block.title, "caption": block.caption, "html": escape(block.html),
            "table": None if block.table is None else page_table(block.table, label=block.title)}


def _figure(block: FigureBlock) -> tuple[str, int, Markup]:
    """Title, height and JSON of a figure; the title leaves the figure, so that it wraps and is a heading of the page."""
    spec = json.loads(block.figure.to_json(engine="json"))
    layout = spec["layout"]
    title = html.unescape(layout.pop("title", {}).get("text", ""))
    legend = any(trace.get("showlegend", True) for trace in spec["data"]) and layout.get("showlegend", True)
    layout["margin"] = {"l": 8, "r": 12, "t": 34 if legend else 10, "b": 8}
    layout["autosize"] = True
    return title, int(layout.get("height", 360)), Markup(embedded_json(spec))
