"""The documentation builds without a warning, and its code runs."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from tests.contract.cases import WIDTH, kinds_of, make_data, make_entries, make_network
from tests.contract.files import FILES
from tests.markdown import ROOT, code_blocks
from tests.pages import PAGES, commands, files, make_workspace
from tether.catalogue import COSTS, ENTRIES, KINDS, NEEDS, list_methods, method_info
from tether.cli.tune import NO_FLAG, flag_name, gather
from tether.compare.study import load_study
from tether.method import Method
from tether.tuning.config import check_complete, load_config
from tether.tuning.method_spec import check_methods
from tether.tuning.stage_spec import stage_configs
from tether.tuning.table import FIELDS

NOT_RUN = "not run"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; it is built from a copy, so that the test leaves no pages behind."""
    folder = tmp_path_factory.mktemp("docs")
    source, target = folder / "source", folder / "html"
    ignored = shutil.ignore_patterns("_build", "methods", "__pycache__")
    shutil.copytree(ROOT / "docs", source, ignore=ignored)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html"]
    done = subprocess.run([*command, source, target], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def page_text(path: Path) -> str:
    """What a reader sees of a page."""
    return html.unescape(re.sub(r"<[^>]+>", "", path.read_text(encoding="utf-8")))


def test_every_method_has_a_page_with_its_record(site: Path) -> None:
    index = page_text(site / "methods" / "index.html")
    assert list_methods()
    for name in list_methods():
        info = method_info(name)
        text = page_text(site / "methods" / f"{name}.html")
        assert info.cls.__name__ in text
        assert name in index
        assert info.paper in text
        for option in info.options:
            assert option in text, (name, option)
        for check, reason in info.exempt.items():
            assert check in text, (name, check)
            assert reason.split()[0] in text, (name, reason)
        for other in info.conflicts:
            assert other in text, (name, other)


def test_pages_of_removed_methods_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    from method_pages import write_pages

    (tmp_path / "gone.md").write_text("# Gone\n")
    write_pages(tmp_path)
    assert {path.stem for path in tmp_path.glob("*.md")} == {*list_methods(), "index"}


def test_a_page_shows_what_the_method_did_in_our_comparisons(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    from method_pages import CARDS, method_page

    cards = json.loads(CARDS.read_text(encoding="utf-8"))
    assert set(cards) <= set(list_methods())
    for name, rows in cards.items():
        page = method_page(method_info(name), rows)
        for _, case, score, *_ in rows:
            assert case in page and score in page, name
    assert "In our comparisons" not in method_page(method_info(name), [])


def test_every_word_of_a_record_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    from method_pages import COST_TEXT, KIND_TEXT, NEED_TEXT

    assert set(KIND_TEXT) == set(KINDS)
    assert set(NEED_TEXT) == set(NEEDS)
    assert set(COST_TEXT) == set(COSTS)


@pytest.mark.parametrize("name", list_methods())
def test_the_loop_on_each_page_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    from method_pages import loop_example

    info = method_info(name)
    kind = kinds_of(info)[0]
    monkeypatch.chdir(tmp_path)
    if name in FILES:  # the page's words name files that a user would have
        for option, file in FILES[name](make_network, kind).items():
            shutil.copy(file, tmp_path / info.example[option])
    data, model = make_data(kind, 24), make_network(kind, 0.2)
    entries = [need for need in ENTRIES if need in info.needs]

    def collate(rows: list[Any]) -> Any:
        x, labels = (torch.stack([torch.as_tensor(row[i]) for row in rows]) for i in (0, 1))
        if not entries:
            return x, labels
        return {"x": x, "labels": labels, **make_entries(entries, x, info.views)}

    names = {
        "model": model,
        "train_set": data,
        "valid_set": data,
        "source_head": nn.Linear(WIDTH, 7),
        "loader": DataLoader(data, batch_size=8, collate_fn=collate),
        "epochs": 2,
    }
    lines = [line for line in loop_example(info) if "```" not in line]
    at = next(i for i, line in enumerate(lines) if line.startswith("reg ="))
    exec("\n".join(lines[:at]), names)
    start = [parameter.detach().clone() for parameter in model.parameters()]
    names["optimizer"] = torch.optim.SGD(model.parameters(), lr=0.1)
    exec("\n".join(lines[at:]), names)
    assert torch.isfinite(names["loss"])
    if info.cls.finish is Method.finish:  # else it may have put in other tensors
        moved = (not torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))
        assert any(moved)


def test_pages_load_nothing_from_the_network(site: Path) -> None:
    loaded = re.compile(r"<(?:script|link|img)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+")
    for path in site.rglob("*.html"):
        assert not loaded.findall(path.read_text(encoding="utf-8")), path.name


@pytest.mark.parametrize("page", ["quickstart.md", "extending.md"])
def test_code_of_the_pages_runs(page: str, tmp_path: Path) -> None:
    blocks = code_blocks(ROOT / "docs" / page)
    for block in blocks:
        compile(block.code, page, "exec")
    script = tmp_path / "page.py"
    run = [block.code for block in blocks if not block.mark.startswith(NOT_RUN)]
    assert run
    script.write_text("\n".join(run), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


# -- tether tune -----------------------------------------------------------------------------------

#: Runs every command of a page in one process, each training for an epoch, then its Python code.
RUN_PAGE = """
import json, sys
from tether.cli import main

page = json.load(sys.stdin)
for words in page["commands"]:
    short = ["--epochs", "1"] if words[0] == "tune" and "--dry-run" not in words else []
    code = main([*words, *short])
    assert code == 0, (code, words)
for block in page["code"]:
    exec(block, {})
"""


def test_the_table_of_options_is_complete(site: Path) -> None:
    page = site / "tune_options.html"
    rows = {
        cells[0].partition(" ")[0].rstrip(","): cells
        for row in re.findall(r"<tr.*?</tr>", page.read_text(encoding="utf-8"), re.DOTALL)
        if (cells := [html.unescape(re.sub(r"<[^>]+>", "", cell)).strip()
                      for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)])
    }  # fmt: skip
    defaults = load_config()
    for name, field in FIELDS.items():
        key = name if name in NO_FLAG else f"--{flag_name(name)}"
        assert key in rows, name
        _, default, allowed, text = rows[key]
        # typographic quotes and hyphens are the documentation's own
        assert text.startswith(field.metadata["help"].partition("'")[0][:20]), name
        for choice in field.metadata["choices"]:
            assert choice in allowed, (name, choice)
        value = getattr(defaults, name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            assert float(default) == value, name
        assert ("↻" in text) != field.metadata["settings"], name


@pytest.mark.parametrize("page", PAGES)
def test_every_flag_of_the_printed_commands_exists(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.main import get_command

    from tether.cli.app import build

    monkeypatch.chdir(tmp_path)
    for name, text in files(page):
        Path(name).write_text(text, encoding="utf-8")
        if "\nmodels:" in text:
            load_study(name)
        else:
            check_complete(load_config(name))
    known = get_command(build()).commands
    found = list(commands(page))
    assert found
    for words, _ in found:
        given = known[words[0]].make_context(words[0], list(words[1:])).params
        config = given.pop("config", None)
        if words[0] != "tune" or (config is not None and not Path(config).is_file()):
            continue  # a run that the commands before would have made
        own = ("settings", "resume", "overwrite", "dry_run", "as_json")
        settings = gather(
            config, given["settings"], {k: v for k, v in given.items() if k not in own}
        )
        if not given["resume"]:
            check_complete(settings)
        for stage in stage_configs(settings):
            check_methods(stage.config)


@pytest.mark.parametrize(
    "page",
    [
        "docs/tune.md",
        *(
            pytest.param(f"docs/{name}.md", marks=pytest.mark.long)
            for name in ("continual", "average", "tune_training")
        ),
    ],
)
def test_the_printed_commands_run(page: str, tmp_path: Path) -> None:
    make_workspace(tmp_path)
    for name, text in files(page):
        (tmp_path / name).write_text(text, encoding="utf-8")
    job = {
        "commands": [words for words, runs in commands(page) if runs],
        "code": [
            block.code for block in code_blocks(ROOT / page) if not block.mark.startswith(NOT_RUN)
        ],
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN_PAGE],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
