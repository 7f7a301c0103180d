"""The single HTML file, looked at as text."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from tests.labels.makers import NASTY, image_data, make_run, suspects_of, text_data
from tether.errors import ConfigError
from tether.files import write_json
from tether.labels.review.suspects import open_review
from tether.labels.static_page import static_html, write_static_page


def parts(html):
    """The policy, the style, the data and the script of a page."""
    policy = re.search(r'content-security-policy" content="([^"]*)"', html)[1]
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html)[1]
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)[1]
    return policy, style, json.loads(data), script


def test_only_its_own_style_and_script_may_run(tmp_path):
    run = make_run(tmp_path / "run", text_data(tmp_path / "t.csv", 10))
    html = static_html(open_review(run))
    policy, style, data, script = parts(html)
    for kind, text in (("style", style), ("script", script)):
        code = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{code}'" in policy
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert html.count("<script") == 2  # what the texts hold is no element
    assert len(re.findall(r"(?:src|href)=\"(?!data:)", html)) == 0
    assert data["id"] == [row["id"] for row in suspects_of(run)]
    assert any(NASTY[0] in d["text"][0] for d in data["details"])


def test_the_first_suspects_and_their_pictures(tmp_path):
    photos = image_data(tmp_path / "photos", 10)
    run = make_run(tmp_path / "run", photos)
    (photos / suspects_of(run)[1]["id"]).unlink()
    review = open_review(run)
    path = write_static_page(review, limit=3)
    assert path == run / "labels" / "review.html"
    _, _, data, _ = parts(path.read_text(encoding="utf-8"))
    assert len(data["details"]) == len(data["id"]) == 3
    assert "this file holds the first 3 suspects" in data["warnings"][-1]
    shown = {s["sample"] for d in data["details"] for k in d["neighbours"].values() for s in k}
    shown |= {d["sample"] for d in data["details"]}
    assert {int(n) for n in (*data["pictures"], *data["problems"])} == shown
    assert data["problems"] == {str(data["details"][1]["sample"]): "it is no longer in the data"}
    assert all(p.startswith("data:image/") for p in data["pictures"].values())
    assert len(review.warnings) == 2 and len(review.suspects) > 3  # the review is as it was


def test_where_it_cannot_be_written(tmp_path):
    run = make_run(tmp_path / "run", text_data(tmp_path / "t.csv", 10))
    review = open_review(run)
    for limit, output, message in (
        (0, None, "limit must be at least 1"), (1, tmp_path, "is a folder; name a file"),
        (1, tmp_path / "t.csv" / "x.html", "name another file with --output"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=message):
            write_static_page(review, output, limit=limit)


def test_how_many_are_probably_wrong(tmp_path):
    run = make_run(tmp_path / "run", text_data(tmp_path / "t.csv", 10))
    for told, expected in ((7, 7), (0, None), (10**6, None), (None, None), ("7", None)):
        write_json(run / "labels" / "summary.json", {"suspects": told})
        assert parts(static_html(open_review(run)))[2]["likely"] == expected
