from __future__ import annotations

import runpy
from pathlib import Path

import pytest


def test_masking_aperiodic_neurons_takes_the_wrong_sums_and_leaves_the_rule(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "examples" / "grokking.py"
    options = ["--p", "19", "--width", "80", "--steps", "240", "--share", "0.9", "--noise", "0.1"]
    options += ["--seed", "1"]
    monkeypatch.setattr("sys.argv", [str(script), *options])
    result = runpy.run_path(str(script))["main"]()
    whole, halved = result["accuracy"], result["without_lowest_half"]
    assert whole["wrong_as_given"] > 0.8 and whole["test"] > 0.8
    assert result["phase"] == "coherent"
    assert halved["wrong_as_given"] < 0.5 < halved["wrong_true"] and halved["test"] > 0.8
    assert result["without_highest_fifth"]["test"] < halved["test"] - 0.1
    assert "phase: coherent" in capsys.readouterr().out
