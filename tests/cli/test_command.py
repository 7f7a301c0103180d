"""The command line as a user meets it: real processes, their streams and exit codes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.markdown import ROOT
from tether.cli import main

#: None of these may be loaded to show a help page.
HEAVY = ("torch", "numpy", "transformers", "timm", "datasets", "matplotlib", "jinja2", "pandas")


def tether(
    *words: str, cwd: Path = ROOT, env: dict[str, str] | None = None, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    keep = {k: v for k, v in os.environ.items() if k not in ("CI", "NO_COLOR", "FORCE_COLOR")}
    return subprocess.run(
        [sys.executable, "-m", "tether", *words],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**keep, "OMP_NUM_THREADS": "1", **(env or {})},
    )


def loaded_by(*words: str) -> set[str]:
    """Top-level packages that are in memory after the command."""
    code = f"""
import sys
from tether.cli import main
try:
    main({list(words)!r})
except SystemExit:
    pass
print("LOADED", *{{name.partition(".")[0] for name in sys.modules}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split())


@pytest.mark.parametrize(
    "words",
    [["--help"], ["--version"], ["tune", "--help"], ["tune", "--lr", "-1"], ["methods", "--help"]],
)
def test_what_needs_no_torch_does_not_import_it(words: list[str]) -> None:
    loaded = loaded_by(*words)
    assert "typer" in loaded
    assert not loaded & set(HEAVY)


def test_help_starts_at_once() -> None:
    spent = []
    for _ in range(4):  # the processor's time, which other work on this machine does not stretch
        before = os.times()
        assert tether("--help").returncode == 0
        after = os.times()
        spent.append(
            after.children_user
            - before.children_user
            + after.children_system
            - before.children_system
        )
    assert min(spent) < 0.4, spent


def test_version_and_help_go_to_stdout() -> None:
    done = tether("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("tether ")
    for words in ((), ("--help",), ("tune", "--help")):
        done = tether(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert "Options" in done.stdout or "This run" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tunes"], "tether: No such command 'tunes'. Did you mean 'tune'?"),
        (
            ["tune", "--batchsize", "3"],
            "tether tune: No such option: --batchsize: did you mean --batch-size",
        ),
        (["tune", "--lr"], "tether tune: Option '--lr' requires an argument"),
        (["tune", "a.yaml", "b.yaml"], "tether tune: Got unexpected extra argument"),
        (["predict"], "tether predict: Missing argument 'RUN'"),
        (["tune"], "tether tune: --model and --data must be given"),
        (["tune", "--lr", "-1"], "tether tune: option lr: must be at least 0, got -1"),
        (["tune", "--lr", "fast"], "tether tune: option lr: expected a number, got 'fast'"),
        (["tune", "--set", "lrr=1"], "tether tune: unknown option 'lrr': did you mean 'lr'?"),
        (["tune", "--set", "lr"], "tether tune: --set lr: write --set KEY=VALUE"),
        (["tune", "none.yaml"], "tether tune: config file none.yaml does not exist"),
        (["methods", "l2sp"], "tether methods: unknown method 'l2sp': did you mean 'l2_sp'?"),
        (["methods", "--kind", "x"], "tether methods: kind 'x' is not one of weights"),
        (["methods", "zz*"], "tether methods: no method matches 'zz*'"),
    ],
)
def test_a_wrong_command_is_one_line_on_stderr_and_exit_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(message)
    assert printed.err.count("\n") == 1


@pytest.mark.parametrize("words", [["tune", "--epoch", "3"], ["tune", "--lr", "-1"]])
def test_a_wrong_command_in_a_process_of_its_own(words: list[str]) -> None:
    done = tether(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("tether tune: ") and done.stderr.count("\n") == 1


def test_methods_are_listed_a_line_each_for_pipes_and_as_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    header, *lines = tether("methods", "*constraint*").stdout.splitlines()
    assert header.split() == ["name", "acts", "on", "cost", "what", "it", "does"]
    names = ["distance_constraint", "layerwise_constraint", "rate_constraint"]
    assert [line.split()[0] for line in lines] == names
    assert main(["methods", "--kind", "weights", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {one["acts_on"] for one in found} == {"weights"}
    assert {"l2_sp", "distance_constraint"} <= {one["name"] for one in found}


def test_colour_only_where_it_is_wanted() -> None:
    coloured = "\x1b[1;36m"
    assert "\x1b[" not in tether("tune", "--help").stdout
    assert coloured in tether("tune", "--help", env={"FORCE_COLOR": "1"}).stdout
    for variable in ("NO_COLOR", "CI"):
        shown = tether("tune", "--help", env={"FORCE_COLOR": "1", variable: "1"}).stdout
        assert shown and not re.search(r"\x1b\[[\d;]*3\d", shown), variable


def test_a_reader_that_leaves_early_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    done = tether("methods", stdout=write)
    os.close(write)
    assert done.returncode == 1
    assert done.stderr == ""


BROKEN = """
raise RuntimeError("operator torchvision::nms does not exist")
"""


def test_doctor_finds_a_torchvision_that_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(BROKEN, encoding="utf-8")
    done = tether("doctor", env={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1
    assert "do not fit: operator torchvision::nms does not exist" in done.stdout
    assert "mend it with: pip install --force-reinstall --no-deps 'torchvision==0." in done.stdout
    assert "Traceback" not in done.stderr


def test_doctor_tells_versions_devices_disk_and_extras(tmp_path: Path) -> None:
    done = tether("doctor", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["pairing"]["ok"] else 1)
    assert found["versions"]["torch"] and found["versions"]["tether"]
    assert found["devices"][0].startswith("cpu: ")
    assert found["disk"]["folder"] == str(tmp_path) and found["disk"]["free_gib"] > 0
    assert found["extras"]["cli"] == {
        "installed": True,
        "adds": [],
        "install": "pip install 'tether[cli]'",
    }
    assert {"vision", "text", "sweep", "peft"} <= set(found["extras"])
    assert "dev" not in found["extras"]


def test_the_command_without_its_extra_says_how_to_get_it() -> None:
    code = """
import sys
sys.modules["typer"] = None
from tether.cli import main
sys.exit(main(["--help"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == (
        'tether: the command line needs typer: pip install "tether[cli]"'
    )


def test_other_ranks_sign_their_messages() -> None:
    done = tether("tune", env={"RANK": "1"})
    assert done.stderr.startswith("tether tune (rank 1): --model")
