"""Two processes under the Trainer are one process with a batch of twice the size."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tests.integrations.toys import EPOCHS, plain_loop, samples, weights
from tests.two_ranks import two_ranks
from tether import (
    L2SP,
    AdaRand,
    EarlyLearningRegularization,
    LayerwiseConstraint,
    TetherError,
)

close = {"rtol": 1e-5, "atol": 1e-6}
SETTINGS = [("mixin", 1), ("mixin", 2), ("paired", 2)]


def methods():
    return [
        AdaRand(sigma_scale=0.0),  # each rank draws its own noise
        EarlyLearningRegularization(),
        L2SP(weight=0.1),
        LayerwiseConstraint(radius=0.05, head_radius=1.0),
    ]


def run(rank, out):
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    from tests.integrations.test_hf import mixin, paired

    def build(name, accumulate):
        return {"mixin": mixin, "paired": paired}[name](
            out / f"{name}{accumulate}", methods(), save_strategy="epoch",
            per_device_train_batch_size=4 // accumulate, gradient_accumulation_steps=accumulate,
        )  # fmt: skip

    for name, accumulate in SETTINGS:
        trainer = build(name, accumulate)
        assert trainer.args.world_size == 2
        trainer.train()
        whole = weights(trainer.model)
        torch.save(whole, out / f"{name}{accumulate}{rank}.pt")
        folder = out / f"{name}{accumulate}" / "checkpoint-8"
        assert sorted(path.name for path in folder.glob("methods*")) == [
            "methods.safetensors", "methods.safetensors.rank1",
        ]  # fmt: skip
        again = build(name, accumulate)
        again.train(resume_from_checkpoint=str(folder))
        assert torch.equal(weights(again.model), whole)
    check_loader_rows(rank)
    keep_gradients(out, rank)
    with pytest.raises(TetherError, match="no parameter is sharded"):
        mixin(out / "sharded", methods(), fsdp=True, fsdp_config={"version": 2}).train()
    with pytest.raises(TetherError, match="FSDP.*use TetherMixin"):
        paired(out / "sharded", methods(), fsdp=True, fsdp_config={"version": 2})


def keep_gradients(out, rank):
    """Of a stock classifier, whose loss the Trainer alone would multiply by the ranks."""
    from tests.integrations.test_gradients import gradients
    from tests.integrations.test_hf import mixin, paired

    for name, make in (("mixin", mixin), ("paired", paired)):
        for accumulate in (1, 2):
            found = gradients(make, out / "gradients", 4 // accumulate, accumulate)
            torch.save(found, out / f"gradients-{name}{accumulate}{rank}.pt")
    found = gradients(mixin, out / "gradients", 2, 2, loss="model")
    torch.save(found, out / f"gradients-model2{rank}.pt")


def check_loader_rows(rank):
    from accelerate import Accelerator

    from tests.integrations.test_accelerate import prepared

    assert Accelerator(cpu=True).num_processes == 2
    *_, loader, reg = prepared(EarlyLearningRegularization(), batch=4)
    rows = []
    for x, _ in reg.batches(loader):
        assert torch.equal(samples().tensors[0][reg.stream.rows], x)
        rows.extend(reg.stream.rows.tolist())
    assert rows == [row for row in range(32) if row // 4 % 2 == rank]


@pytest.mark.distributed
def test_two_ranks_equal_one_process_and_resume(tmp_path):
    two_ranks(run, tmp_path)
    expected, _ = plain_loop(methods(), epochs=EPOCHS)
    for name, accumulate in SETTINGS:
        for rank in (0, 1):
            found = torch.load(tmp_path / f"{name}{accumulate}{rank}.pt")
            torch.testing.assert_close(found, expected, **close, msg=f"{name} {accumulate}")
    from tests.integrations.test_gradients import gradients, mixin, must_agree

    whole = gradients(mixin, tmp_path, 8, 1)
    for name in ("mixin1", "mixin2", "paired1", "paired2", "model2"):
        for rank in (0, 1):
            must_agree(torch.load(tmp_path / f"gradients-{name}{rank}.pt"), whole)
