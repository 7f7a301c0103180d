"""The page: what it says, that nothing in it is obeyed, and what a real browser makes of it."""

import json
import re

import numpy as np
import pytest

from tests.compare.studies import METHODS, NASTY, meta, null_study, rich_study, row, study
from tests.report.test_browser import CHROMIUM, probe, screenshot, share
from tether.compare import page as page_module
from tether.compare.page import write_report

pytest.importorskip("scipy")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")
in_browser = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")


@pytest.fixture(scope="module")
def rich(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rich")
    write_report(*rich_study(sizes=(200, 3200), trials=6), folder, markdown=True, latex=True)
    return folder


@pytest.fixture(scope="module")
def html(rich):
    return (rich / "report.html").read_text(encoding="utf-8")


def sections(html):
    return re.findall(r"<h2[^>]*>(.*?)</h2>", html)


def test_files_lie_side_by_side(rich):
    names = {path.name for path in rich.iterdir()}
    assert names == {"report.html", "results.csv", "summary.json", "results.md", "results.tex"}
    summary = json.loads((rich / "summary.json").read_text(encoding="utf-8"))
    assert summary["verdict"] and summary["methods"] == list(METHODS)


def test_the_page_has_everything(html):
    assert sections(html) == [
        "Before you trust it",
        "Results",
        "Over the cases",
        "Over the sizes",
        "Learning curves",
        "Tuned options",
        "Classes",
        "Tests in detail",
        "Run it again",
    ]
    for words in (
        "no significant difference",
        "1 final run failed",
        "crossing",
        "tether compare --config study.yaml",
        "09cc",  # a fingerprint
        "lr=0.001",  # chosen
        "name: clothes",  # the resolved configuration
        "more seeds",
    ):
        assert words in html, words


def test_nothing_is_obeyed(html):
    assert "<script" not in html and "<b>shoe" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html and "&lt;b&gt;shoe&lt;/b&gt;" in html
    assert "&lt;script&gt;alert(2)" in html
    assert not re.search(r"(?:src|href)=\"(?!#)", html) and "url(http" not in html
    assert "טלאי" in html and "mixup 🧪" in html


def test_every_seed_is_a_dot(html):
    figures = re.findall(r"<figure.*?</figure>", html, re.DOTALL)
    seeds = next(figure for figure in figures if "Every seed: clothes, 200 images" in figure)
    scores = re.search(r"<svg viewBox.*?</svg>", seeds, re.DOTALL)[0]
    assert scores.count("<use") >= 5 * len(METHODS) - 1
    assert "l2-sp: mean" in seeds and "over 4 seeds" in seeds and "interval" in seeds


def test_the_same_study_gives_the_same_page(tmp_path):
    rows, about = rich_study(sizes=(200,), trials=2)
    first, again = (write_report(rows, about, tmp_path / name).read_bytes() for name in "ab")
    assert first == again


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_small_studies_have_a_page_too(tmp_path, rows):
    made = [row("data", name, 0, 0.5) for name in ("plain", "elr")[:rows]]
    text = write_report(made, meta(["plain"], ["data"]), tmp_path).read_text(encoding="utf-8")
    expected = ("No final run has ended", "Only plain has scores", "Too few seeds to tell")
    assert expected[rows] in text
    if rows == 2:
        assert "too few seeds" in text
        assert not re.search(r"\[[^\]]*;[^\]]*\]", re.sub(r"<style.*?</style>", "", text, flags=16))


def test_no_difference_is_printed(tmp_path):
    rows, about = null_study(np.random.default_rng(0), cases=1, methods=3, seeds=5)
    text = write_report(rows, about, tmp_path).read_text(encoding="utf-8")
    assert 'class="subtitle">No significant difference in 1 case (5 seeds' in text
    assert text.count("no significant difference") >= 2


def test_all_fail(tmp_path):
    rows = [
        row("data", name, seed, 0.5, status="failed", test={}, error="no memory")
        for name in ("plain", "elr") for seed in range(3)
    ]  # fmt: skip
    text = write_report(rows, meta(["plain", "elr"], ["data"]), tmp_path).read_text("utf-8")
    assert "No final run has ended with a score." in text and "6 final runs failed" in text


def test_other_metrics(tmp_path):
    table = {"data": {"plain": [4.0, 4.1, 4.2], "elr": [3.0, 3.1, 3.3]}}
    rows, about = study(table, metric="mae", higher_is_better=False)
    for each in rows:
        each["test"] = {"mae": each["test"]["accuracy"]}
    text = write_report(rows, about, tmp_path).read_text(encoding="utf-8")
    assert "elr is better than plain: −0.967" in text and "lower is better" in text
    assert " points" not in text.partition("<body>")[2]


def test_a_failure_leaves_the_old_page(tmp_path, monkeypatch):
    first = write_report(*study({"data": {"plain": [0.5]}}), tmp_path).read_text(encoding="utf-8")

    def broken(*_):
        raise RuntimeError("no")

    monkeypatch.setattr(page_module, "runs_csv", broken)
    with pytest.raises(RuntimeError):
        write_report(*study({"data": {"plain": [0.9]}}), tmp_path)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == first
    assert not list(tmp_path.glob(".*.tmp"))


def test_large_studies_are_drawn_in_part(tmp_path):
    rng = np.random.default_rng(0)
    rows, about = null_study(rng, cases=7, methods=16, seeds=3)
    text = write_report(rows, about, tmp_path).read_text(encoding="utf-8")
    assert "1 more case without a picture" in text
    assert "2 methods with lower scores not drawn" in text
    assert "121 tests" in text  # 15 methods in 7 cases, over the cases, and the ranks


def test_findings_are_never_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "MOST_ROWS", 2)
    table = {"plain": [0.5, 0.51, 0.52], "a": [0.5, 0.52, 0.51], "best": [0.9, 0.91, 0.921]}
    text = write_report(*study({"data": table}), tmp_path).read_text(encoding="utf-8")
    rows = re.search(r"<tbody>.*?</tbody>", text, re.DOTALL)[0]
    assert rows.count("<tr>") == 2 and "best" in rows.partition("plain")[0]
    assert "1 more row: summary.json." in text


# --- in a browser ------------------------------------------------------------------------------


@in_browser
@pytest.mark.parametrize(("width", "smallest"), [(390, 8.0), (1280, 9.5)])
def test_fits_and_stays_legible(tmp_path, html, width, smallest):
    seen = probe(tmp_path, html, width)
    assert seen["drawn"] == seen["drawings"] >= 20
    assert seen["page"] <= seen["window"] == width
    assert seen["outside"] == []
    assert seen["overlapping"] == []
    assert seen["smallest"] >= smallest


@in_browser
def test_light_and_dark(tmp_path, html):
    from tether.report.palette import SURFACE

    for value, mode in ((1, "light"), (0, "dark")):
        pixels = screenshot(tmp_path, html, f"--blink-settings=preferredColorScheme={value}")
        ground = np.array([int(getattr(SURFACE, mode)[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        assert 0.5 < share(pixels, ground) < 0.99


@in_browser
def test_loads_nothing_and_complains_of_nothing(rich):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        tab = browser.new_page()
        said, asked = [], []
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("dialog", lambda dialog: said.append(dialog.message))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto((rich / "report.html").as_uri())
        assert tab.locator("tbody th", has_text=NASTY).count() > 0
        assert tab.locator("figure svg[role=img]").count() >= 20
        browser.close()
    assert said == []
    assert asked == [(rich / "report.html").as_uri()]
