"""Every registered method keeps the contract; nothing here knows any of them."""

from __future__ import annotations

import pytest

from tether.catalogue import list_methods, method_info

from .checks import ALL_CHECKS, run_check
from .cases import NotApplicable
from .ranks import Pair


@pytest.mark.parametrize("check", ALL_CHECKS)
@pytest.mark.parametrize("name", list_methods())
def test_contract(name: str, check: str, pair: Pair) -> None:
    try:
        run_check(method_info(name), check, pair)
    except NotApplicable as reason:
        pytest.skip(str(reason))
