"""The model card: its facts, and texts from outside that stay texts."""

from __future__ import annotations

import ast
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from markdown_it import MarkdownIt

from tether.catalogue import method_info
from tether.models.card import CardFacts, CardMethod, card, escaped, without_folders, write_card

L2_SP = method_info("l2_sp")
NASTY = [
    "a|b", "<script>alert(1)</script>", "[x](javascript:alert(1))", "`code`", "*b* _i_ ~s~",
    "line\nbreak", "![i](http://x/y.png)", "https://evil.example/x", "<!-- c", "\\", "&lt;", "# h",
    "$x$", "a@b.c", "www.x.y",
]  # fmt: skip


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def rendered(text: str) -> Reader:
    body = text.split("\n---\n", 1)[1] if text.startswith("---\n") else text
    reader = Reader()
    # As on a page that shows Markdown: tables, and raw HTML let through.
    reader.feed(MarkdownIt("commonmark", {"html": True}).enable("table").render(body))
    return reader


def facts(**changes: Any) -> CardFacts:
    told: dict[str, Any] = {
        "name": "run-1", "base_model": "timm:resnet18", "library": "timm", "kind": "image",
        "task": "single_label", "class_names": ["cat", "dog"], "data": "pets",
        "counts": {"train": 1200, "validation": 300},
        "methods": [CardMethod("l2_sp", L2_SP.summary, L2_SP.paper, {"alpha": 0.1})],
        "settings": "model: timm:resnet18\n", "metric": "accuracy", "exported": "best",
        "last": {"validation": {"accuracy": 0.5, "loss": 1.0}},
        "best": {"validation": {"accuracy": 0.75}},
        "how_to_load": 'import timm\nmodel = timm.create_model("local-dir:FOLDER")',
    }  # fmt: skip
    return CardFacts(**{**told, **changes})


@pytest.mark.parametrize("text", NASTY)
def test_texts_from_outside_are_shown_as_they_are(text: str) -> None:
    reader = rendered(f"| {escaped(text)} | x |\n| --- | --- |\n| {escaped(text)} | y |")
    assert set(reader.tags) == {"table", "thead", "tbody", "tr", "th", "td"}
    shown = " ".join(text.split())
    lines = reader.text.replace("\u200b", "").split("\n")
    assert lines.count(shown) == 2


def test_a_nasty_card_has_only_our_own_tags() -> None:
    made = card(
        facts(
            name=NASTY[1],
            class_names=NASTY,
            data=NASTY[2],
            counts={NASTY[0]: 3},
            methods=[CardMethod(NASTY[1], NASTY[2], NASTY[8], {"a": NASTY[1]})],
            settings="x: '```'\n<script>",
            metric=NASTY[3],
            noise={"name": NASTY[1]},
            last={NASTY[0]: {NASTY[1]: 0.5}},
        )
    )
    reader = rendered(made)
    assert not {"script", "a", "img"} & set(reader.tags)
    assert "<script>alert(1)</script>" in reader.text
    front = yaml.safe_load(made.split("---")[1])
    assert front["tags"] == ["tether", "fine-tuned", NASTY[1]]


def test_it_tells_the_facts(tmp_path: Path) -> None:
    path = write_card(tmp_path, facts())
    text = path.read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "timm" and front["pipeline_tag"] == "image-classification"
    assert "license" not in front and "l2_sp" in front["tags"]
    assert "| train | 1,200 |" in text
    assert "| validation | accuracy | 0.5000 | 0.7500 |" in text
    assert "| validation | loss | 1.0000 | – |" in text
    assert "](https://arxiv.org/abs/" in text and "alpha = 0.1" in text
    assert 'timm.create_model("local-dir:FOLDER")' in text and "model: timm:resnet18" in text
    assert "no test split" in text
    assert [p.name for p in tmp_path.iterdir()] == ["README.md"]


def test_no_folder_of_the_machine_travels_along() -> None:
    settings = {
        "model": "hf:/home/me/secret/bert", "data": "/home/me/secret/pets/",
        "weights": "~/secret/w",
        "output_dir": "secret/runs/one", "pairs": "../secret/p.csv", "label_separator": "/",
        "unlabelled": "C:\\me\\secret\\more", "freeze": "",
        "methods": [{"l2_sp": {"file": "/home/me/secret/start.safetensors"}}],
        "stages": [{"data": "/home/me/secret/other.csv"}],
    }  # fmt: skip
    made = card(
        facts(
            data="/home/me/secret/pets/",
            methods=[CardMethod("l2_sp", options={"file": "/home/me/secret/start.safetensors"})],
            settings=yaml.safe_dump(settings),
            noise={"file": "/home/me/secret/n.csv"},
        )
    )
    assert "secret" not in made and "home" not in made
    assert "\n## Data\n\npets\n" in made
    shown = yaml.safe_load(made.split("```yaml\n")[1].split("```")[0])
    assert shown == {
        "model": "hf:bert", "data": "pets", "weights": "w", "output_dir": "one", "pairs": "p.csv",
        "label_separator": "/", "unlabelled": "more", "freeze": "",
        "methods": [{"l2_sp": {"file": "start.safetensors"}}], "stages": [{"data": "other.csv"}],
    }  # fmt: skip
    assert "secret" not in card(facts(settings=settings))
    for text in ("hf:google/bert", "org/data:part", "demo:digits", "data.csv", "data/pets", "//"):
        assert without_folders(text) == text


def test_plain_fine_tuning_and_many_classes() -> None:
    text = card(facts(methods=[], class_names=[f"c{i}" for i in range(80)]))
    assert "plain fine-tuning" in text and "and 30 more" in text
    assert "number" in card(facts(task="regression", class_names=["age"]))


@pytest.mark.parametrize("module", ["own_models", "timm_models", "hf_models", "torchvision_models"])
def test_the_lines_that_load_a_model_are_python(module):
    loading = import_module(f"tether.models.{module}")
    lines = {
        "own_models": lambda: loading.HOW_TO_LOAD,
        "timm_models": lambda: loading.HOW_TO_LOAD,
        "hf_models": lambda: loading._how_to_load("text"),
        "torchvision_models": lambda: loading.how_to_load("resnet18", 3, {}),
    }[module]()
    names = {node.id for node in ast.walk(ast.parse(lines)) if isinstance(node, ast.Name)}
    assert "TYPE_CHECKING" not in names and "FOLDER" in lines
