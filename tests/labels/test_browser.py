"""The review page in a real browser: keys alone, mouse alone, kills, tabs, names that bite."""

from __future__ import annotations

import re
import shutil
import subprocess
import time

import pytest

from tests.labels.makers import (
    CLASSES,
    NASTY,
    image_data,
    make_run,
    serving,
    suspects_of,
    text_data,
)
from tether.labels.journal import fold, read_journal
from tether.labels.review.suspects import open_review
from tether.labels.static_page import write_static_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DECISIONS, CLICKS = 200, 80


@pytest.fixture(scope="module")
def playwright():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright):
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return image_data(tmp_path_factory.mktemp("photos") / "photos", 90)


@pytest.fixture
def run(tmp_path, photos):
    return make_run(tmp_path / "run", photos)


def opened(where, address):
    """The page, complained about where its console does; ``where``: a context or browser."""
    page = where.new_page()
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda m: page.complaints.append(m.text) if "Content" in m.text else None)
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    page.wait_for_selector("#one[data-n]")
    return page


def reads(page, selector, pattern):
    """Wait until an element's text is so. (The page's policy forbids wait_for_function.)"""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_text(re.compile(pattern), timeout=30_000)


def saved(page):
    reads(page, "#saved", "^saved$")


def journal(run):
    return read_journal(run / "labels" / "corrections.csv")


def expected(run, count):
    """What the decisions of the two tests below must come to: id -> (decision, label)."""
    found = {}
    for n, row in enumerate(suspects_of(run)[:count]):
        third = next(c for c in CLASSES if c not in (row["given"], row["suggested"]))
        found[row["id"]] = [
            ("accept", row["suggested"]), ("keep", row["given"]), ("skip", ""), ("other", third),
        ][n % 4]  # fmt: skip
    return found


def check(run, count=DECISIONS):
    entries = journal(run)
    assert {e.id: (e.decision, e.label) for e in fold(entries).values()} == expected(run, count)
    assert len(entries) == len({e.key for e in entries}) == count  # none lost, none doubled


@pytest.mark.slow
def test_keys_alone_and_the_server_killed(run, browser):
    def decide(n, row):
        page.wait_for_selector(f"#one[data-n='{n}']")
        page.keyboard.press("aksO"[n % 4])
        if n % 4 == 3:
            page.keyboard.type(
                next(c for c in CLASSES if c not in (row["given"], row["suggested"]))
            )
            page.keyboard.press("Enter")

    rows = list(enumerate(suspects_of(run)[:DECISIONS]))
    with serving(run, "--port", "0") as first:
        page = opened(browser.new_context(), first.address)
        for n, row in rows[:90]:
            decide(n, row)
        saved(page)
        for n, row in rows[90:100]:  # the kill hits a decision somewhere on its way
            decide(n, row)
        first.process.kill()
        first.process.wait()
    for n, row in rows[100:110]:  # nobody answers
        decide(n, row)
    reads(page, "#saved", "not saved")
    with serving(run, "--port", str(first.port)) as second:
        assert second.port == first.port and second.token == first.token
        saved(page)
        for n, row in rows[110:]:
            decide(n, row)
        saved(page)
        check(run)
        page.keyboard.press("u")  # and one is taken back
        saved(page)
        assert page.inner_text("#count") == "149 of 216 decided, 50 skipped"
        assert not page.complaints
        page.context.close()


