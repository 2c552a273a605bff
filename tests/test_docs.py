"""README and docs run: python blocks in order, `rewarden` commands as written, in an empty folder.

A block that needs a download or a long time says so in an HTML comment on the line before it: `<!-- not run: why -->`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from rewarden.report.section import builders, forget_section

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ELSEWHERE = ("rewarden demo",)
"""Commands that `.ci/run` runs, from the wheel, and that take minutes."""
BLOCK = re.compile(r"(?P<reason><!-- not run: [^\n]*-->\n)?^```(?P<language>\w+)\n(?P<code>.*?)^```", re.S | re.M)


def blocks(page: Path, language: str) -> list[str]:
    """Blocks of a language that are meant to run."""
    found = BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [match["code"] for match in found if match["language"] == language and not match["reason"]]


def page_id(page: Path) -> str:
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    known = {builder.name for builder in builders()}
    try:
        for code in blocks(page, "python"):
            exec(compile(code, f"{page.name}: {code.splitlines()[0]}", "exec"), namespace)  # the page itself is the test
    finally:  # what a page registers leaves with it: other tests of this process count the sections
        for builder in builders():
            if builder.name not in known:
                forget_section(builder.name)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_run(page, tmp_path):
    program = str(Path(sys.executable).with_name("rewarden"))
    commands = [line for code in blocks(page, "console") for line in code.splitlines() if line.startswith("rewarden ")
                and line not in ELSEWHERE]
    for command in commands:
        words = shlex.split(command, comments=True)
        done = subprocess.run([program, *words[1:]], cwd=tmp_path, capture_output=True, text=True,
                              env={**os.environ, "HF_HUB_OFFLINE": "1"})
        assert (command, done.returncode, done.stderr if done.returncode else "") == (command, 0, "")


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_inside_the_repository_exist(page):
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_a_block_marked_as_not_run_is_left_out(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\na = 1\n```\n<!-- not run: a download -->\n```python\nb = 2\n```\n"
                    "```console\nrewarden env\n```\n")
    assert (blocks(page, "python"), blocks(page, "console")) == (["a = 1\n"], ["rewarden env\n"])
