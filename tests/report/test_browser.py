"""What a real browser makes of the page: Chromium without a window."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.report.sample import FIGURES

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH")

# Runs inside the page, in a frame as wide as a phone or a desktop, and reports to the outer page.
PROBE = """
<script>
addEventListener("load", () => {
  const root = document.documentElement;
  const drawings = [...document.querySelectorAll("svg[role=img]")];
  const outside = [], overlapping = [], sizes = [];
  for (const svg of drawings) {
    const frame = svg.getBoundingClientRect();
    const scale = frame.width / svg.viewBox.baseVal.width;
    const texts = [...svg.querySelectorAll("text")];
    const boxes = texts.map(text => text.getBoundingClientRect());
    texts.forEach((text, place) => {
      const box = boxes[place];
      sizes.push(parseFloat(getComputedStyle(text).fontSize) * scale);
      if (box.left < frame.left - 2 || box.right > frame.right + 2 ||
          box.top < frame.top - 2 || box.bottom > frame.bottom + 2) outside.push(text.textContent);
      if (text.parentNode.classList.contains("halo")) return;
      boxes.slice(0, place).forEach((other, index) => {
        if (texts[index].parentNode.classList.contains("halo")) return;
        const across = Math.min(box.right, other.right) - Math.max(box.left, other.left);
        const down = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
        if (across > 1 && down > 0.3 * box.height)
          overlapping.push(text.textContent + " | " + texts[index].textContent);
      });
    });
  }
  const table = document.querySelector(".scroll");
  parent.postMessage({
    figures: document.querySelectorAll("figure").length,
    drawings: drawings.length,
    drawn: drawings.filter(svg => svg.getBoundingClientRect().height > 50).length,
    page: root.scrollWidth, window: root.clientWidth,
    table: table.scrollWidth, tableWindow: table.clientWidth,
    smallest: Math.min(...sizes), outside, overlapping,
  }, "*");
});
</script>
"""


def chromium(profile, *arguments):
    command = [
        str(CHROMIUM),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        f"--user-data-dir={profile}",
        *arguments,
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def screenshot(folder, html, *arguments):
    image = pytest.importorskip("matplotlib.image")
    page, target = folder / "page.html", folder / "page.png"
    page.write_text(html, encoding="utf-8")
    options = [f"--screenshot={target}", "--window-size=1200,3000", *arguments]
    chromium(folder / "profile", *options, page.as_uri())
    return image.imread(target)[..., :3]


def probe(folder, html, width):
    page, outer = folder / "page.html", folder / "outer.html"
    # The page forbids scripts; the copy that is measured must allow one.
    page.write_text(re.sub(r"<meta http-equiv[^>]*>", PROBE, html), encoding="utf-8")
    outer.write_text(
        "<!doctype html><title>waiting</title><script>"
        'addEventListener("message", event => document.title = JSON.stringify(event.data));'
        f'</script><iframe src="page.html" style="border:0;width:{width}px;height:2000px">'
        "</iframe>",
        encoding="utf-8",
    )
    options = ["--dump-dom", "--virtual-time-budget=10000", "--window-size=1400,2000"]
    dom = chromium(folder / "profile", *options, outer.as_uri())
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)[1]
    return json.loads(title.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def hex_color(text):
    return np.array([int(text[at : at + 2], 16) / 255 for at in (1, 3, 5)])


def share(pixels, color):
    return float((np.abs(pixels - color).max(axis=-1) < 0.02).mean())


def test_light_and_dark_look_right(tmp_path, sample_html):
    from tether.report.palette import HUES, INK, SURFACE

    light = screenshot(tmp_path, sample_html, "--blink-settings=preferredColorScheme=1")
    dark = screenshot(tmp_path, sample_html, "--blink-settings=preferredColorScheme=0")
    assert light.shape == dark.shape == (3000, 1200, 3)
    for pixels, mode in ((light, "light"), (dark, "dark")):
        assert 0.5 < share(pixels, hex_color(getattr(SURFACE, mode))) < 0.97
        assert share(pixels, hex_color(getattr(INK, mode))) > 0.001
        for hue in HUES[:7]:  # eight methods, one of them grey
            assert share(pixels, hex_color(getattr(hue, mode))) > 1e-5, (mode, hue.name)
    # The same page in other colours: neither mode shows the other's background in its plots.
    assert share(dark, hex_color(SURFACE.light)) < 0.01


@pytest.mark.parametrize(("width", "smallest"), [(390, 8.0), (768, 9.0), (1200, 9.5)])
def test_fits_and_stays_legible(tmp_path, sample_html, width, smallest):
    seen = probe(tmp_path, sample_html, width)
    assert seen["figures"] == FIGURES
    assert seen["drawn"] == seen["drawings"] > FIGURES
    assert seen["page"] <= seen["window"] == width
    assert seen["outside"] == []
    assert seen["overlapping"] == []
    assert seen["smallest"] >= smallest
    if width == 390:
        assert seen["table"] > seen["tableWindow"]  # it scrolls in its own box


def test_the_probe_sees_what_it_looks_for(tmp_path):
    from tether.report import Page, Panel, Plot
    from tether.report.svg import render

    def paint(axes):
        axes.set_axis_off()
        axes.text(0.5, 0.5, "one above")
        axes.text(0.5, 0.5, "the other")
        axes.text(1.3, 0.9, "far out of the drawing", fontsize=4).set_in_layout(False)

    page = Page("Bad")
    page.add_table(["a"], [[1]], "One.")
    page.add_figure(Plot((Panel(render(300, 200, paint), "A bad drawing.", 300.0),)), "Bad", "Bad.")
    wide = page.html().replace("<main>", '<main><div style="width:900px">wide</div>')
    seen = probe(tmp_path, wide, 390)
    assert seen["page"] > 390
    assert seen["outside"] == ["far out of the drawing"]
    assert seen["overlapping"] == ["the other | one above"]
    assert seen["smallest"] < 8
