"""The studies of this repository, and any method under its own ranges, can be planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.files import FILES
from tether.catalogue import list_methods, method_info
from tether.compare.plan import check_plan
from tether.compare.study import load_study

STUDIES = sorted((Path(__file__).parents[2] / "benchmarks" / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_our_studies_are_planned(path, monkeypatch):
    monkeypatch.setenv("TETHER_SHARED", "somewhere")
    monkeypatch.setenv("MINILM", "elsewhere")
    assert check_plan(load_study(path))


@pytest.mark.parametrize("name", [name for name in list_methods() if name not in FILES])
def test_a_method_takes_every_value_of_its_own_ranges(name):
    info = method_info(name)
    options = ",".join(f"{key}={value}" for key, value in info.example.items() if key != "include")
    given = {
        "models": "demo:digits", "data": "demo:digits",
        "methods": ["plain", {name: {"methods": [f"{name}:{options}" if options else name]}}],
    }  # fmt: skip
    assert check_plan(load_study(given))
