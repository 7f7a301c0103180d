"""How long the review page keeps the browser busy with 10 000 suspects.

    python -m benchmarks.review_page

Starts the real server over small pictures, drives the page in headless Chromium by
keyboard and mouse, and prints the tasks over 50 ms that the browser reports (PerformanceObserver,
``longtask``), and the times to the first suspect, to the next one and to the next page.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.labels.makers import make_run, serving

WATCH = """
window.longTasks = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) longTasks.push([entry.startTime, entry.duration]);
}).observe({ type: "longtask", buffered: true });
"""
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suspects", type=int, default=10_000)
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = make_run(Path(folder) / "run", pictures(Path(folder), options.suspects))
        executable = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        with serving(run, "--port", "0") as server:
            print(json.dumps(measure(browser, server), indent=2))
        browser.close()


def pictures(folder: Path, number: int) -> Path:
    """Grey pictures of 8 x 8 in ten classes; four fifths of them train."""
    rng, count = np.random.default_rng(0), number * 5 // 4
    path = folder / "pictures.npz"
    np.savez(
        path,
        train_features=rng.random((count, 64), dtype=np.float32),
        train_labels=np.arange(count) % 10,
        class_names=np.array([f"class {k}" for k in range(10)]),
    )
    return path


def measure(browser, server) -> dict[str, object]:
    page = browser.new_page(viewport={"width": 1280, "height": 860})
    page.add_init_script(WATCH)
    begun = time.perf_counter()
    page.goto(server.address)
    page.wait_for_selector("#one[data-n='0'] .sample img")
    found: dict[str, object] = {"first suspect, s": round(time.perf_counter() - begun, 3)}
    found["suspects"] = page.evaluate("+document.querySelector('#list li').ariaSetSize")
    loading = page.evaluate("longTasks.splice(0)")

    steps = []
    for n in range(60):
        begun = time.perf_counter()
        page.keyboard.press("ak"[n % 2])
        page.wait_for_selector(f"#one[data-n='{n + 1}']")
        steps.append(time.perf_counter() - begun)
    page.evaluate("document.getElementById('list').scrollTop = 1e9")  # the far end of the list
    page.wait_for_timeout(300)
    for position in range(0, 400_000, 20_000):
        page.evaluate(f"document.getElementById('list').scrollTop = {position}")
        page.wait_for_timeout(30)
    page.select_option("#show", "open")
    page.select_option("#show", "all")
    page.keyboard.press("Escape")
    page.locator("#one").focus()
    page.click("#view-grid")
    page.wait_for_selector(".tile")
    pages = []
    for _ in range(30):
        before = page.get_attribute(".tile", "data-n")
        begun = time.perf_counter()
        page.click("#page-after")
        page.wait_for_selector(f".tile:first-child:not([data-n='{before}'])")
        pages.append(time.perf_counter() - begun)
    page.keyboard.press("*")
    page.keyboard.press("a")
    page.keyboard.press("u")
    page.wait_for_timeout(500)
    tasks = page.evaluate("longTasks")
    found["longest task while loading, ms"] = max((d for _, d in loading), default=0)
    found["longest task afterwards, ms"] = max((d for _, d in tasks), default=0)
    found["tasks over 50 ms afterwards"] = len(tasks)
    found["next suspect, median ms"] = round(1000 * statistics.median(steps), 1)
    found["next page, median ms"] = round(1000 * statistics.median(pages), 1)
    return found


if __name__ == "__main__":
    main()
