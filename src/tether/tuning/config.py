"""Settings of a run: read from a file, a mapping and flags, checked, written and compared.

Nothing here imports torch, except :func:`check_methods` when it is called.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tether.continual.items import check_sequence
from tether.errors import ConfigError
from tether.tuning.method_spec import (
    check_methods,
    entry,
    method_text,
    parse_method,
    resolve_methods,
)
from tether.tuning.options import TuneConfig
from tether.tuning.stage_spec import StageSpec, normal_stages, stage_configs
from tether.tuning.table import FIELDS, canonical, entries
from tether.words import nearest

__all__ = [
    "StageSpec",
    "canonical",
    "check_complete",
    "check_methods",
    "differences",
    "dump_config",
    "load_config",
    "parse_method",
    "read_config_file",
    "resolve_methods",
    "stage_configs",
]

CONFIG_NAME = "config.yaml"


def load_config(
    source: TuneConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
) -> TuneConfig:
    """Settings from a file, a mapping or an object, with overrides; every value is checked.

    Args:
        source: a YAML or TOML file, a run folder (its ``config.yaml``), a mapping, or settings
            that are copied; None: the defaults.
        overrides: options that win over ``source``. Keys may be written with hyphens; a value of
            None leaves an option as it is.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value does not do.

    Example:
        >>> load_config({"batch-size": "16", "method": "l2_sp"}, overrides={"lr": "1e-4"}).lr
        0.0001
    """
    where = ""
    if source is None:
        given: Mapping[Any, Any] = {}
    elif isinstance(source, TuneConfig):
        given = {name: copy.copy(getattr(source, name)) for name in FIELDS}
    elif isinstance(source, Mapping):
        given = source
    elif isinstance(source, (str, Path)):
        path = Path(source)
        given, where = read_config_file(path), f" ({path})"
    else:
        raise ConfigError(f"settings are a file, a mapping or a TuneConfig, not {source!r}")
    values = _checked(given, where)
    values.update(_checked(overrides or {}, ""))
    return TuneConfig(**values)


def _checked(given: Mapping[Any, Any], where: str) -> dict[str, Any]:
    values = entries(given, where)
    if "stages" in values:
        values["stages"] = normal_stages(values["stages"], where)
    return values


def check_complete(config: TuneConfig) -> None:
    """Whether it is said what to train on what.

    Raises:
        ConfigError: the model or the data are not named.
    """
    check_sequence(config.sequence, config.data, bool(config.stages))
    lacking = [] if config.model else ["--model"]
    if not all(spec.config.data for spec in stage_configs(config)):
        lacking.append("--data")
    if lacking:
        keys = " and ".join(f"{flag[2:]}:" for flag in lacking)
        raise ConfigError(f"{' and '.join(lacking)} must be given (in a file: {keys})")


# -- reading files ---------------------------------------------------------------------------------


def read_config_file(path: Path) -> dict[Any, Any]:
    """The mapping that a YAML or TOML file holds, unchecked.

    Raises:
        ConfigError: there is no such file, it cannot be read, or it holds no mapping.
    """
    if path.is_dir():
        path = path / CONFIG_NAME
    kind = path.suffix.lower()
    if kind not in (".yaml", ".yml", ".json", ".toml"):
        raise ConfigError(f"config file {path}: its name must end in .yaml, .yml, .json or .toml")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"config file {path} does not exist{_near(path)}") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise ConfigError(f"config file {path}, line {line}: not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from None
    content = _read_toml(text, path) if kind == ".toml" else _read_yaml(text, path)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"config file {path}: expected lines 'option: value'")
    return content


def _near(path: Path) -> str:
    names = [other.name for other in path.parent.glob("*.*ml")] if path.parent.is_dir() else []
    return nearest(path.name, names, before=": ")


def _read_yaml(text: str, path: Path) -> Any:
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            f'reading {path} needs PyYAML; install it with: pip install "tether[cli]"'
        ) from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Safe, and a key that stands twice is an error; YAML keeps the last without a word."""

    def mapping(loader: Any, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise ConfigError(
                    f"config file {path}, line {line}: {key.value!r} stands in line "
                    f"{seen[key.value]}, too"
                )
            seen[key.value] = line
        loader.flatten_mapping(node)
        return dict(yaml.constructor.SafeConstructor.construct_mapping(loader, node, deep=True))

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(f"config file {path}{place}: not valid YAML: {problem}") from None


def _read_toml(text: str, path: Path) -> Any:
    if sys.version_info < (3, 11):
        raise ConfigError(f"reading {path} needs Python 3.11; write the options as YAML")
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"config file {path}: not valid TOML: {error}") from None


# -- writing and comparing -------------------------------------------------------------------------


def dump_config(config: TuneConfig) -> str:
    """The settings as YAML, every option, in the order of the table.

    Raises:
        ConfigError: an option holds what a file cannot, such as a tensor.
    """
    import yaml

    values = {name: _plain(name, getattr(config, name)) for name in FIELDS}
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
    if any(sign in text for sign in "\x85\u2028\u2029"):  # YAML takes them for ends of lines
        text = yaml.safe_dump(values, sort_keys=False, width=100)
    return text


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(name, part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(name, part) for part in value]
    raise ConfigError(
        f"option {name}: a {type(value).__name__} cannot be written to a file; give a number, a "
        "text, or the path of a file"
    )


def differences(before: TuneConfig, now: TuneConfig, settings_only: bool = True) -> list[str]:
    """Options in which a run and what is asked for now differ, as readable lines.

    Args:
        before: the settings of the run.
        now: those asked for.
        settings_only: leave out options that do not bear on the result.

    Example:
        >>> differences(TuneConfig(), TuneConfig(lr=0.01, workers=4))
        ['lr: 0.001 in the run, 0.01 now']
    """
    lines = []
    for name, field in FIELDS.items():
        if settings_only and not field.metadata["settings"]:
            continue
        was, is_now = getattr(before, name), getattr(now, name)
        if name == "methods":
            was, is_now = (", ".join(method_text(*entry(m)) for m in one) for one in (was, is_now))
        if was != is_now:
            lines.append(f"{name}: {_shown(was)} in the run, {_shown(is_now)} now")
    return lines


def _shown(value: Any) -> str:
    return "none" if value in ("", [], {}) else str(value)
