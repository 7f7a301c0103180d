import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

import tether.report.page
from tests.report.sample import FIGURES, METHODS
from tether.report import Cell, Page, Panel, Plot
from tether.report.plots import distance_profile, dot_plot, memorization_curves

VOID = {"meta", "link", "br", "img", "input", "hr"}
HOSTILE = "<script>alert(1)</script>\"' & $x_{ \\frac \x00\ud800 ]]> --> {{ 7*7 }} url(#i0) 名"


class Reader(HTMLParser):
    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements = []  # (tag, attributes, tags of the parents)
        self.open = []
        self.text = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes), tuple(self.open)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes, _ in self.elements if name == tag]


def test_well_formed_with_one_title_and_language(sample_html):
    reader = Reader(sample_html)
    assert reader.open == []
    assert sample_html.startswith("<!doctype html>")
    assert [a["lang"] for a in reader.all("html")] == ["en"]
    assert len(reader.all("h1")) == 1


def test_nothing_comes_from_outside(sample_html):
    reader = Reader(sample_html)
    for tag, attributes, _ in reader.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed", "img", "base"}
        for key, value in attributes.items():
            assert not key.startswith("on")
            if key in {"src", "href", "xlink:href", "action", "srcset", "data"}:
                assert value.startswith("#")
    assert not re.search(r"https?:|//[a-z]|@import|@font-face", sample_html)
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", sample_html))
    policy = [a["content"] for a in reader.all("meta") if "http-equiv" in a]
    assert policy and "default-src 'none'" in policy[0]


def test_ids_are_unique_and_references_lead_somewhere(sample_html):
    elements = Reader(sample_html).elements
    ids = [attributes["id"] for _, attributes, _ in elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > FIGURES
    for _, attributes, _ in elements:
        for key in ("href", "aria-labelledby"):
            assert attributes.get(key, "#" + ids[0]).lstrip("#") in ids
        if "clip-path" in attributes:
            assert attributes["clip-path"][5:-1] in ids


def test_the_same_plot_twice_keeps_ids_unique():
    page = Page("Twice")
    plot = dot_plot({"plain": [0.1, 0.2]})
    page.add_figure(plot, "First", "One.")
    page.add_figure(plot + plot, "Second", "Two.")
    ids = [a["id"] for _, a, _ in Reader(page.html()).elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_every_figure_is_named_and_explained(sample_html):
    reader = Reader(sample_html)
    assert len(reader.all("figure")) == len(reader.all("figcaption")) == FIGURES
    drawings = [a for a in reader.all("svg") if a.get("aria-hidden") != "true"]
    assert len(drawings) > FIGURES
    assert all(a["role"] == "img" and len(a["aria-label"]) > 20 for a in drawings)
    assert all("width" not in a and "viewbox" in a for a in drawings)


def test_tables_have_scoped_headers_and_scroll_by_themselves(sample_html):
    reader = Reader(sample_html)
    scopes = [attributes.get("scope") for attributes in reader.all("th")]
    assert scopes.count("col") == 5
    assert scopes.count("row") == len(METHODS)
    assert len(scopes) == 5 + len(METHODS)
    (parents,) = [parents for tag, _, parents in reader.elements if tag == "table"]
    assert parents[-1] == "div"
    assert {"class": "scroll", "tabindex": "0"}.items() <= next(
        a for a in reader.all("div") if a.get("class") == "scroll"
    ).items()


def test_hostile_text_is_shown_not_interpreted(recwarn):
    page = Page(HOSTILE, HOSTILE, footer=HOSTILE)
    page.add_section(HOSTILE)
    page.add_text(HOSTILE)
    page.add_code(HOSTILE, HOSTILE)
    page.add_table([HOSTILE], [[HOSTILE], [Cell(HOSTILE, note=HOSTILE)]], HOSTILE, note=HOSTILE)
    bars = distance_profile({HOSTILE: {HOSTILE: 1.0}, "b": {}}, reference=HOSTILE, x=HOSTILE)
    page.add_figure(bars, HOSTILE, HOSTILE)
    page.add_figure(dot_plot({HOSTILE: [1.0]}, x=HOSTILE, title=HOSTILE), HOSTILE, HOSTILE)
    curves = {HOSTILE: {"epoch": [0, 1], "memorized": [0, 1]}}
    page.add_figure(memorization_curves(curves, marks={HOSTILE: 0.5}, by="label"), HOSTILE, "c")
    html = page.html()
    html.encode("utf-8")
    reader = Reader(html)
    assert reader.all("script") == []
    assert "\x00" not in html
    shown = [text for text in reader.text if "<script>alert(1)</script>" in text]
    assert len(shown) > 20
    assert all("{{ 7*7 }}" in text and "$x_{ \\frac" in text for text in shown)
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_two_processes_write_the_same_bytes(tmp_path, sample_html):
    there = tmp_path / "there.html"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"}
    paths = [path for path in sys.path if path]
    environment["PYTHONPATH"] = os.pathsep.join([os.getcwd(), *paths])
    command = [sys.executable, "-m", "tests.report.sample", str(there)]
    subprocess.run(command, check=True, env=environment, timeout=120)
    assert there.read_bytes() == sample_html.encode()


def test_the_users_matplotlib_settings_change_nothing():
    matplotlib = pytest.importorskip("matplotlib")
    undisturbed = dot_plot({"a": [1.0, 2.0]})
    with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "text.parse_math": True}):
        before = dict(matplotlib.rcParams)
        assert dot_plot({"a": [1.0, 2.0]}) == undisturbed
        assert dict(matplotlib.rcParams) == before


