"""Everything that can be asked of a reward model, in one run folder with one offline report.

In: a model, pairs, a folder. Out: rows and results on disk, summary.json, report.html. Ignorant of what the sections
ask; resumes a killed run.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rewarden.conversation import Pair
from rewarden.errors import RewardenError
from rewarden.fitting import fitting
from rewarden.options import AuditOptions, resolve
from rewarden.report.context import Audit, LeftOut
from rewarden.report.health import checks
from rewarden.report.page import Page, page_data, plain, ranked_findings, render
from rewarden.report.section import Finding, Section, build_section, builders
from rewarden.report.tables import number
from rewarden.score_runs import identity_of, pairs_of, result_of, rows_of, score_into
from rewarden.store import Run
from rewarden.store.files import write_bytes

if TYPE_CHECKING:
    from rewarden.result import Result
    from rewarden.reward_model import RewardModel


@dataclass(frozen=True)
class Report:
    """A finished audit: where it lies and what it says.

    Args:
        folder: the run folder.
        sections: what was built, in page order.
        score: the score result of all pairs.

    The report itself is `path`; the object works wherever a path does.
    """

    folder: Path
    sections: tuple[Section, ...] = field(repr=False)
    score: Result = field(repr=False)

    @property
    def path(self) -> Path:
        """The HTML file."""
        return self.folder / "report.html"

    @property
    def findings(self) -> list[Finding]:
        """All findings in the order in which the page leads with them."""
        return [finding for _, finding in ranked_findings(self.sections)]

    @property
    def summary(self) -> dict[str, Any]:
        """The machine-readable content of the page."""
        return json.loads((self.folder / "summary.json").read_text(encoding="utf-8"))

    def __fspath__(self) -> str:
        return str(self.path)

    def _repr_html_(self) -> str:
        from markupsafe import Markup

        rows = Markup("").join(Markup("<li>{}</li>").format(finding.text) for finding in self.findings)
        return str(Markup("<p>{}</p><ul>{}</ul>").format(str(self.path), rows))


def audit(rm: RewardModel, pairs: Sequence[Pair] | None = None, out: str | os.PathLike[str] = "audit", *,
          options: AuditOptions | None = None, resume: bool = True, command: str = "", quiet: bool = False,
          **overrides: Any) -> Report:
    """What does this reward model reward, where in it is that decided, and can the numbers be trusted?

    Args:
        rm: the reward model.
        pairs: preference pairs; the bundled ones by default. A pair with a response that does not fit the model is left
            out and counted.
        out: run folder; a folder that holds a part of the same audit is continued.
        options: how much goes into the report; single fields may be given as keywords instead.
        resume: False sets an existing run aside and starts afresh.
        command: what was typed, for the header; by default the process's own command.
        quiet: no progress line even on a terminal.
        **overrides: fields of `AuditOptions`.

    Returns:
        The `Report`: `.path` of report.html, `.findings`, `.summary`.

    Raises:
        RewardenError: no pairs; a folder of another run; unknown options. A section that cannot be made becomes a box
            in the report instead.

    Example:
        >>> import rewarden as rw, tempfile
        >>> pairs = [rw.Pair("What is 2+2?", "4.", "5."), rw.Pair("Name a colour.", "Blue.", "Seven.")]
        >>> few = {"bias": "none", "vocabulary": "none", "against": "none", "resamples": 100}
        >>> report = rw.audit(rw.load(), pairs, out=tempfile.mkdtemp() + "/run", **few)
        >>> report.path.name
        'report.html'
    """
    chosen = resolve(AuditOptions, options, overrides)
    pairs = _bundled_pairs() if pairs is None else list(pairs)
    if not pairs:
        raise RewardenError("no pairs to audit", where="audit(pairs=)", why="the list is empty",
                            fix="pass at least one Pair, or none to use the bundled ones")
    fit = fitting(rm, pairs)
    pairs = list(fit.pairs)
    health, left_out = dict(rm.health), LeftOut(fit.left_out, fit.reason)
    record = {**rm.provenance(), "health": plain(health), "left_out": asdict(left_out)}
    run = Run.open_or_create(out, {"verb": "audit", **asdict(chosen)}, record, identity=identity_of(rm, pairs), resume=resume)
    with _progress(len(pairs), quiet) as (advance, step):
        score_into(run, rm, pairs, advance=advance)
        rows = rows_of(run)
        score = result_of(rows, rm.provenance(), noise_floor=_noise_floor(health))
        run.save_result(score, "score")
        context = Audit(rm=rm, pairs=pairs, score=score, options=chosen, run=run, progress=step, left_out=left_out)
        return write_report(context, health=health, command=command or _command(run))


def rebuild(folder: str | os.PathLike[str], *, command: str = "") -> Report:
    """The report of a finished audit, written again from its folder without the model.

    Args:
        folder: of an audit.
        command: for the header; by default the recorded one.

    Returns:
        The `Report`. Sections whose results are not in the folder say so.

    Raises:
        RewardenError: no run there, or one without rows.
    """
    run = Run.open(folder)
    rows = rows_of(run) if run.done_keys() else None
    if rows is None:
        raise RewardenError("this run has no rows", where=str(run.path), why="it stopped before the first batch",
                            fix="run the audit again into the same folder")
    provenance, config = _record(run, "provenance"), _record(run, "config")
    health, left_out = (dict(found) if isinstance(found, Mapping) else {}
                        for found in (provenance.pop("health", None), provenance.pop("left_out", None)))
    fields = {name: config[name] for name in asdict(AuditOptions()) if name in config}
    context = Audit(rm=None, pairs=pairs_of(rows), options=AuditOptions(**fields), run=run,  # pyright: ignore[reportArgumentType]
                    score=result_of(rows, provenance, noise_floor=_noise_floor(health)), left_out=LeftOut(**left_out))
    return write_report(context, health=health, command=command or _command(run))


def write_report(audit: Audit, *, health: Mapping[str, Any], command: str) -> Report:
    """Build every section and write report.html and summary.json into the run folder."""
    assert audit.run is not None, "write_report needs a run folder"
    sections = []
    for builder in builders():
        audit.progress(builder.title)
        made = build_section(builder, audit)
        if made is not None:
            sections.append(made)
    page = describe(audit, sections, health=health, command=command)
    write_bytes(audit.run.path / "report.html", render(page).encode())
    summary = json.dumps(plain(page_data(page)), indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes(audit.run.path / "summary.json", summary.encode())
    return Report(audit.run.path, tuple(sections), audit.score)


def describe(audit: Audit, sections: Sequence[Section], *, health: Mapping[str, Any], command: str) -> Page:
    """The page: header facts, provenance, health and sections."""
    from rewarden import __version__

    provenance = {str(name): value for name, value in audit.score.provenance.items()}
    counted = audit.counted
    facts = {"pairs": str(len(audit.table)), "distinct prompts": str(audit.table["prompt"].nunique()),
             "accuracy": f"{100 * counted['won'].mean():.1f} %" if len(counted) else "—",
             "SD of rewards": number(audit.spread, 3)}
    facts |= {name: str(provenance[name]) for name in ("dtype", "device", "revision", "created") if provenance.get(name)}
    name = str(provenance.get("model") or provenance.get("name") or "reward model")
    return Page(name=name, facts=facts, provenance=provenance, command=command, health=checks(audit, health),
                sections=sections, version=__version__)


def _record(run: Run, part: str) -> dict[str, Any]:
    """A part of run.json that is a mapping."""
    found = run.manifest.get(part)
    return dict(found) if isinstance(found, Mapping) else {}


def _noise_floor(health: Mapping[str, Any]) -> float | None:
    value = health.get("noise_floor")
    return float(value) if isinstance(value, (int, float)) else None


def _bundled_pairs() -> list[Pair]:
    from rewarden.preferences import load_pairs

    return list(load_pairs("demo"))


def _command(run: Run) -> str:
    """The recorded command with the program's name instead of its path."""
    words = run.manifest.get("command")
    words = [str(word) for word in words] if isinstance(words, list) and words else [sys.argv[0]]
    return shlex.join([Path(words[0]).name or "python", *words[1:]])


@contextmanager
def _progress(total: int, quiet: bool) -> Iterator[tuple[Callable[[int], object], Callable[[str], None]]]:
    """One line on a terminal's stderr, nothing elsewhere: a function that counts pairs and one that names the step."""
    if quiet or not sys.stderr.isatty():
        yield (lambda done: None), (lambda step: None)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("scoring", total=total)
        yield (lambda done: bar.advance(task, done)), (lambda step: bar.update(task, description=step.lower()))
