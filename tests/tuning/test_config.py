"""Settings: read, converted, checked, written, compared; methods and stages in them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.catalogue import list_methods
from tether.errors import ConfigError
from tether.methods import L2SP
from tether.tuning.config import (
    check_complete,
    check_methods,
    differences,
    dump_config,
    load_config,
    parse_method,
    resolve_methods,
    stage_configs,
)
from tether.tuning.method_spec import method_text
from tether.tuning.options import TuneConfig
from tether.tuning.table import FIELDS


def write(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# -- files and their order -------------------------------------------------------------------------


def test_a_file_is_converted_by_the_type_of_each_option(tmp_path: Path) -> None:
    text = """
    model: timm:resnet18
    lr: 1e-3            # a text to YAML
    epochs: 3
    batch-size: 16
    compile: yes
    max_grad_norm: 1
    text_column: [question, answer]
    class_weights: {cat: 2, dog: 1.5}
    model_args: {drop_rate: 1e-1, act: gelu}
    seed:
    """
    config = load_config(write(tmp_path, text))
    assert (config.lr, config.epochs, config.batch_size) == (0.001, 3.0, 16)
    assert config.compile is True and config.clip_grad == 1.0
    assert config.text_column == "question,answer" and config.class_weights == "cat=2,dog=1.5"
    assert config.model_args == {"drop_rate": 0.1, "act": "gelu"}
    assert config.seed == TuneConfig().seed


def test_a_toml_file_and_a_run_folder(tmp_path: Path) -> None:
    if sys.version_info >= (3, 11):
        toml = write(tmp_path, 'lr = 0.5\nmethods = ["l2_sp:weight=0.1"]\n', "run.toml")
        assert load_config(toml).methods == [{"l2_sp": {"weight": 0.1}}]
    write(tmp_path, "lr: 0.25", "config.yaml")
    assert load_config(tmp_path).lr == 0.25
    assert load_config(write(tmp_path, "", "empty.yaml")) == TuneConfig()


def test_overrides_win_over_the_file_which_wins_over_defaults(tmp_path: Path) -> None:
    path = write(tmp_path, "lr: 0.5\nepochs: 3\nmethods: [elr]")
    config = load_config(path, overrides={"lr": "0.1", "epochs": None, "method": "none"})
    assert (config.lr, config.epochs, config.batch_size, config.methods) == (0.1, 3.0, 32, [])


def test_a_config_is_copied_and_checked() -> None:
    given = TuneConfig(lr="1e-2", methods=["elr"])  # type: ignore[arg-type]
    config = load_config(given)
    config.methods.append("l2_sp")
    assert config.lr == 0.01 and given.methods == ["elr"]
    with pytest.raises(ConfigError, match="option lr: must be at least 0"):
        load_config(TuneConfig(lr=-1))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lrr: 1", r"unknown option 'lrr' \(.*run.yaml\): did you mean 'lr'\?"),
        ("lr: -1", r"option lr: must be at least 0, got -1 \(.*run.yaml\)"),
        ("lr: fast", "option lr: expected a number, got 'fast'"),
        ("lr: .nan", "option lr: expected a finite number"),
        ("epochs: 0", "option epochs: must be more than 0, got 0"),
        ("batch_size: 2.5", "option batch_size: expected a whole number, got 2.5"),
        ("batch_size: many", "option batch_size: expected a whole number, got 'many'"),
        ("validation_share: 0.95", "must be at most 0.9, got 0.95"),
        ("precision: fp3", "must be one of fp32, bf16, fp16, got 'fp3'; did you mean 'fp32'"),
        ("compile: maybe", "option compile: expected true or false, got 'maybe'"),
        ("augment: no", "option augment: expected a text, got false"),
        ("model_args: 3", "option model_args: expected key=value,key=value, got 3"),
        ("methods: 3", "option methods: expected a list, got 3"),
        ("methods: [3]", r"method 3: write 'name'.*run.yaml"),
        ("sched: cosine\nlr-scheduler: linear", "lr_scheduler is given twice"),
        ("lr: 1\nlr: 2", "run.yaml, line 2: 'lr' stands in line 1, too"),
        ("lr: [1", "run.yaml, line 1, column .*: not valid YAML"),
        ("- lr", "expected lines 'option: value'"),
        ("!!python/object/apply:os.getcwd []", "not valid YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        load_config(write(tmp_path, text))
    assert "\n" not in str(raised.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, "lr: 1")
    with pytest.raises(ConfigError, match="does not exist: did you mean 'run.yaml'"):
        load_config(tmp_path / "runn.yaml")
    with pytest.raises(ConfigError, match=r"must end in \.yaml"):
        load_config(tmp_path / "run.ini")
    (tmp_path / "bytes.yaml").write_bytes(b"lr: 1\nmodel: \xff")
    with pytest.raises(ConfigError, match="bytes.yaml, line 2: not UTF-8"):
        load_config(tmp_path / "bytes.yaml")


def test_model_and_data_must_be_named() -> None:
    with pytest.raises(ConfigError, match="--model and --data must be given"):
        check_complete(TuneConfig())
    with pytest.raises(ConfigError, match="^--data must be given"):
        check_complete(TuneConfig(model="m"))
    check_complete(TuneConfig(model="m", stages=[{"data": "a"}, {"data": "b"}]))


# -- written and compared --------------------------------------------------------------------------


def _values(name: str) -> st.SearchStrategy[Any]:
    about, kind = FIELDS[name].metadata, str(FIELDS[name].type)
    low = about["low"] if about["low"] is not None else 0
    if about["choices"]:
        return st.sampled_from(about["choices"])
    if kind == "int":
        return st.integers(int(low), 10**6)
    if kind == "float":
        return st.floats(low, about["high"] or 1e6, exclude_min=about["above"] is not None)
    if kind == "bool":
        return st.booleans()
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


PLAIN = [name for name, field in FIELDS.items() if "[" not in str(field.type)]


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_what_is_written_reads_back_equal(tmp_path_factory: Any, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.sampled_from(PLAIN), unique=True, max_size=8))
    config = load_config(
        {
            **{name: data.draw(_values(name), name) for name in names},
            "methods": ["l2_sp:weight=cosine(0.1, 0)", "elr"],
            "stages": [{"epochs": "1"}, {"lr": "1e-4", "start_from": "best"}],
        }
    )
    text = dump_config(config)
    assert list(yaml.safe_load(text)) == list(FIELDS)
    path = tmp_path_factory.mktemp("written") / "config.yaml"
    path.write_text(text, encoding="utf-8", newline="\n")
    again = load_config(path)
    assert again == config and not differences(config, again)
    assert dump_config(again) == text


def test_what_a_file_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match="option methods: a object cannot be written"):
        dump_config(TuneConfig(methods=[{"l2_sp": {"fisher": object()}}]))


def test_differences_name_what_bears_on_the_result() -> None:
    before = load_config({"methods": "l2_sp:weight=0.1", "workers": 1, "freeze": "backbone"})
    now = load_config({"lr": 0.01, "workers": 2})
    assert differences(before, now) == [
        "methods: l2_sp:weight=0.1 in the run, none now",
        "lr: 0.001 in the run, 0.01 now",
        "freeze: backbone in the run, none now",
    ]
    assert "workers: 1 in the run, 2 now" in differences(before, now, settings_only=False)
    a, b = TuneConfig(lr=0.123456789), TuneConfig(lr=0.12345678)
    assert differences(a, b) == ["lr: 0.123456789 in the run, 0.12345678 now"]


# -- methods ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("l2_sp", {}),
        ("l2_sp:", {}),
        ("l2-sp:weight=0.01,form=l1_sp", {"weight": 0.01, "form": "l1_sp"}),
        ("l2_sp:weight=1e-3, decoupled=true", {"weight": 0.001, "decoupled": True}),
        ("l2_sp:weight=cosine(0.1, 0),form=l2", {"weight": "cosine(0.1, 0)", "form": "l2"}),
        ("l2_sp:weight=inf,fisher=None", {"weight": math.inf, "fisher": None}),
        ("l2_sp:fisher='a, b.safetensors'", {"fisher": "a, b.safetensors"}),
        ('l2_sp:fisher="it\'s, so"', {"fisher": "it's, so"}),
        ("l2_sp:fisher=it's", {"fisher": "it's"}),
        ("l2_sp:fisher=C:\\x=y", {"fisher": "C:\\x=y"}),
        (
            "l2_sp:a=[1, two, 3e-1],b={x: 1, y: [2]}",
            {"a": [1, "two", 0.3], "b": {"x": 1, "y": [2]}},
        ),
    ],
)
def test_a_method_is_read(text: str, options: dict[str, Any]) -> None:
    assert parse_method(text) == ("l2_sp", options)
    if "'" not in text:  # a quoted comma is for people's hands only
        assert parse_method(method_text("l2_sp", options)) == ("l2_sp", options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l2_sp:weight", "'weight' should read key=value"),
        ("l2_sp:weight=cosine(0.1", r"\) is missing"),
        ("l2_sp:weight=1,weight=2", "'weight' is given twice"),
        ("3:weight=1", "should read NAME"),
        ("l2 sp", "should read NAME"),
    ],
)
def test_a_method_that_cannot_be_read(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_method(text)


def test_methods_in_yaml_as_texts_and_as_mappings(tmp_path: Path) -> None:
    text = """
    methods:
      - elr
      - l2_sp: {weight: 1e-3, fisher: f.safetensors}
      - adarand:weight=cosine(0.1, 0)
      - randreg:
      - sgm: weight=2
      - plain
    """
    config = load_config(write(tmp_path, text))
    assert resolve_methods(config) == [
        ("elr", {}),
        ("l2_sp", {"weight": 0.001, "fisher": "f.safetensors"}),
        ("adarand", {"weight": "cosine(0.1, 0)"}),
        ("randreg", {}),
        ("sgm", {"weight": 2}),
    ]
    assert load_config({"methods": "elr, l2_sp"}).methods == ["elr", "l2_sp"]
    assert load_config({"methods": "none"}).methods == []
    assert load_config({"methods": {"l2_sp": {"weight": 1}}}).methods == [{"l2_sp": {"weight": 1}}]


def test_check_methods_makes_them() -> None:
    (method,) = check_methods(load_config({"methods": "l2_sp:weight=1e-2,fisher=none"}))
    assert isinstance(method, L2SP) and method.weight == 0.01 and method.fisher is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("l2sp", "unknown method 'l2sp': did you mean 'l2_sp'"),
        ("l2_sp:wieght=1", "method 'l2_sp' has no option 'wieght': did you mean 'weight'"),
        (
            "l2_sp:weight=-1",
            r"^method l2_sp: weight must be >= 0, got -1; weight: a, >= 0, schedul",
        ),
        ("l2_sp:form=x,weight=1", "method l2_sp: form 'x' is not one of .*; form: "),
        ("l2_sp:weight=cosin(1, 0)", "method l2_sp: unknown schedule .*; weight: a, >= 0"),
        ("l2_sp:decoupled=maybe", "decoupled must be true or false, got 'maybe'; decoupled: pull"),
        (
            "elr:beta=high",
            r"method elr: beta must be a number, got 'high'; beta: share .* \[0, 1\)",
        ),
        ("distance_constraint", "method 'distance_constraint' needs the option 'radius'"),
    ],
)
def test_a_method_that_cannot_be_made_says_its_documented_range(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as raised:
        check_methods(load_config({"methods": text}))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", list_methods())
def test_every_method_can_be_written_with_its_example(name: str) -> None:
    from tether.catalogue import method_info

    info = method_info(name)
    (method,) = check_methods(TuneConfig(methods=[method_text(name, info.example)]))
    assert type(method) is info.cls


# -- stages ----------------------------------------------------------------------------------------


def test_stages_inherit_and_override() -> None:
    config = load_config(
        {
            "model": "m", "data": "d", "lr": 0.1, "methods": "l2_sp",
            "stages": [
                {"methods": "none", "epochs": "2"},
                {"lr": "1e-3", "reset": "head, optimizer", "start-from": "best"},
                {"data": "other", "start_from": "pretrained"},
            ],
        }
    )  # fmt: skip
    first, second, third = stage_configs(config)
    assert first.config.methods == [] and first.config.epochs == 2 and first.config.lr == 0.1
    assert first.start_from == "pretrained" and first.reset == ("optimizer", "schedule")
    assert second.config.methods == ["l2_sp"] and second.config.lr == 0.001
    assert second.start_from == "best" and second.reset == ("head", "optimizer", "schedule")
    assert third.config.data == "other" and third.config.model == "m" and third.index == 2
    assert all(spec.config.stages == [] for spec in (first, second, third))


def test_without_stages_there_is_one() -> None:
    config = load_config({"model": "m", "epochs": 3})
    (only,) = stage_configs(config)
    assert only.config == config and only.start_from == "pretrained"


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([3], r"a stage is a mapping of options, got 3 \(stage 1\)"),
        ([{"epoch": 3}], r"unknown key 'epoch' \(stage 1\): did you mean 'epochs'"),
        ([{}, {"lr": -1}], r"option lr: must be at least 0, got -1 \(stage 2\)"),
        ([{"model": "x"}], "'model' cannot be set here .* holds for the whole run"),
        ([{"start_from": "last"}], "needs a stage before"),
        ([{}, {"start_from": "first"}], "start_from must be one of last, best, pretrained"),
        ([{"reset": ["heads"]}], "reset: 'heads' is unknown .*did you mean 'head'"),
        ([{"reset": "weights"}], "start_from: pretrained"),
        ([{"stages": []}], "cannot be set here"),
    ],
)
def test_stages_that_do_not_do(stages: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config({"stages": stages})


def test_reading_settings_does_not_import_torch(tmp_path: Path) -> None:
    path = write(tmp_path, "lr: 1e-3\nmethods: ['l2_sp:weight=1']\nstages: [{lr: 1}]")
    code = f"""
import sys
from tether.tuning.config import *
config = load_config({str(path)!r}, overrides={{"epochs": 2}})
resolve_methods(config), stage_configs(config), dump_config(config), differences(config, config)
print(*sorted({{name.partition(".")[0] for name in sys.modules}} & {{"torch", "numpy"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
