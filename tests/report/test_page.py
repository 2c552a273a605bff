"""The page as a file: what it may run, what it may fetch, what it holds; read by a parser, without a browser."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from html.parser import HTMLParser
from itertools import pairwise

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
from plotly.offline import get_plotlyjs
from tests.report.hostile import HOSTILE
from tests.report.pages import hostile_page

from rewarden.report import FigureBlock, Finding, Page, Section, render
from rewarden.report import page as page_module
from rewarden.report.page import embedded_json, page_data, plain
from rewarden.report.tables import ROW_LIMIT, page_table

DATA_SCRIPT = "application/json"


class Reader(HTMLParser):
    """Elements with attributes in order, and the raw text of every script and style."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.raw: list[tuple[str, dict[str, str | None], str]] = []
        self.text: list[str] = []
        self._open: tuple[str, dict[str, str | None], list[str]] | None = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._open = (tag, dict(attrs), [])

    def handle_data(self, data):
        (self._open[2] if self._open else self.text).append(data)

    def handle_endtag(self, tag):
        if self._open and tag == self._open[0]:
            self.raw.append((self._open[0], self._open[1], "".join(self._open[2])))
            self._open = None


@pytest.fixture(scope="module")
def text() -> str:
    return render(hostile_page(HOSTILE))


@pytest.fixture(scope="module")
def reader(text) -> Reader:
    return Reader(text)


def directives(reader: Reader) -> dict[str, list[str]]:
    content = next(attrs["content"] for tag, attrs in reader.elements
                   if tag == "meta" and attrs.get("http-equiv") == "Content-Security-Policy")
    return {words[0]: words[1:] for words in (part.split() for part in content.split(";"))}


def sha(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def test_policy_lists_exactly_the_scripts_and_the_style_of_the_page(reader):
    policy = directives(reader)
    scripts = [sha(body) for tag, attrs, body in reader.raw if tag == "script" and attrs.get("type") != DATA_SCRIPT]
    styles = [sha(body) for tag, _, body in reader.raw if tag == "style"]
    packed = next(json.loads(body) for _, attrs, body in reader.raw if attrs.get("id") == "plotly-packed")
    library = gzip.decompress(base64.b64decode(packed)).decode()
    assert library == get_plotlyjs()
    assert policy["script-src"] == [sha(library), *scripts]
    assert len(scripts) == 1
    assert policy["style-src"] == [*styles, sha("")]  # plotly.js adds one empty style element
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == ["'none'"]
    assert policy["img-src"] == ["data:"]
    assert set(policy) == {"default-src", "script-src", "style-src", "img-src", "base-uri", "form-action"}


def test_policy_is_the_first_thing_after_the_charset(reader):
    first, second, *_ = (attrs for tag, attrs in reader.elements if tag == "meta")
    assert first == {"charset": "utf-8"}
    assert second["http-equiv"] == "Content-Security-Policy"


def test_nothing_hostile_becomes_markup(reader):
    known = {"html", "head", "meta", "link", "title", "style", "body", "a", "header", "p", "h1", "dl", "div", "dt", "dd",
             "details", "summary", "pre", "table", "thead", "tbody", "tr", "th", "td", "nav", "h2", "ol", "li", "main",
             "section", "h3", "ul", "span", "b", "i", "figure", "script", "figcaption", "footer", "noscript"}
    assert {tag for tag, _ in reader.elements} <= known
    attributes = {name for _, attrs in reader.elements for name in attrs}
    assert not [name for name in attributes if name.startswith("on")]
    assert "style" not in attributes
    assert [tag for tag, _ in reader.elements].count("script") == len(
        [1 for tag, _, _ in reader.raw if tag == "script"])


def test_nothing_is_fetched(reader):
    addresses = [attrs[name] for _, attrs in reader.elements for name in ("src", "href", "data", "action", "srcset", "poster")
                 if name in attrs]
    assert all(address.startswith("#") or address == "data:," for address in addresses)
    assert "data:," in addresses  # the icon, so that a browser asks for none
    style = next(body for tag, _, body in reader.raw if tag == "style")
    assert "url(" not in style
    assert "@import" not in style


def test_every_hostile_text_can_still_be_read(reader):
    shown = re.sub(r"\s+", " ", "".join(reader.text))
    for hostile in ("<img src=x onerror=__hit()>", "</title><script>__hit()</script>", "{{ 7 * 7 }}", "<U+001B>[31mred",
                    "<U+202E>gnp.exe", "a<U+0000>b<U+0008>c", "<U+D800> lone"):
        assert hostile in shown


def test_no_control_or_direction_character_survives(text):
    body = text[: text.index('<script type="application/json" id="rewarden-data">')]
    assert not re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\u200b]", body)


