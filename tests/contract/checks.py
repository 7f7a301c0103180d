"""All checks of the contract, by the name under which a record may be excused from one.

Run them on a method of your own::

    from tests.contract.checks import run

    run("my_method")
"""

from __future__ import annotations

import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from tether.catalogue import MethodInfo, method_info

from . import attaching, training
from .cases import NotApplicable
from .ranks import RANK_CHECKS, Pair, jobs_of

#: Checks in this process. Those of ``RANK_CHECKS`` run in a pair of ranks beside it.
LOCAL_CHECKS: dict[str, Callable[[MethodInfo], None]] = {
    check.__name__: check
    for check in (
        attaching.record,
        attaching.refusals,
        attaching.trace,
        attaching.finish,
        attaching.loader_forms,
        attaching.graphs,
        training.acts,
        training.neutral,
        training.losses,
        training.edges,
        training.eval_mode,
        training.resume,
        training.accumulation,
        training.scaler,
        training.skipped_step,
        training.bf16,
        training.compose,
    )
}
ALL_CHECKS = (*LOCAL_CHECKS, *RANK_CHECKS)


def run_check(info: MethodInfo, check: str, pair: Pair) -> None:
    """One check of one method.

    Raises:
        NotApplicable: it says nothing about this method, or the record is excused.
        AssertionError: the method breaks its promise.
    """
    unknown = set(info.exempt) - set(ALL_CHECKS)
    assert not unknown, f"exempt names unknown checks: {sorted(unknown)}"
    if check in info.exempt:
        assert info.exempt[check].strip(), f"exempt from {check} without a reason"
        raise NotApplicable(f"excused: {info.exempt[check]}")
    if check in LOCAL_CHECKS:
        LOCAL_CHECKS[check](info)
    else:
        pair.check(f"{info.name}.{check}")


def run(method: str | MethodInfo) -> dict[str, str]:
    """Every check on one method; check -> "passed" or why it does not apply.

    Call it before this process trains anything where a GPU is present: it forks two ranks.

    Args:
        method: its registered name, or its record.

    Raises:
        AssertionError: some failed; the text has all of them.
    """
    info = method if isinstance(method, MethodInfo) else method_info(method)
    outcomes, failures = {}, []
    with tempfile.TemporaryDirectory() as folder:
        pair = Pair(jobs_of([info]), Path(folder))
        try:
            for check in ALL_CHECKS:
                try:
                    run_check(info, check, pair)
                    outcomes[check] = "passed"
                except NotApplicable as reason:
                    outcomes[check] = str(reason)
                except Exception:
                    failures.append(f"{check}: {traceback.format_exc()}")
        finally:
            pair.close()
    said = f"{info.name} fails {len(failures)} of {len(ALL_CHECKS)} checks\n"
    assert not failures, said + "\n".join(failures)
    return outcomes
