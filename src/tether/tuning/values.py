"""From texts to values: scalars, lists, ``key=value`` pairs, and the type of an option."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from tether.errors import ConfigError
from tether.words import nearest

_INTEGER = re.compile(r"[-+]?\d+")
# Unlike YAML 1.1, "1e-3" is a number here.
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.?inf(inity)?", re.IGNORECASE)
_WORDS = {"true": True, "false": False, "null": None, "~": None}
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
#: Options that are written with commas; a YAML list says the same.
JOINED = ("freeze", "text_column", "label_column", "report_to", "sequence")


def split_top(text: str, separator: str = ",") -> list[str]:
    """Split at separators outside brackets and quotes, without spaces around.

    Raises:
        ValueError: a bracket or a quote is not closed.

    Example:
        >>> split_top("weight=cosine(0.1, 0), form='a, b'")
        ['weight=cosine(0.1, 0)', "form='a, b'"]
    """
    parts, waiting, quote, start = [], [], "", 0
    for place, sign in enumerate(text):
        if quote:
            quote = "" if sign == quote else quote
        elif sign in "'\"" and not text[start:place].rpartition("=")[2].strip(" ([{,:"):
            quote = sign  # an apostrophe inside a word is none
        elif sign in _CLOSING:
            waiting.append(_CLOSING[sign])
        elif waiting and sign == waiting[-1]:
            waiting.pop()
        elif sign == separator and not waiting:
            parts.append(text[start:place].strip())
            start = place + 1
    if quote or waiting:
        raise ValueError(f"{text!r}: {quote or waiting[-1]} is missing")
    parts.append(text[start:].strip())
    return parts


def scalar(text: str) -> Any:
    """A number, true, false or null where the text is one, else the text.

    Example:
        >>> [scalar(text) for text in ("1e-3", "12", "true", "None", "inf", "l1_sp")]
        [0.001, 12, True, None, inf, 'l1_sp']
    """
    text = text.strip()
    if text == "None":
        return None
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _INTEGER.fullmatch(text):
        return int(text)
    if _NUMBER.fullmatch(text):
        return float(text.lower().replace(".inf", "inf"))
    return text


def read_value(text: str) -> Any:
    """A scalar, ``[a, b]``, ``{key: value}`` or a text in quotes.

    Example:
        >>> read_value("[1, two, {a: 1e-3}]")
        [1, 'two', {'a': 0.001}]
    """
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return json.loads(text)
        except json.JSONDecodeError:
            return text[1:-1]
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1].replace("''", "'")
    inner = text[1:-1].strip()
    if text.startswith("[") and text.endswith("]"):
        return [read_value(part) for part in split_top(inner)] if inner else []
    if text.startswith("{") and text.endswith("}"):
        pairs = [split_top(part, ":") for part in split_top(inner)] if inner else []
        if any(len(pair) < 2 for pair in pairs):
            raise ValueError(f"{text!r}: write {{key: value, key: value}}")
        return {str(read_value(key)): read_value(":".join(rest)) for key, *rest in pairs}
    return scalar(text)


def read_pairs(text: str) -> dict[str, Any]:
    """``key=value,key=value`` as a mapping; a value may hold commas in brackets or quotes.

    Raises:
        ValueError: a part has no ``=``, or a key is given twice.

    Example:
        >>> read_pairs("weight=cosine(0.1, 0),form=l1_sp")
        {'weight': 'cosine(0.1, 0)', 'form': 'l1_sp'}
    """
    pairs: dict[str, Any] = {}
    for part in split_top(text):
        key, equals, value = part.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ValueError(f"{part!r} should read key=value")
        if key in pairs:
            raise ValueError(f"{key!r} is given twice")
        pairs[key] = read_value(value)
    return pairs


def read_numbers(value: Any) -> Any:
    """Texts inside a value of YAML that are numbers to us, such as ``1e-3``, made numbers."""
    if isinstance(value, str):
        number = scalar(value)
        return number if isinstance(number, float) else value
    if isinstance(value, Mapping):
        return {str(key): read_numbers(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [read_numbers(part) for part in value]
    return value


def convert(name: str, kind: str, about: Mapping[str, Any], value: Any, where: str = "") -> Any:
    """The value of an option in its type, checked against its range and choices.

    Args:
        name: name of the option.
        kind: its type as written in the table of options.
        about: its metadata there.
        value: what was given.
        where: ends the message of an error, for example ``" (run.yaml)"``.

    Raises:
        ConfigError: it is of another type, or out of range.
    """
    try:
        value = _TYPES[kind.partition("[")[0]](name, value)
    except ValueError as error:
        raise ConfigError(f"option {name}: {error}{where}") from None
    problem = out_of_range(value, about)
    if problem:
        raise ConfigError(f"option {name}: {problem}{where}")
    return value


def out_of_range(value: Any, about: Mapping[str, Any]) -> str:
    """What is wrong with a value of the right type; empty where nothing is."""
    if about.get("choices") and value not in about["choices"]:
        hint = nearest(str(value), about["choices"])
        return f"must be one of {', '.join(about['choices'])}, got {value!r}{hint}"
    low, high, above = (about.get(key) for key in ("low", "high", "above"))
    if above is not None and not value > above:
        return f"must be more than {above:g}, got {value:g}"
    if low is not None and not value >= low:
        return f"must be at least {low:g}, got {value:g}"
    if high is not None and not value <= high:
        return f"must be at most {high:g}, got {value:g}"
    return ""


# -- one function a type ---------------------------------------------------------------------------


def _to_text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        word = str(value).lower()
        raise ValueError(
            f"expected a text, got {word} (YAML reads yes, no, on, off so: use quotes)"
        )
    if name in JOINED and isinstance(value, (list, tuple)):
        return ",".join(_to_text("", part) for part in value)
    if name == "class_weights" and isinstance(value, Mapping):
        return ",".join(f"{key}={part}" for key, part in value.items())
    if hasattr(value, "__fspath__"):
        return str(value.__fspath__())
    if isinstance(value, (str, int, float, date)):
        return str(value)
    raise ValueError(f"expected a text, got {value!r}")


def _to_float(name: str, value: Any) -> float:
    number = scalar(value) if isinstance(value, str) else value
    if isinstance(number, bool) or not isinstance(number, (int, float)):
        raise ValueError(f"expected a number, got {value!r}")
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, got {value}")
    return float(number)


def _to_int(name: str, value: Any) -> int:
    try:
        number = value if type(value) is int else _to_float(name, value)
    except ValueError:
        raise ValueError(f"expected a whole number, got {value!r}") from None
    if number != int(number):
        raise ValueError(f"expected a whole number, got {value}")
    return int(number)


def _to_bool(name: str, value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in (*_YES, *_NO):
        raise ValueError(f"expected true or false, got {value!r}")
    return word in _YES


def _to_dict(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        text = value.strip()
        value = read_value(text) if text.startswith("{") else read_pairs(text) if text else {}
    if isinstance(value, (list, tuple)):  # an option that was given several times
        return {key: part for text in value for key, part in _to_dict(name, text).items()}
    if not isinstance(value, Mapping):
        raise ValueError(f"expected key=value,key=value, got {value!r}")
    return {str(key): part for key, part in read_numbers(value).items()}


def _to_list(name: str, value: Any) -> list[Any]:
    if isinstance(value, str):
        text = value.strip()
        parts = split_top(text)
        if text.startswith("["):
            value = read_value(text)
        else:  # names only, or one entry whose options hold commas
            value = [text] if ":" in text or "=" in text else [part for part in parts if part]
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"expected a list, got {value!r}")
    return list(value)


_TYPES = {
    "str": _to_text, "float": _to_float, "int": _to_int, "bool": _to_bool, "dict": _to_dict,
    "list": _to_list,
}  # fmt: skip
