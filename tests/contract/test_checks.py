"""The checks pass methods that keep the contract and fail those that break it."""

from __future__ import annotations

import pytest

from tether.catalogue import list_methods

from .cases import NotApplicable
from .checks import ALL_CHECKS, run
from .ranks import Pair
from .checks import run_check
from .toys import BROKEN, GOOD, info_of


@pytest.mark.parametrize("check", [c for c in ALL_CHECKS if c not in ("record", "compose")])
@pytest.mark.parametrize("name", GOOD)
def test_a_good_method_passes(name: str, check: str, pair: Pair) -> None:
    try:
        run_check(GOOD[name], check, pair)
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.parametrize(("name", "check"), BROKEN)
def test_a_broken_promise_is_noticed(name: str, check: str, pair: Pair) -> None:
    with pytest.raises((AssertionError, RuntimeError)):
        run_check(info_of(name), check, pair)
