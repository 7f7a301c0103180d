"""The parts of the command line: flags and their order, help, failures, explanations."""

from __future__ import annotations

import inspect
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tether.catalogue import list_methods, method_info
from tether.cli.app import build
from tether.cli.explain import blocks, example
from tether.cli.extras import extra_of, extras, fits
from tether.cli.failures import reported
from tether.cli.tune import NO_FLAG, PANEL, flag_name, gather, spelling
from tether.errors import ConfigError, Interrupted, TetherError
from tether.tuning.config import resolve_methods
from tether.tuning.options import GROUPS, TuneConfig
from tether.tuning.table import FIELDS

FLAGS: dict[str, Any] = dict.fromkeys(FIELDS)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[..., TuneConfig]:
    """Words of ``tether tune`` -> the settings that its job is given."""
    seen: list[TuneConfig] = []

    def run(given: dict[str, Any]) -> None:
        settings = {key: given.pop(key) for key in ("settings", "resume", "config")}
        for switch in ("overwrite", "dry_run", "as_json"):
            given.pop(switch)
        seen.append(gather(settings["config"], settings["settings"], given, settings["resume"]))

    monkeypatch.setattr("tether.cli.tune.run", run)

    def call(*words: str) -> TuneConfig:
        done = CliRunner().invoke(build(), ["tune", *words])
        assert done.exit_code == 0, (done.output, done.exception)
        return seen.pop()

    return call


# -- flags -----------------------------------------------------------------------------------------


def test_every_option_has_a_flag_that_sets_it(command: Callable[..., TuneConfig]) -> None:
    words, wanted = [], {}
    for name, field in FIELDS.items():
        if name in NO_FLAG:
            continue
        kind, about, flag = str(field.type), field.metadata, f"--{flag_name(name)}"
        if kind == "bool":
            words.append(flag)
            wanted[name] = True
        elif about["choices"]:
            words += [flag, about["choices"][-1]]
            wanted[name] = about["choices"][-1]
        elif kind in ("int", "float"):
            words += [flag, "0.5" if kind == "float" else "7"]
            wanted[name] = 0.5 if kind == "float" else 7
        elif kind.startswith("dict"):
            words += [flag, "a=1,b=x", flag, "c=[1, 2]"]
            wanted[name] = {"a": 1, "b": "x", "c": [1, 2]}
        elif name == "methods":
            words += [flag, "elr", flag, "l2_sp:weight=cosine(0.1, 0)"]
            wanted[name] = ["elr", {"l2_sp": {"weight": "cosine(0.1, 0)"}}]
        else:
            words += [flag, f"text of {name}"]
            wanted[name] = f"text of {name}"
    config = command(*words)
    assert {name: getattr(config, name) for name in wanted} == wanted


def test_no_flag_leaves_every_default(command: Callable[..., TuneConfig]) -> None:
    assert command() == TuneConfig()


