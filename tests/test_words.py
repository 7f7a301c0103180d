"""What messages say of names that are not there."""

from __future__ import annotations

import subprocess
import sys

from tether.words import nearest


def test_what_was_meant() -> None:
    assert nearest("dat", ["data", "date", "seed"], most=2) == "; did you mean 'date', 'data'?"
    assert nearest("trian.csv", iter(["train.csv"]), before=": ") == ": did you mean 'train.csv'?"
    assert nearest("xyz", ["data", "seed"]) == ""
    assert nearest("xyz", ["data", "seed"], listing=True) == "; known: data, seed"
    assert "\x1b" not in nearest("cat[31m", ["\x1bcat[31m"]) != ""


def test_they_start_without_torch_and_numpy() -> None:
    code = "import sys, tether.words; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