@pytest.mark.long
def test_mouse_alone_and_the_browser_killed(run, playwright, tmp_path):
    rows = list(enumerate(suspects_of(run)[:CLICKS]))
    with serving(run, "--port", "0") as server:
        for part in (rows[: CLICKS // 2], rows[CLICKS // 2 :]):
            command = [CHROMIUM, "--headless", *FLAGS, "--remote-debugging-port=0"]
            profile = tmp_path / f"profile{part[0][0]}"
            process = subprocess.Popen(
                [*command, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL
            )
            browser = playwright.chromium.connect_over_cdp(f"http://127.0.0.1:{port_of(profile)}")
            page = opened(browser.contexts[0], server.address)
            for n, row in part:
                page.wait_for_selector(f"#one[data-n='{n}']")
                page.click(f"#one .{('accept', 'keep', 'skip', 'other')[n % 4]}")
                if n % 4 == 3:
                    third = next(c for c in CLASSES if c not in (row["given"], row["suggested"]))
                    page.click(f"#picker-list >> text={third}")
            saved(page)
            process.kill()
            process.wait()
    check(run, CLICKS)


def port_of(profile):
    for _ in range(600):
        path = profile / "DevToolsActivePort"
        if path.is_file() and path.read_text():
            return path.read_text().split()[0]
        time.sleep(0.1)
    raise AssertionError("the browser has not started")


@pytest.fixture
def page(run, browser):
    with serving(run, "--port", "0") as server:
        context = browser.new_context()
        page = opened(context, server.address)
        page.server = server
        yield page
        assert not page.complaints
        context.close()


def test_grid_batches_tabs_and_filters(page, run):
    rows = suspects_of(run)
    other = opened(page.context, page.server.base)  # the cookie does
    page.keyboard.press("g")
    page.wait_for_selector(".tile:focus")
    page.keyboard.press("*")
    page.keyboard.press("a")
    saved(page)
    assert [e.decision for e in journal(run)] == ["accept"] * 24
    page.keyboard.press("u")  # the batch as a whole
    page.click(".tile[data-n='2']")
    page.click(".tile[data-n='5']")
    page.click("#grid .keep")
    saved(page)
    state = fold(journal(run))
    assert {e.id: e.label for e in state.values()} == {
        rows[n]["id"]: rows[n]["given"] for n in (2, 5)
    }
    page.keyboard.press("]")
    page.wait_for_selector(".tile[data-n='24']:focus")
    # the other tab learns of it, decides otherwise, and the first one cannot undo that any more
    reads(other, "#count", "^2 of")
    other.click("#list button[data-place='2']")
    other.wait_for_selector("#one[data-n='2']")
    other.keyboard.press("a")
    saved(other)
    page.keyboard.press("u")
    saved(page)
    state = fold(journal(run))
    assert {e.id: e.decision for e in state.values()} == {rows[2]["id"]: "accept"}
    reads(page, "#count", "^1 of")
    # filters
    page.select_option("#show", "decided")
    page.wait_for_selector(".tile:only-child")
    page.select_option("#show", "all")
    pair = page.locator("#pair option").all_inner_texts()[1:]
    assert len(pair) == 3 and re.fullmatch(r"cat → dog \(72\)", sorted(pair)[0])
    page.select_option("#pair", label=sorted(pair)[1])
    page.wait_for_selector(".tile[data-n='72']")
    assert page.locator("#list li").first.get_attribute("aria-setsize") == "72"


def test_names_stay_text_and_broken_images_have_a_place(page, run, photos):
    rows = suspects_of(run)
    shown = page.locator("#list .name").all_inner_texts()
    assert shown[0] == rows[0]["id"] and "<script>" in shown[0]
    assert "⟨U+202E⟩" in next(text for text in shown if "שלום" in text)
    assert page.evaluate("window.hurt === undefined")
    assert CLASSES[2] in page.locator("#pair option").all_inner_texts()[-1]
    gone = photos / rows[11]["id"]
    data = gone.read_bytes()
    gone.write_bytes(b"no image")
    try:
        page.click("#list button[data-place='11']")
        page.wait_for_selector(".focus .broken")
        words = page.inner_text(".focus .broken")
        assert words.startswith("this image cannot be shown") and str(photos) not in words
        page.keyboard.press("k")
        saved(page)
        assert journal(run)[-1].id == rows[11]["id"]
    finally:
        gone.write_bytes(data)
    page.reload()  # decisions are there again, and can be undone
    page.wait_for_selector("#one[data-n]")
    assert page.inner_text("#count") == "1 of 216 decided"
    assert "token" not in page.url
    page.keyboard.press("u")
    saved(page)
    assert not fold(journal(run))


@pytest.mark.long
def test_what_a_closed_tab_could_not_send_is_sent_by_the_next(run, browser):
    context = browser.new_context()
    with serving(run, "--port", "0") as first:
        page = opened(context, first.address)
    for n in range(3):
        page.wait_for_selector(f"#one[data-n='{n}']")
        page.keyboard.press("a")
    reads(page, "#saved", "^3 not saved")
    page.close()
    with serving(run, "--port", str(first.port)) as second:
        page = opened(context, second.base)
        reads(page, "#count", "^3 of")
        assert [e.decision for e in journal(run)] == ["accept"] * 3
    context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_and_can_be_used_by_touch_or_tab(tmp_path, browser, width):
    run = make_run(tmp_path / "run", text_data(tmp_path / "t.csv", 20))
    path = write_static_page(open_review(run))
    context = browser.new_context(viewport={"width": width, "height": 800}, has_touch=width < 800)
    page = opened(context, path.as_uri())
    for view in ("one", "grid"):
        page.click(f"#view-{view}")
        page.wait_for_selector(f"#{view} .sample")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for name in ("accept", "keep", "other", "skip"):
            box = page.locator(f"#{view} .{name}").bounding_box()
            assert box["y"] + box["height"] <= 800 and box["height"] >= 40
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, select, input, progress')].filter(e =>"
        " !(e.textContent.trim() || e.ariaLabel || e.labels?.length)).map(e => e.id)"
    )
    assert not unnamed and not page.complaints
    context.close()


def test_the_single_file_downloads_its_decisions(run, browser, tmp_path):
    path = write_static_page(open_review(run), tmp_path / "review.html", limit=40)
    text = path.read_text(encoding="utf-8")
    assert NASTY[0] not in text and "http://" not in text and "https://" not in text
    context = browser.new_context(accept_downloads=True, offline=True)
    page = opened(context, path.as_uri())
    rows = suspects_of(run)
    for n, key in enumerate("aksau"):
        page.wait_for_selector(f"#one[data-n='{n}']")
        page.keyboard.press(key)
    page.wait_for_selector("#one[data-n='3']")
    assert "the first 40 suspects" in page.inner_text("#warnings")
    page.reload()
    page.wait_for_selector("#one[data-n='3']")
    assert page.inner_text("#count") == "2 of 40 decided, 1 skipped"
    with page.expect_download() as download:
        page.click("#download")
    target = tmp_path / "corrections.csv"
    download.value.save_as(target)
    entries = read_journal(target)
    assert [e.decision for e in entries] == ["accept", "keep", "skip", "accept", "undo"]
    assert [(e.id, e.label) for e in fold(entries).values()] == [
        (rows[0]["id"], rows[0]["suggested"]), (rows[1]["id"], rows[1]["given"]),
        (rows[2]["id"], ""),
    ]  # fmt: skip
    assert page.evaluate("document.querySelector('.focus img').naturalWidth") > 0
    assert not page.complaints
    context.close()
