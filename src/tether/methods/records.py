"""Records of single objects: what a method asks of the engine may follow from its options."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tether.method import Method


def change_record(method: Method, **record: Any) -> None:
    """Give one object a record of its own, where its options change what the class asks for.

    Args:
        method: called in its constructor.
        record: fields of :class:`tether.catalogue.MethodInfo`, such as ``needs`` or ``views``.
    """
    method.__dict__["info"] = replace(type(method).info, **record)
