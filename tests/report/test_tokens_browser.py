"""The map of 128,256 tokens in a real browser: it pans smoothly, finds any token, paints what it has and runs nothing else."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from tests.report.hostile import HOSTILE
from tests.report.test_browser import Visit, browser  # noqa: F401  # the fixture

from rewarden import plots
from rewarden.plots.token_examples import scan_result
from rewarden.plots.tokens_map import MARKS, outermost, plane_of
from rewarden.plots.tokens_names import token_names
from rewarden.report import FigureBlock, Page, Section, render
from rewarden.report.points import Points

TOKENS = 128_256
SMOOTH, ATTEMPTS = 30, 6
"""Frames a second that a map must hold while it moves; measurements of a second, of which the best counts: other work on the
machine takes frames away, nothing adds any."""

MAP = "document.querySelector('[data-figure]')"

RELAYOUT = """async () => {
  const host = document.querySelector('[data-figure]'), {xaxis, yaxis} = host._fullLayout;
  const [a, b] = xaxis.range.slice(), [c, d] = yaxis.range.slice(), start = performance.now();
  let frames = 0;
  while (performance.now() - start < 1000) {
    const way = 0.3 * Math.sin(frames / 10);
    await Plotly.relayout(host, {'xaxis.range': [a + way * (b - a), b + way * (b - a)],
                                 'yaxis.range': [c + way * (d - c), d + way * (d - c)]});
    await new Promise(done => requestAnimationFrame(done));
    frames += 1;
  }
  const taken = performance.now() - start;
  await Plotly.relayout(host, {'xaxis.range': [a, b], 'yaxis.range': [c, d]});
  return 1000 * frames / taken;
}"""

DRAG = """async () => {
  const host = document.querySelector('[data-figure]');
  host.scrollIntoView({block: 'center', behavior: 'instant'});
  const box = host.getBoundingClientRect(), x = box.left + box.width / 2, y = box.top + box.height / 2;
  const fire = (type, dx, dy) => (document.querySelector('.dragcover') || host.querySelector('.nsewdrag')).dispatchEvent(
    new MouseEvent(type, {bubbles: true, cancelable: true, clientX: x + dx, clientY: y + dy, button: 0, buttons: 1}));
  const {xaxis, yaxis} = host._fullLayout, before = [xaxis.range.slice(), yaxis.range.slice()], seen = new Set();
  fire('mousemove', 0, 0);
  fire('mousedown', 0, 0);
  const start = performance.now();
  let frames = 0;
  while (performance.now() - start < 1000) {
    frames += 1;
    fire('mousemove', 150 * Math.sin(frames / 10), 80 * Math.cos(frames / 13));
    await new Promise(done => requestAnimationFrame(done));
    seen.add(host._fullLayout.xaxis.range[0]);
  }
  const taken = performance.now() - start;
  fire('mouseup', 0, 0);
  await new Promise(done => setTimeout(done, 100));
  await Plotly.relayout(host, {'xaxis.range': before[0], 'yaxis.range': before[1]});
  return [1000 * frames / taken, seen.size];
}"""


def page_of(result, **options) -> str:
    """A page with the map of a scan and the search over all of it."""
    where = plane_of(result)
    points = Points(token_names(result.data), where.x, where.y, "token", ("as the greatest", "as the worst"))
    block = FigureBlock(plots.framing_map(result, **options), "", pd.DataFrame({"a": [1]}), points)
    return render(Page(name="x", sections=[Section("s", "S", [], [block])]))


@pytest.fixture(scope="module")
def scan():
    return scan_result(TOKENS)


@pytest.fixture(scope="module")
def whole(scan) -> str:
    return page_of(scan)


@pytest.fixture(scope="module")
def visit(browser, tmp_path_factory, whole) -> Visit:  # noqa: F811  # pytest's way of using a fixture
    path = tmp_path_factory.mktemp("map") / "report.html"
    return Visit(browser, path, whole, viewport={"width": 1200, "height": 900}).ready()


def pixel(visit: Visit, x: float, y: float) -> list[int]:
    """Colour (r, g, b, alpha) that the canvas of marks has at a place of the map."""
    return visit.page.locator("body").evaluate("""(body, [x, y]) => {
      const host = document.querySelector('[data-figure]'), canvas = host.querySelector('canvas.painted');
      const {xaxis, yaxis} = host._fullLayout, scale = canvas.width / host._fullLayout.width;
      const share = (axis, value) => (value - axis.range[0]) / (axis.range[1] - axis.range[0]);
      const across = xaxis._offset + share(xaxis, x) * xaxis._length;
      const down = yaxis._offset + (1 - share(yaxis, y)) * yaxis._length;
      return [...canvas.getContext('2d').getImageData(Math.round(across * scale), Math.round(down * scale), 1, 1).data];
    }""", [x, y])


def search(visit: Visit, text: str) -> list[str]:
    """What the page answers to a search, line by line."""
    visit.page.fill("[data-points]", text)
    visit.page.wait_for_timeout(700)
    return [line for line in visit.page.locator(".find output").inner_text().split("\n") if line.strip()]


# --- speed -------------------------------------------------------------------------------------------------------------

def test_the_page_is_small_and_draws_few_things(visit, whole):
    assert len(whole.encode()) < 4_000_000
    assert visit.ask("document.querySelectorAll('.plot.failed').length") == 0
    assert sum(visit.ask(f"{MAP}._fullData.filter(trace => trace.meta === 'painted').map(trace => trace.x.length)")) == MARKS
    assert visit.ask(f"{MAP}.querySelectorAll('.scatterlayer .point').length") < 20
    assert visit.ask(f"{MAP}.querySelectorAll('*').length") < 600


def test_it_holds_thirty_frames_a_second_while_its_axes_move(visit):
    best = 0.0
    for _ in range(ATTEMPTS):
        best = max(best, visit.page.locator("body").evaluate(RELAYOUT))
        if best >= SMOOTH:
            break
    assert best >= SMOOTH


def test_it_holds_thirty_frames_a_second_while_it_is_dragged(visit):
    best = 0.0
    for _ in range(ATTEMPTS):
        frames, places = visit.page.locator("body").evaluate(DRAG)
        assert places > 5  # it did move
        best = max(best, frames)
        if best >= SMOOTH:
            break
    assert best >= SMOOTH


# --- marks -------------------------------------------------------------------------------------------------------------

def test_marks_are_painted_where_their_tokens_lie(visit, scan):
    plane = plane_of(scan)
    for row in outermost(plane.x, plane.y)[:40:4]:
        assert pixel(visit, plane.x[row], plane.y[row])[3] > 100
    empty = [plane.x.min() - 0.05 * np.ptp(plane.x), plane.y.max() + 0.05 * np.ptp(plane.y)]
    assert pixel(visit, *empty)[3] == 0


def test_marks_follow_the_map_and_the_legend(visit, scan):
    plane = plane_of(scan)
    row = outermost(plane.x, plane.y)[0]
    place = (plane.x[row], plane.y[row])
    ranges = visit.ask(f"[{MAP}._fullLayout.xaxis.range, {MAP}._fullLayout.yaxis.range]")
    span = np.ptp(ranges, axis=1)
    near = [[float(value - width / 20), float(value + width / 20)] for value, width in zip(place, span, strict=True)]
    visit.ask(f"Plotly.relayout({MAP}, {{'xaxis.range': {near[0]}, 'yaxis.range': {near[1]}}}).then(() => 0)")
    assert pixel(visit, *place)[3] > 100
    marks = f"{MAP}.data.map((trace, place) => trace.meta === 'painted' ? place : -1).filter(place => place >= 0)"
    visit.ask(f"Plotly.restyle({MAP}, {{visible: 'legendonly'}}, {marks}).then(() => 0)")
    assert pixel(visit, *place)[3] == 0
    visit.ask(f"Plotly.restyle({MAP}, {{visible: true}}, {marks}).then(() => 0)")
    assert pixel(visit, *place)[3] > 100
    visit.ask(f"Plotly.relayout({MAP}, {{'xaxis.range': {ranges[0]}, 'yaxis.range': {ranges[1]}}}).then(() => 0)")


def test_the_pointer_names_the_mark_below_it(visit, scan):
    plane = plane_of(scan)
    row = outermost(plane.x, plane.y)[0]
    visit.page.locator("[data-figure]").scroll_into_view_if_needed()
    x, y = visit.page.locator("body").evaluate("""(body, [x, y]) => {
      const host = document.querySelector('[data-figure]'), box = host.getBoundingClientRect();
      const {xaxis, yaxis} = host._fullLayout;
      return [box.left + xaxis._offset + xaxis.d2p(x), box.top + yaxis._offset + yaxis.d2p(y)];
    }""", [plane.x[row], plane.y[row]])
    visit.page.mouse.move(x - 40, y)
    visit.page.mouse.move(x, y, steps=4)
    visit.page.wait_for_timeout(300)
    shown = visit.ask("document.querySelector('[data-figure] .hoverlayer').textContent")
    assert token_names(scan.data)[row] in shown
    assert "rank" in shown


# --- search ------------------------------------------------------------------------------------------------------------

def test_any_token_is_found_with_its_rewards_and_marked(visit, scan):
    names = token_names(scan.data)
    for row in (2, 777, 64_000, TOKENS - 1):
        lines = search(visit, names[row].strip("␣"))
        (line,) = [line for line in lines[1:] if line.startswith(f"{names[row]}:")]
        values = [float(text.replace("−", "-")) for text in re.findall(r"(?:greatest|worst) (−?[\d.]+)", line)]
        np.testing.assert_allclose(values, scan.data["reward"].values[:, row], atol=0.003)
        found = visit.ask(f"(trace => [trace.text, trace.x, trace.y])({MAP}.data.find(trace => trace.meta === 'found'))")
        place = found[0].index(names[row])
        np.testing.assert_allclose([found[1][place], found[2][place]], scan.data["reward"].values[:, row], atol=0.002)


def test_exact_words_come_first_in_any_case_and_with_any_spaces(visit):
    lines = search(visit, "LOVE")
    assert [line.split(":")[0] for line in lines[1:3]] == ["love", "␣love"]
    assert search(visit, " love ")[1:3] == lines[1:3]


def test_many_matches_are_counted_and_none_is_said(visit):
    lines = search(visit, "w1")
    assert re.fullmatch(r"\d{5} tokens hold “w1”; the closest 12 are marked:", lines[0])
    assert len(lines) == 13
    assert search(visit, "<img src=x onerror=__hit()>") == ["No token holds “<img src=x onerror=__hit()>”."]
    assert visit.ask("window.__hits") == 0
    assert search(visit, "") == []
    assert visit.ask(f"{MAP}.data.find(trace => trace.meta === 'found').x.length") == 0


def test_what_is_found_outside_the_view_brings_the_view_back(visit, scan):
    before = visit.ask(f"{MAP}._fullLayout.xaxis.range")
    visit.ask(f"Plotly.relayout({MAP}, {{'xaxis.range': [900, 901]}}).then(() => 0)")
    search(visit, "pizza")
    np.testing.assert_allclose(visit.ask(f"{MAP}._fullLayout.xaxis.range"), before)


def test_hostile_tokens_are_shown_and_not_run(browser, tmp_path):  # noqa: F811
    texts = [text.encode("utf-8", "replace").decode() for text in HOSTILE]
    visit = Visit(browser, tmp_path / "hostile.html", page_of(scan_result(400, texts=texts))).ready()
    for query in ("script", "onerror", "</", "__hit", "{{", "javascript:", "<U+202E>"):
        lines = search(visit, query)
        assert len(lines) >= 2
        assert query.lower() in lines[1].lower()
    assert visit.ask("window.__hits") == 0
    assert visit.outside == []
    kinds = {violation.split()[0] for violation in visit.ask("window.__violations")}
    assert kinds <= {"style-src-elem", "style-src-attr"}  # plotly's own, as in test_browser


# --- without what it needs ---------------------------------------------------------------------------------------------

def test_an_old_browser_is_told(browser, tmp_path):  # noqa: F811
    path = tmp_path / "old.html"
    path.write_text(page_of(scan_result(300)), encoding="utf-8")
    page = browser.new_context().new_page()
    page.add_init_script("delete window.DecompressionStream;")
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready=yes]", state="attached", timeout=60_000)
    assert page.locator(".plot.failed").inner_text() == "This figure could not be drawn; its numbers are in the table below."
    page.fill("[data-points]", "love")
    page.wait_for_timeout(300)
    assert page.locator(".find output").inner_text() == (
        "The search does not work in this browser; the values are in the run folder.")


def test_paper_has_no_search_box(visit):
    visit.page.emulate_media(media="print")
    assert visit.ask("getComputedStyle(document.querySelector('.find')).display") == "none"
    visit.page.emulate_media(media="screen")
