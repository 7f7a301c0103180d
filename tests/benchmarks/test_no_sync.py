"""No method waits for the device: nothing in tether's part of a step reads a tensor's value."""

import pytest
from torch.profiler import ProfilerActivity, profile

import tether
from benchmarks.models import ACTING, make_method
from tests.contract.cases import Run, cases

WAITS = ("aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::_unique2")
#: Operations that look at values themselves.
THEIR_OWN = (
    "aten::_fused_",  # an optimiser's counter of steps, which lies where the parameters do
    "aten::one_hot",  # the range of classes, on the CPU alone
    "aten::_linalg_check_errors",  # of a decomposition: no spectrum without it
    "aten::_assert_async",  # waits on the CPU alone
)


def within_tether(event):
    while event is not None:
        if event.name.startswith(THEIR_OWN):
            return False
        if event.name.startswith("tether::"):
            return True
        event = event.cpu_parent
    return False


def waits_of_a_step(methods, case):
    """Names of waiting operations in the second and third step, the first being for set-up."""
    # "log" is what runs on a GPU; "step" would look at each loss
    run = Run(case, methods, rows=64, epochs=10, nan_check="log")
    run.train_mode()
    batches = run.reg.batches(run.loader)

    def step():
        run.backward(*next(batches))
        run.update()

    step()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
        step()
    events = profiler.events()
    ranges = {event.name for event in events if event.name.startswith("tether::")}
    assert {"tether::loss", "tether::edit_gradients", "tether::after_step"} <= ranges
    return [event.name for event in events if event.name in WAITS and within_tether(event)]


@pytest.mark.parametrize("name", tether.list_methods())
def test_no_method_waits_for_the_device(name):
    case = cases(tether.method_info(name))[0]
    assert waits_of_a_step([case.method(**ACTING.get(name, {}))], case) == []


def test_all_together():
    names = ("adarand", "elr", "regsl", "l2_sp")
    case = cases(tether.method_info("elr"))[0]
    assert waits_of_a_step([make_method(name) for name in names], case) == []


def test_a_wait_would_be_found():
    class Reader(tether.L2SP):
        def penalty(self, batch):
            return batch.logits.sum() * float(batch.logits.detach().mean())

    case = cases(tether.method_info("l2_sp"))[0]
    assert "aten::_local_scalar_dense" in waits_of_a_step([Reader()], case)
