"""The page: what stands on it, for one run and several, and what a browser makes of it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from functools import lru_cache
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from tests.diagnose.runs import run
from tests.report import test_browser as browser
from tether.diagnose import examine, kept_subject, run_subject
from tether.diagnose.job import kept, report, write
from tether.diagnose.page import make_page

needs_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason="chromium is not on PATH")

#: Tells the outer page what went wrong in the inner one, and what it asked for.
WATCH = """
<script>
const faults = [];
addEventListener("error", event => faults.push(event.message || "an element"), true);
addEventListener("securitypolicyviolation", event => faults.push(event.blockedURI));
const log = console.error; console.error = (...words) => { faults.push(words.join(" ")); };
addEventListener("load", () => {
  const pictures = [...document.querySelectorAll("svg[role=img]")];
  document.title = JSON.stringify({
    faults, requests: performance.getEntriesByType("resource").map(entry => entry.name),
    pictures: pictures.length,
    drawn: pictures.filter(svg => svg.getBoundingClientRect().height > 50).length,
    named: pictures.filter(svg => svg.getAttribute("aria-label")).length,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    first: document.querySelector("h2").textContent,
  });
});
</script>
"""


@lru_cache
def noisy():
    found = examine(run_subject(run("noisy"), weights="last"))
    found.against = examine(run_subject(run("elr")))
    return found


@lru_cache
def html(alone: bool) -> str:
    return make_page([replace(noisy(), against=None) if alone else noisy()], command="x").html()


class Text(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.words = []
        self.feed(page)

    def handle_data(self, data):
        self.words.append(data)


def text(page):
    return " ".join(" ".join(Text(page).words).split())


def test_verdict_comes_first_with_number_and_method():
    page = text(html(True)[html(True).index("<h2") :])
    first = page.index("Problem:")
    assert page.startswith("Verdict") and first < page.index("Scores and classes")
    said = page[first : page.index("Scores and classes")]
    worst = noisy().outcomes["memorisation"].found.values["memorised"]
    assert "Wrong labels are learnt by heart." in said and f"{100 * worst:.1f} %" in said
    assert "a problem from" in said and "--method elr" in said


def test_every_picture_is_there():
    page = html(True)
    titles = re.findall(r'<h3 id="figure-\d+-title">(.*?)</h3>', page)
    for wanted in (
        "Loss of rightly and of wrongly labelled", "How far every depth group moved, relative",
        "Features of the held-out samples", "A linear probe", "Loss under noise on the weights",
        "Noise on one depth group", "Curvature of the loss", "Reliability",
        "Score and loss over the epochs", "Labels over the epochs", "Features over the epochs",
        "Distances over the epochs",
    ):  # fmt: skip
        assert any(title.startswith(wanted) for title in titles), (wanted, titles)
    assert "Each class, the worst first." in page
    for svg in re.findall(r"<svg[^>]*role=\"img\".*?</svg>", page, re.DOTALL):
        assert len(ElementTree.fromstring(svg).get("aria-label")) > 20


def test_runs_side_by_side():
    page = html(False)
    assert "The runs side by side." in page and "Recall of each class" in page
    assert page.count('class="points"') == 2
    assert "Nothing is going wrong, as far as" in page


def test_names_are_shown_and_not_interpreted(tmp_path):
    evil = '<script>alert(1)</script>"&\x1b'
    found = replace(noisy(), against=None, name=evil, facts={**noisy().facts, "data": evil})
    found.outcomes = {
        **found.outcomes, "scores": replace(found.outcomes["scores"], status="failed", reason=evil)
    }  # fmt: skip
    rows = found.outcomes["classes"].found.more["rows"]
    rows = [{**row, "class": evil + row["class"]} for row in rows]
    classes = replace(found.outcomes["classes"])
    classes.found = replace(classes.found, more={"rows": rows})
    found.outcomes["classes"] = classes
    page = make_page([found]).html()
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page


def test_report_of_runs_with_and_without_diagnosis(tmp_path):
    write(noisy(), tmp_path / "noisy")
    page = report([tmp_path / "noisy", run("head"), run("head")], tmp_path / "all.html")
    shown = page.read_text(encoding="utf-8")
    assert "3 runs" in shown and "run tether diagnose on it" in shown
    assert "elr" not in re.findall(r"Side by side: (.*?)\.", shown)[0]  # nobody named it
    assert kept(run("head")).outcomes["course"].status == "ok"
    assert make_page([examine(kept_subject(run("head")))]).html().count("<figure") >= 2


def test_same_bytes(tmp_path):
    assert make_page([noisy()], command="x").html() == html(False)


@needs_browser
@pytest.mark.parametrize("alone", [True, False])
def test_a_browser_finds_nothing_amiss(tmp_path, alone):
    page = tmp_path / "page.html"
    source = html(alone)
    assert "default-src 'none'" in source and "http" not in re.sub(r"http-equiv", "", source)
    # the page forbids scripts, so the copy that is watched allows this one and nothing else
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    watched = source.replace("<title>", WATCH + "<title>", 1)
    watched = re.sub(
        r'(http-equiv="Content-Security-Policy" content=")[^"]*', rf"\1{policy}", watched
    )
    page.write_text(watched, encoding="utf-8")
    options = ["--dump-dom", "--virtual-time-budget=5000", "--window-size=1280,2000"]
    dom = browser.chromium(tmp_path / "profile", *options, page.as_uri())
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1].replace("&amp;", "&")
    seen = json.loads(title)
    assert seen["faults"] == [] and seen["requests"] == []
    assert seen["pictures"] == seen["drawn"] == seen["named"] >= 14
    assert seen["first"] == "Verdict" and seen["wide"] == 0


@needs_browser
@pytest.mark.parametrize(("width", "smallest"), [(390, 7.0), (1280, 9.0)])
def test_fits_and_stays_legible(tmp_path, width, smallest):
    seen = browser.probe(tmp_path, html(True), width)
    assert seen["page"] <= seen["window"] == width
    assert seen["outside"] == [] and seen["overlapping"] == []
    assert seen["smallest"] >= smallest
