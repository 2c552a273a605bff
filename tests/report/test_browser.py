"""The page in a real browser: nothing hostile runs, nothing is requested, the policy holds, figures follow the theme."""

from __future__ import annotations

import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from tests.report.hostile import HOSTILE
from tests.report.pages import hostile_page

from rewarden import plots
from rewarden.plots.examples import score_result
from rewarden.report import FigureBlock, Page, Section, render

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]
COUNTER = """
window.__hits = 0; window.__hit = () => { window.__hits += 1; };
window.alert = window.confirm = window.prompt = window.__hit;
window.__violations = [];
document.addEventListener("securitypolicyviolation",
    event => window.__violations.push(event.violatedDirective + " " + (event.blockedURI || "")));
"""


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install rewarden[dev]")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs a Chromium: apt-get install chromium")
    with api.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield started
        started.close()


class Visit:
    """One page, opened from a file, with a counter of executed hostile code and a list of requests."""

    def __init__(self, browser, path: Path, text: str, **context) -> None:
        path.write_text(text, encoding="utf-8")
        self.requests: list[str] = []
        self.page = browser.new_context(**context).new_page()
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.add_init_script(COUNTER)
        self.page.goto(path.as_uri())

    def ready(self) -> Visit:
        """Wait until every figure is drawn."""
        self.page.wait_for_selector("html[data-ready=yes]", state="attached", timeout=180_000)
        return self

    def ask(self, expression: str):
        """The value of a JavaScript expression; evaluated by the driver, not by the page."""
        return self.page.locator("body").evaluate(f"() => {expression}")

    @property
    def outside(self) -> list[str]:
        """Requests other than for the file itself and data it holds."""
        return [url for url in self.requests if not url.startswith(("file:", "data:"))]


@pytest.fixture(scope="module")
def visit(browser, tmp_path_factory) -> Visit:
    return Visit(browser, tmp_path_factory.mktemp("page") / "report.html", render(hostile_page(HOSTILE))).ready()


def test_nothing_hostile_runs_and_nothing_is_requested(visit):
    assert len(HOSTILE) >= 30
    assert visit.ask("window.__hits") == 0
    assert visit.outside == []


def test_every_figure_is_drawn(visit):
    assert visit.ask("document.querySelectorAll('[data-figure] .main-svg').length") >= 22
    assert visit.ask("document.querySelectorAll('.plot.failed').length") == 0


def test_hovering_and_opening_everything_runs_nothing(visit):
    visit.ask("document.querySelectorAll('details').forEach(details => { details.open = true; })")
    for host in visit.page.locator("[data-figure]").all():
        host.scroll_into_view_if_needed()
        box = host.bounding_box()
        for share in (0.3, 0.5, 0.7):
            visit.page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
            visit.page.wait_for_timeout(30)
    for link in visit.page.locator("a").all()[:40]:
        link.evaluate("element => element.click()")
    assert visit.ask("window.__hits") == 0
    assert visit.outside == []


def test_labels_show_the_text_not_its_markup(visit):
    shown = visit.ask("[...document.querySelectorAll('.main-svg text')].map(text => text.textContent).join('\\n')")
    assert "<script>__hit" in shown
    assert "<img src=x" in shown
    assert not visit.ask("document.querySelectorAll('.main-svg a').length")


def test_only_known_violations_of_the_policy(visit):
    # plotly.js tries to style maps nobody draws, and sets two style attributes that page.css replaces
    kinds = {re.sub(r" .*", "", violation) for violation in visit.ask("window.__violations")}
    assert kinds <= {"style-src-elem", "style-src-attr"}


@pytest.fixture
def listener():
    """A web server on this machine and the paths it was asked for: what really left the browser."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def planted(text: str, address: str) -> str:
    """The page with a deliberate hole: unescaped markup in its body."""
    hole = ("<script>__hit()</script><img src=x onerror=__hit()><svg onload=__hit()></svg>"
            f"<img src='{address}/pixel.png'><link rel=stylesheet href='{address}/x.css'><script src='{address}/x.js'></script>"
            f"<iframe src='{address}/frame'></iframe><style>body {{ background: url({address}/bg.png) }}</style>"
            "<a id=trap href='javascript:__hit()'>x</a>")
    return text.replace("<main>", f"<main>{hole}", 1)


def test_the_policy_stops_a_planted_hole(browser, tmp_path, listener):
    address, asked = listener
    visit = Visit(browser, tmp_path / "hole.html", planted(render(Page(name="x")), address)).ready()
    visit.page.locator("#trap").evaluate("element => element.click()")
    visit.page.wait_for_timeout(300)
    assert visit.ask("window.__hits") == 0
    assert asked == []


def test_without_the_policy_the_planted_hole_is_seen(browser, tmp_path, listener):
    address, asked = listener
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", planted(render(Page(name="x")), address))
    visit = Visit(browser, tmp_path / "open.html", text).ready()
    visit.page.wait_for_timeout(300)
    assert visit.ask("window.__hits") >= 3
    assert {"/pixel.png", "/x.css", "/x.js", "/frame", "/bg.png"} <= set(asked)


@pytest.mark.parametrize(("scheme", "page", "ink"), [("light", "rgb(255, 255, 255)", "rgb(28, 32, 38)"),
                                                     ("dark", "rgb(20, 23, 27)", "rgb(231, 233, 236)")])
def test_figures_follow_the_colour_scheme(browser, tmp_path, scheme, page, ink):
    figure = FigureBlock(plots.margins(score_result()), "", pd.DataFrame({"a": [1]}))
    visit = Visit(browser, tmp_path / "theme.html", render(Page(name="x", sections=[Section("s", "S", [], [figure])])),
                  color_scheme=scheme).ready()
    assert visit.ask("getComputedStyle(document.body).backgroundColor") == page
    fills = visit.ask("[...document.querySelectorAll('.main-svg text')].map(text => getComputedStyle(text).fill)")
    assert set(fills) == {ink}
    assert visit.ask("getComputedStyle(document.querySelector('.main-svg')).backgroundColor") in (
        "rgba(0, 0, 0, 0)", "transparent")


def test_paper_is_light_even_for_a_reader_in_the_dark(browser, tmp_path):
    visit = Visit(browser, tmp_path / "print.html", render(Page(name="x")), color_scheme="dark").ready()
    visit.page.emulate_media(media="print")
    assert visit.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


@pytest.mark.parametrize("width", [320, 420, 768, 1280])
def test_the_page_does_not_scroll_sideways(browser, tmp_path, width):
    visit = Visit(browser, tmp_path / "narrow.html", render(hostile_page(HOSTILE)), viewport={"width": width, "height": 800})
    visit.ready()
    assert visit.ask("document.documentElement.scrollWidth") <= width


def test_a_figure_that_cannot_be_drawn_points_to_its_table(browser, tmp_path):
    text = render(Page(name="x", sections=[Section("s", "S", [], [
        FigureBlock(go.Figure(go.Scatter(y=np.arange(3.0))), "", pd.DataFrame({"a": [1]}))])]))
    broken = re.sub(r'(id="figure-s-0-json">).*?(</script>)', r"\1{\2", text)
    visit = Visit(browser, tmp_path / "broken.html", broken).ready()
    assert visit.page.locator(".plot.failed").inner_text() == (
        "This figure could not be drawn; its numbers are in the table below.")