def test_small(sample_html):
    assert len(sample_html) < 500_000


def test_a_failing_render_leaves_the_old_file(tmp_path):
    path = tmp_path / "report.html"
    page = Page("Good")
    page.write(path)
    old = path.read_bytes()
    page.add_figure(Plot((Panel("<svg", "not a drawing", 100.0),)), "Broken", "Broken.")
    with pytest.raises(SyntaxError):
        page.write(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_failing_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = Page("Good").write(tmp_path / "report.html")
    old = path.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        Page("Better").write(path)
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["report.html"]
    monkeypatch.undo()
    Page("Better").write(path)
    assert b"Better" in path.read_bytes()


def test_write_makes_folders_and_returns_the_path(tmp_path):
    path = tmp_path / "a" / "b" / "report.html"
    assert Page("Deep").write(str(path)) == path
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.mark.parametrize("package", ["jinja2", "matplotlib"])
def test_a_missing_package_names_the_extra(package, monkeypatch):
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf'{package}.*pip install "tether\[cli\]"'):
        Page("x").html() if package == "jinja2" else dot_plot({"a": [1.0]})


def test_importing_the_report_imports_neither():
    code = (
        "import sys, tether.report, tether.report.plots;"
        "sys.exit(bool({'jinja2', 'matplotlib'} & ({*sys.modules} - before)))"
    )
    # What the rest of the package imports is not the report's affair.
    code = "import sys; import tether; before = {*sys.modules};" + code
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


def test_table_of_contents_only_for_long_pages():
    page = Page("Short")
    page.add_section("One")
    page.add_section("Two")
    assert "<nav" not in page.html()
    page.add_section("Three")
    assert '<a href="#section-3">Three</a>' in page.html()


def test_cells_are_formatted_and_aligned():
    page = Page("Cells")
    page.add_table(
        ["name", "value"],
        [["a", 0.123456], ["b", None], ["c", float("nan")], ["d", 7]],
        "Values.",
    )
    html = page.html()
    for text in ("0.1235", "–", "7"):
        assert f'<td class="right">{text}</td>' in html
    assert html.count("–</td>") == 2


def test_bad_blocks_are_refused_when_added():
    page = Page("Bad")
    with pytest.raises(ValueError, match="row 1 of the table has 1 cells but there are 2 columns"):
        page.add_table(["a", "b"], [[1, 2], [1]], "Caption.")
    with pytest.raises(ValueError, match="no columns"):
        page.add_table([], [], "Caption.")
    with pytest.raises(ValueError, match="no panels"):
        page.add_figure(Plot(()), "Empty", "Empty.")


def test_typeset_keeps_percentages_together():
    assert tether.report.page.typeset("35 % of 100 %") == "35\xa0% of 100\xa0%"
