"""The checks pass methods that keep the contract and fail those that break it."""

from __future__ import annotations

import pytest
import torch

from .cases import NotApplicable
from .checks import ALL_CHECKS, run, run_check
from .ranks import Pair
from .toys import BROKEN, GOOD

#: They wait for a compiler, or for a rank that never comes.
SLOW = ("guarded", "alone")


@pytest.mark.long
@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("check", [c for c in ALL_CHECKS if c not in ("record", "compose")])
def test_a_good_method_passes(name: str, check: str, pair: Pair) -> None:
    try:
        run_check(GOOD[name], check, pair)
    except NotApplicable as reason:
        pytest.skip(str(reason))


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize(
    ("name", "check"),
    [
        pytest.param(name, entry[1], marks=pytest.mark.long if name in SLOW else ())
        for name, entry in BROKEN.items()
    ],
)
def test_a_broken_promise_is_noticed(name: str, check: str, pair: Pair) -> None:
    info, _, says = BROKEN[name]
    with pytest.raises((AssertionError, RuntimeError), match=says):
        run_check(info, check, pair)


@pytest.mark.skipif(torch.cuda.is_available(), reason="forks ranks after this process has trained")
@pytest.mark.long
def test_all_checks_in_one_call() -> None:
    with pytest.raises(AssertionError, match=r"mumbling fails 1 of \d+ checks\nrecord:"):
        run(BROKEN["mumbling"][0])
