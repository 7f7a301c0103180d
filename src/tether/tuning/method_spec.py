"""Methods as they are written in a command or a file, and the objects made from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tether.errors import ConfigError
from tether.tuning.values import read_numbers, read_pairs

if TYPE_CHECKING:
    from tether.catalogue import MethodInfo
    from tether.method import Method
    from tether.tuning.options import TuneConfig

NO_METHOD = ("plain", "none")
_NAME = re.compile(r"[A-Za-z_]\w*")


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a method written as ``name:key=value,key=value``.

    Raises:
        ConfigError: it is not written so.

    Example:
        >>> parse_method("l2_sp:weight=cosine(0.1, 0),form=l1_sp")
        ('l2_sp', {'weight': 'cosine(0.1, 0)', 'form': 'l1_sp'})
    """
    name, _, rest = text.partition(":")
    name = name.strip().replace("-", "_")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"method {text!r} should read NAME or NAME:key=value,key=value")
    if not rest.strip():
        return name, {}
    try:
        return name, read_pairs(rest)
    except ValueError as error:
        raise ConfigError(f"method {text!r}: {error}; write NAME:key=value,key=value") from None


def method_text(name: str, options: Mapping[str, Any]) -> str:
    """A method as :func:`parse_method` reads it."""
    pairs = ",".join(f"{key}={_written(value)}" for key, value in options.items())
    return f"{name}:{pairs}" if pairs else name


def _written(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_written(part)}' for key, part in value.items())}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def entry(given: Any) -> tuple[str, dict[str, Any]]:
    """Name and options of one entry of ``methods``: a text, or ``{name: {option: value}}``.

    Raises:
        ConfigError: it is neither.
    """
    if isinstance(given, str):
        return parse_method(given)
    if isinstance(given, Mapping) and len(given) == 1:
        name, options = next(iter(given.items()))
        if isinstance(options, str):
            return parse_method(f"{name}:{options}")
        if options is None or isinstance(options, Mapping):
            checked, _ = parse_method(str(name))
            return checked, read_numbers(options or {})
    raise ConfigError(
        f"method {given!r}: write 'name', 'name:key=value,key=value' or {{name: {{key: value}}}}"
    )


def normal_methods(given: Iterable[Any], where: str = "") -> list[Any]:
    """Entries of ``methods`` in one form: a name, or ``{name: options}``; "plain" leaves none.

    Raises:
        ConfigError: an entry cannot be read.
    """
    normal: list[Any] = []
    for one in given:
        try:
            name, options = entry(one)
        except ConfigError as error:
            raise ConfigError(f"{error}{where}") from None
        if name in NO_METHOD and not options:
            continue
        normal.append({name: options} if options else name)
    return normal


def resolve_methods(config: TuneConfig) -> list[tuple[str, dict[str, Any]]]:
    """Name and options of every method of a run; nothing is imported or looked up."""
    return [entry(one) for one in normal_methods(config.methods)]


def check_methods(config: TuneConfig) -> list[Method]:
    """Make every method of a run; this imports torch.

    Raises:
        ConfigError: an unknown method or option (with the nearest name), or a value that the
            method refuses (with what its documentation says of the option).
    """
    return [make_method(name, options) for name, options in resolve_methods(config)]


def make_method(name: str, options: Mapping[str, Any]) -> Method:
    """Make one method, its schedules read; see :func:`check_methods`."""
    from tether.catalogue import create_method, method_info

    try:
        info = method_info(name)
    except ValueError as error:
        raise ConfigError(f"{error} (tether methods lists all)") from None
    options = {key: _none_where_meant(info, key, value) for key, value in options.items()}
    for key, value in options.items():
        problem = _wrong_type(info, key, value)
        if problem:
            raise ConfigError(f"method {name}: {problem}{_documented(info, [key], problem)}")
    try:
        method = create_method(name, **options)
        method.schedules()
    except (ValueError, TypeError, KeyError, OSError) as error:
        problem = str(error)
        # The catalogue's own messages name the method, and need no range.
        if problem.startswith(("method ", "unknown ")) and repr(name) in problem:
            raise ConfigError(problem) from None
        raise ConfigError(
            f"method {name}: {problem}{_documented(info, list(options), problem)}"
        ) from None
    return method


def _none_where_meant(info: MethodInfo, key: str, value: Any) -> Any:
    """``none`` on a command line is Python's None where that is what the option defaults to."""
    known = info.options.get(key)
    return None if known is not None and known.default is None and value == "none" else value


def _wrong_type(info: MethodInfo, key: str, value: Any) -> str:
    """What a constructor would not notice, or only much later: a text where a number belongs."""
    known = info.options.get(key)
    written = str(known.annotation) if known is not None else ""
    if value is None and "None" in written:
        return ""
    kind = written.replace(" | None", "")
    if kind == "bool" and not isinstance(value, bool):
        return f"{key} must be true or false, got {value!r}"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind in ("float", "int") and not number:
        return f"{key} must be a number, got {value!r}"
    return ""


def _documented(info: MethodInfo, given: list[str], problem: str) -> str:
    """What the documentation says of the option that a message is about."""
    from tether.tuning.docstrings import option_texts

    texts = option_texts(info.cls)
    named = [key for key in texts if re.search(rf"\b{key}\b", problem)]
    about = sorted(named, key=len)[-1:] or (given if len(given) == 1 else [])
    return "".join(f"; {key}: {texts[key].rstrip('.')}" for key in about if key in texts)
