"""The audit and its offline HTML report; analyses add sections to it.

`audit` makes a run folder with `report.html`; `rebuild` writes the report again; `section` and `register_section` add one.
"""

from __future__ import annotations

from rewarden.report.auditing import Report, audit, rebuild
from rewarden.report.context import Audit
from rewarden.report.page import Check, Page, render
from rewarden.report.section import (
    FigureBlock,
    Finding,
    HtmlBlock,
    Section,
    TableBlock,
    forget_section,
    register_section,
    section,
)

__all__ = ["Audit", "Check", "FigureBlock", "Finding", "HtmlBlock", "Page", "Report", "Section", "TableBlock", "audit",
           "forget_section", "rebuild", "register_section", "render", "section"]
