"""An audit that is stopped anywhere goes on: what was finished stays as it was, and nothing of it is computed again."""

from __future__ import annotations

import hashlib

import pytest

import rewarden as rw
from rewarden.report import rebuild
from rewarden.report.context import Audit
from rewarden.store import Run

OPTIONS = {"resamples": 100, "examples": 1, "lens_pairs": 6, "patch_pairs": 4, "errors": 2, "vocabulary": "none",
           "candidates": "none", "bias": "position"}
EACH = 5
"""Results that are finished before the next stop."""


def digests(folder, names) -> dict[str, str]:
    """What the stored results of these names hold."""
    return {name: hashlib.sha256((folder / f"{name}.nc").read_bytes()).hexdigest() for name in names}


@pytest.mark.slow
def test_an_audit_stopped_in_every_section_ends_as_it_would_have(demo, tmp_path, monkeypatch):
    pairs, folder = rw.load_pairs("demo", limit=16), tmp_path / "run"
    plain, made, allowed = Audit.result, [], EACH

    def stopping(self, name, compute):
        def counted():
            if len(made) >= allowed:
                raise KeyboardInterrupt
            found = compute()
            made.append(name)
            return found

        return plain(self, name, counted)

    monkeypatch.setattr(Audit, "result", stopping)
    held: dict[str, str] = {}
    report = None
    while report is None:
        try:
            report = rw.audit(demo, pairs, out=folder, **OPTIONS)
        except KeyboardInterrupt:
            now = digests(Run.open(folder).results_folder, made)
            assert {name: now[name] for name in held} == held
            held, allowed = now, allowed + EACH
    assert len(held) >= 2 * EACH
    assert len(made) == len(set(made))  # nothing that was finished was computed again
    assert "comparison" in made

    def refuse(self, name, compute):
        return plain(self, name, lambda: pytest.fail(f"{name} was computed again"))

    monkeypatch.setattr(Audit, "result", refuse)
    before = {name: (folder / name).read_bytes() for name in ("report.html", "summary.json")}
    rw.audit(demo, pairs, out=folder, **OPTIONS)
    resumed = {name: (folder / name).read_bytes() == text for name, text in before.items()}
    rebuild(folder)
    rewritten = {name: (folder / name).read_bytes() == text for name, text in before.items()}
    assert resumed == rewritten == {"report.html": True, "summary.json": True}