def test_default_file_set_flag_in_this_order(
    command: Callable[..., TuneConfig], tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("lr: 0.5\nepochs: 3\nbatch_size: 4\ncompile: true\nmethods: [elr]")
    config = command(
        str(file), "--set", "batch-size=8", "--set", "epochs=5", "--epochs", "7", "--no-compile",
        "--set", "methods=l2_sp:weight=1,form=l2",
    )  # fmt: skip
    assert (config.lr, config.batch_size, config.epochs, config.seed) == (0.5, 8, 7, 42)
    assert config.compile is False
    assert resolve_methods(config) == [("l2_sp", {"weight": 1, "form": "l2"})]
    # A flag with the default's value wins as well: it was written.
    assert command(str(file), "--epochs", "20").epochs == 20


def test_other_spellings(command: Callable[..., TuneConfig]) -> None:
    config = command("--batch_size", "4", "--sched", "linear", "--max_grad_norm=2", "--methods=elr")
    assert (config.batch_size, config.lr_scheduler, config.clip_grad) == (4, "linear", 2)
    assert config.methods == ["elr"]
    assert spelling("dry-run") == "dry-run" and spelling("no-compile") == "no-compile"


def test_resuming_takes_the_settings_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: m\ndata: d\nlr: 0.5")
    folder = {"output_dir": str(tmp_path)}
    assert gather(None, None, folder, resume=True).lr == 0.5
    assert gather(None, None, folder).lr == 0.001
    assert gather(None, None, {**folder, "model": "m", "data": "d"}, resume=True).lr == 0.001


# -- help ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [80, 120])
def test_the_help_fits_its_width(width: int) -> None:
    done = CliRunner().invoke(build(), ["tune", "--help"], env={"COLUMNS": str(width)})
    lines = done.stdout.splitlines()
    assert done.exit_code == 0
    assert max(map(len, lines)) == width
    assert "…" not in done.stdout.replace("NAME…", "")
    titles = [line.split()[1:-1] for line in lines if line.startswith("╭")]
    names = [" ".join(word for word in title if "─" not in word) for title in titles]
    assert names == ["Arguments", *GROUPS, PANEL]


def test_the_first_panel_is_short_and_tells_defaults_and_ranges() -> None:
    text = CliRunner().invoke(build(), ["tune", "--help"], env={"COLUMNS": "120"}).stdout
    main = text.partition("─ Main ─")[2].partition("╰")[0]
    options = [line for line in main.splitlines() if line.startswith("│ --")]
    assert 0 < len(options) <= 25
    assert len(options) == len(main.strip("─╮\n ").splitlines())  # each on one line
    assert any("--lr X" in line and "[0.001, >=0]" in line for line in options)
    assert any("[fp32 | bf16 | fp16]" in line for line in options)


@pytest.mark.parametrize("name", ["tune", "predict", "methods", "doctor"])
def test_each_command_has_a_line_in_the_list(name: str) -> None:
    text = CliRunner().invoke(build(), ["--help"], env={"COLUMNS": "80"}).stdout
    (line,) = [line for line in text.splitlines() if line.startswith(f"│ {name} ")]
    assert line.rstrip(" │").endswith(".")  # whole, and not wrapped


# -- failures --------------------------------------------------------------------------------------


def full_disk() -> None:
    Path("/dev/full").write_bytes(b"x")


def raising(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


@pytest.mark.parametrize(
    ("act", "code", "message"),
    [
        (raising(ConfigError("no")), 2, "tether tune: no"),
        (raising(TetherError("broke")), 1, "tether tune: broke"),
        (raising(Interrupted(signal.SIGTERM)), 143, "tether tune: saved; go on with --resume"),
        (raising(Interrupted(signal.SIGINT)), 130, "tether tune: saved; go on with --resume"),
        (raising(KeyboardInterrupt()), 130, "tether tune: interrupted"),
        (lambda: Path("/nowhere/file").read_text(), 1, "tether tune: /nowhere/file: No such file"),
        (full_disk, 1, "tether tune: no room on the disk: "),
        (
            raising(RuntimeError("x: No space left on device (os error 28)")),
            1,
            "no room on the disk: ",
        ),
        (raising(ImportError('get it: pip install "tether[text]"')), 1, "tether tune: get it: pip"),
        (lambda: __import__("peft.nothing"), 1, 'this needs peft: pip install "tether[peft]"'),
        (raising(ZeroDivisionError("division")), 1, "ZeroDivisionError: division (traceback in "),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(
    act: Callable[[], None], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if act is full_disk and not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    if "peft" in message and any(one.installed for one in extras()["peft"]):
        pytest.skip("peft is installed")
    with pytest.raises(SystemExit) as raised, reported("tether tune"):
        act()
    printed = capsys.readouterr()
    assert raised.value.code == code
    assert message in printed.err and printed.err.count("\n") == 1
    assert printed.out == ""


def test_an_unexpected_failure_says_where_its_traceback_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t"))
    (tmp_path / "t").mkdir()
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.log").write_text("Traceback ...\nKeyError: 'labels'\n")
    with pytest.raises(SystemExit), reported("tether tune", lambda: run):
        raise KeyError("labels")
    assert f"KeyError: 'labels' (traceback in {run / 'run.log'})" in capsys.readouterr().err
    with pytest.raises(SystemExit), reported("tether tune", lambda: run):
        raise KeyError("another")  # not in the run's log: written now
    (log,) = (tmp_path / "t").iterdir()
    assert str(log) in capsys.readouterr().err
    assert "KeyError: 'another'" in log.read_text()
    monkeypatch.setenv("TETHER_DEBUG", "1")
    with pytest.raises(SystemExit), reported("tether tune"):
        raise ConfigError("no")
    assert "Traceback" in capsys.readouterr().err


# -- extras and explanations -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "bounds", "fine"),
    [
        ("2.14.1+cpu", "==2.14.1", True),
        ("2.14.1", "==2.14.*", True),
        ("2.9.0", ">=2.14.0", False),
        ("6.0", "<6,>=5", False),
        ("5.9", ">=5,<6", True),
        ("1.2.3", "", True),
        ("1.2.3", "~=1.2", True),
        ("2.0", "~=1.2", False),
        ("2.0", "!=2.0", False),
    ],
)
def test_bounds_of_versions(version: str, bounds: str, fine: bool) -> None:
    assert fits(version, bounds) is fine


def test_the_extra_of_a_package() -> None:
    assert extra_of("yaml") == "cli" and extra_of("PIL") == "vision"
    assert extra_of("transformers") == "text" and extra_of("numpy") == ""


@pytest.mark.parametrize("name", list_methods())
@pytest.mark.parametrize("width", [80, 120])
def test_every_method_is_explained(name: str, width: int) -> None:
    info = method_info(name)
    text = "\n".join(block.plain for block in blocks(info, width))
    assert info.summary.replace("``", "")[:30] in text
    for option, parameter in info.options.items():
        shown = "must be given" if parameter.default is inspect.Parameter.empty else "default "
        assert f"\n  {option}  {shown}" in text
    for heading in ("Options", "Cost", "Example"):
        assert f"\n{heading}\n" in text
    assert "``" not in text and ":class:" not in text
    assert info.paper in text and f"--method {name}" in text.replace("'", "")
    filled = [line for line in text.splitlines() if not line.startswith("    ")]
    assert max(map(len, filled)) <= max(width, len(example(info)) + 2)


def test_explanations_as_json() -> None:
    done = CliRunner().invoke(build(), ["methods", "layerwise-constraint", "--json"])
    found = json.loads(done.stdout)
    assert found["name"] == "layerwise_constraint" and found["paper"] == "arXiv:2111.04578"
    assert found["options"][0]["name"] == "radius" and not found["options"][0]["required"]
    assert "radius growth^k" in found["description"]
    assert found["example"].startswith("tether tune --model ")