def test_data_block_is_what_the_page_says(reader):
    block = next(body for tag, attrs, body in reader.raw if attrs.get("id") == "rewarden-data")
    assert json.loads(block) == json.loads(json.dumps(plain(page_data(hostile_page(HOSTILE)))))
    assert not set("<>&") & set(block)


def test_every_figure_has_json_a_name_and_a_table(reader):
    ids = {attrs["id"]: body for _, attrs, body in reader.raw if attrs.get("type") == DATA_SCRIPT}
    hosts = [attrs for tag, attrs in reader.elements if "data-figure" in attrs]
    assert len(hosts) == 22
    for host in hosts:
        assert set(json.loads(ids[host["data-figure"]])) == {"data", "layout"}
        assert host["role"] == "img"
        assert {host["aria-labelledby"], host["aria-describedby"]} <= {attrs.get("id") for _, attrs in reader.elements}
    order = [tag if tag in ("figure", "table") else "" for tag, _ in reader.elements]
    figures = [place for place, tag in enumerate(order) if tag == "figure"]
    assert all("table" in order[start:stop] for start, stop in zip(figures, [*figures[1:], len(order)], strict=True))


def test_structure_for_screen_readers(reader):
    tags = [tag for tag, _ in reader.elements]
    assert dict(reader.elements[0][1]) == {"lang": "en"}
    assert tags.count("h1") == tags.count("main") == tags.count("title") == 1
    levels = [int(tag[1]) for tag in tags if tag in ("h1", "h2", "h3")]
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attrs["id"] for _, attrs in reader.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    anchors = {attrs["href"][1:] for tag, attrs in reader.elements if tag == "a"}
    assert anchors <= set(ids)


def test_size(text):
    assert len(text.encode()) <= 6_000_000


def test_figures_give_way_when_the_page_grows_too_large():
    small = FigureBlock(go.Figure(go.Scatter(y=[1.0, 2.0]), {"title": {"text": "small"}}), "", pd.DataFrame({"a": [1]}))
    large = FigureBlock(go.Figure(go.Scatter(y=np.random.default_rng(0).normal(size=500_000)), {"title": {"text": "large"}}),
                        "", pd.DataFrame({"a": [7]}))
    text = render(Page(name="x", sections=[Section("s", "S", [], [large, small])]))
    assert len(text.encode()) <= page_module.SIZE_LIMIT
    reader = Reader(text)
    assert [attrs["id"] for _, attrs in reader.elements if "data-figure" in attrs] == ["figure-s-1"]
    assert "This figure was left out to keep the page small" in "".join(reader.text)
    assert "7" in reader.text  # its table stays


def test_long_tables_say_what_they_leave_out():
    table = pd.DataFrame({"x": np.arange(1000)})
    shown = page_table(table, label="t")
    assert (len(shown.rows), shown.total, shown.left_out) == (ROW_LIMIT, 1000, True)
    figure = FigureBlock(go.Figure(), "", table)
    text = "".join(Reader(render(Page(name="x", sections=[Section("s", "S", [], [figure])]))).text)
    assert "The first 400 of 1000 rows are shown; all are in the run folder" in text


def test_findings_lead_with_concerns_and_link_to_their_section():
    sections = [Section("one", "One", ["Measured one."]),
                Section("two", "Two", [Finding("No evidence.", "clear"), Finding("Lesser: n = 3.", "concern", 1),
                                       Finding("Worse: 4 % of it.", "concern", 2)])]
    text = render(Page(name="x", sections=sections))
    top = text[text.index('id="findings"'):text.index('id="health"')]
    order = [top.index(words) for words in ("Worse:", "Lesser:", "Measured one.", "No evidence.")]
    assert order == sorted(order)
    assert top.count('href="#section-two"') == 3
    assert "4\u00a0% of it" in top
    data = page_data(Page(name="x", sections=sections))["findings"]
    assert [item["text"] for item in data] == ["Worse: 4 % of it.", "Lesser: n = 3.", "Measured one.", "No evidence."]


def test_a_claim_longer_than_a_line_is_not_set_apart():
    claim = "x" * 200
    assert "<b>x" not in render(Page(name="x", sections=[Section("s", "S", [f"{claim}: rest"])]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), np.float32("nan"), np.array([np.nan])])
def test_numbers_json_does_not_know_become_null(value):
    assert embedded_json(value) in ("null", "[null]")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_embedded_json_round_trips_and_cannot_leave_its_element(hostile):
    text = embedded_json({hostile: hostile})
    assert json.loads(text) == {hostile: hostile}
    assert not set("<>&") & set(text)
    assert text.isascii()
