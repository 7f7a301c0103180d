"""Packages of extras: had where they are there, named with the remedy where they are not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tether.errors import ConfigError
from tether.optional import require
from tether.report import extras


def test_a_package_that_is_there() -> None:
    assert require("json", "cli") is json


def test_the_remedy_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'this needs absent,.*pip install "tether\[vision\]"'):
        require("absent.part", "vision")
    with pytest.raises(ImportError, match=r'a report needs absent,.*pip install "tether\[cli\]"'):
        extras.require("absent")
    (tmp_path / "ill_fitting.py").write_text("raise RuntimeError('operator does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=r"ill_fitting, .*operator does not exist"):
        require("ill_fitting", "vision")
