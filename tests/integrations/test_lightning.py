"""Lightning's closures, accumulation and checkpoints give what the bare loop gives."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

pytest.importorskip("lightning.pytorch")

import lightning.pytorch as lightning
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import FSDPStrategy

from tests.integrations.toys import (
    CLIP,
    EPOCHS,
    KINDS,
    LR,
    Net,
    plain_loop,
    same_state,
    samples,
    several,
    weights,
)
from tether import L2SP, EarlyLearningRegularization, TetherError, prepare
from tether.integrations.lightning import TetherCallback

pytestmark = [
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*litlogger.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class Module(lightning.LightningModule):
    def __init__(self, drop=0.0, momentum=0.0):
        super().__init__()
        self.net = Net(drop)
        self.momentum = momentum
        self.seen = []
        self.validated = []

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, at):
        x, y = batch
        self.seen.append((self.tether.stream.rows, x))
        return self.tether.loss(self(x), y)

    def validation_step(self, batch, at):
        x, y = batch
        loss = self.tether.loss(self(x), y)
        self.validated.append((loss, torch.nn.functional.cross_entropy(self(x), y)))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=LR, momentum=self.momentum)


def fit(
    callback, module=None, batch=8, shuffle=False, valid=False, resume=None, n=32, workers=0,
    **changes,
):  # fmt: skip
    options = {
        "max_epochs": EPOCHS,
        "gradient_clip_val": CLIP,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    extra = changes.pop("callbacks", [])
    trainer = lightning.Trainer(callbacks=[callback, *extra], **{**options, **changes})
    module = module or prepare(Module(), callback.methods)
    loader = DataLoader(samples(n), batch_size=batch, shuffle=shuffle, num_workers=workers)
    loaders = DataLoader(samples(n), batch_size=16) if valid else None
    trainer.fit(module, loader, loaders, ckpt_path=resume)
    return module


def callback(methods, **options):
    return TetherCallback(methods, train_data=samples(), **options)


close = {"rtol": 1e-5, "atol": 1e-6}


@pytest.mark.parametrize("kind", KINDS)
def test_same_weights_and_state_as_the_bare_loop(kind):
    if kind == "inputs":
        with pytest.raises(TetherError, match="'blend' acts in transform_batch"):
            callback(KINDS[kind]())
        return
    ours = callback(KINDS[kind](), num_classes=3)
    module = fit(ours)
    expected, reg = plain_loop(KINDS[kind]())
    torch.testing.assert_close(weights(module), expected, **close)
    same_state(ours.handle, reg)


@pytest.mark.parametrize("kind", ["l2_sp", "layerwise", "elr"])
def test_four_times_two_is_eight(kind):
    tether = callback(KINDS[kind](), model="net")
    module = fit(tether, batch=4, accumulate_grad_batches=2)
    expected, reg = plain_loop(KINDS[kind]())
    torch.testing.assert_close(weights(module), expected, **close)
    assert tether.handle.step == reg.step


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_those_of_the_data_set(workers):
    loader_rows = callback(EarlyLearningRegularization())
    module = fit(loader_rows, batch=4, shuffle=True, workers=workers, limit_train_batches=5)
    assert len(module.seen) == 5 * EPOCHS
    rows = torch.cat([r for r, _ in module.seen])
    assert torch.equal(samples().tensors[0][rows], torch.cat([x for _, x in module.seen]))
    assert rows[:20].tolist() != rows[20:40].tolist()


def test_validation_is_the_plain_loss():
    module = fit(callback(several()), valid=True)
    assert len(module.validated) == 2 * EPOCHS
    for ours, plain in module.validated:
        assert torch.equal(ours, plain)
    expected, _ = plain_loop(several())
    torch.testing.assert_close(weights(module), expected, **close)


@pytest.mark.parametrize("kind", ["several", "labels"])
def test_resumed_equals_uninterrupted(kind, tmp_path):
    """From a checkpoint at an epoch's end, with dropout, momentum, shuffling and validation."""
    make = {**KINDS, "several": several}[kind]

    def run(seed=0, **changes):
        tether, module = callback(make()), Module(drop=0.3, momentum=0.9)
        torch.manual_seed(seed)
        fit(tether, module, shuffle=True, valid=True, **changes)
        return tether, module

    saver = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}", save_top_k=-1)
    whole, expected = run(callbacks=[saver], enable_checkpointing=True)
    again, module = run(seed=99, resume=str(tmp_path / "epoch=0.ckpt"))
    assert torch.equal(weights(module), weights(expected))
    same_state(again.handle, whole.handle)
    if again.handle.reference.taken:
        for name, parameter in Module().named_parameters():
            assert torch.equal(again.handle.reference[name], parameter)


def test_resumed_in_the_middle_of_an_epoch(tmp_path):
    """Lightning goes on with the remaining number of batches; epochs and counts fit."""
    saver = ModelCheckpoint(
        dirpath=tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1
    )
    fit(callback(several()), callbacks=[saver], enable_checkpointing=True)
    for step in (4, 6):
        again = callback(several())
        fit(again, Module(), resume=str(tmp_path / f"step={step}.ckpt"))
        assert again.handle.step == 4 * EPOCHS
        assert again.handle.stream.epoch == EPOCHS


def test_fitting_again_counts_from_zero():
    tether, module = callback(several()), Module()
    fit(tether, module)
    with pytest.warns(UserWarning, match="begins again"):
        fit(tether, module)
    assert tether.handle.step == 4 * EPOCHS
    assert tether.handle.stream.epoch == EPOCHS


def test_reloaded_loaders_keep_their_rows():
    module = fit(
        callback(EarlyLearningRegularization()), batch=4, shuffle=True,
        reload_dataloaders_every_n_epochs=1,
    )  # fmt: skip
    rows = torch.cat([r for r, _ in module.seen])
    assert torch.equal(samples().tensors[0][rows], torch.cat([x for _, x in module.seen]))


def test_state_loads_where_nothing_may_be_unpickled(tmp_path):
    saver = ModelCheckpoint(dirpath=tmp_path, filename="{epoch}")
    fit(callback(several()), callbacks=[saver], enable_checkpointing=True, max_epochs=1)
    saved = torch.load(tmp_path / "epoch=0.ckpt", weights_only=True)
    assert "recipe" in saved["callbacks"]["TetherCallback"]


def test_bf16():
    module = fit(callback(several()), precision="bf16-mixed")
    expected, _ = plain_loop(several())
    torch.testing.assert_close(weights(module), expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("growth", [2.0**8, 2.0**40])
def test_fp16(growth):
    """With a gradient scaler; where its scale grows too far, updates are skipped."""
    scaler = torch.amp.GradScaler("cpu", init_scale=growth)
    tether = callback(several())
    plugin = MixedPrecision("16-mixed", "cpu", scaler=scaler)
    module = fit(tether, plugins=[plugin])
    if growth == 2.0**8:
        expected, _ = plain_loop(several())
        torch.testing.assert_close(weights(module), expected, rtol=1e-2, atol=2e-3)
        assert tether.handle.step == 4 * EPOCHS
    else:
        assert tether.handle.step < 4 * EPOCHS
        assert torch.isfinite(weights(module)).all()


def test_finish_and_refusals():
    tether = callback(L2SP(), finish=True)
    fit(tether, max_epochs=1)
    with pytest.raises(TetherError, match="detached"):
        tether.handle.start_epoch()
    with pytest.raises(TetherError, match="fit begins"):
        callback(L2SP()).attached()

    class Two(Module):
        automatic_optimization = False

        def configure_optimizers(self):
            return [torch.optim.SGD(p, lr=0.1) for p in ([self.net.head.weight],) * 2]

    trainer = lightning.Trainer(
        callbacks=[callback(EarlyLearningRegularization())], accelerator="cpu", logger=False,
        enable_checkpointing=False, enable_progress_bar=False,
    )  # fmt: skip
    with pytest.raises(TetherError, match="one training loader"):
        trainer.fit(Module(), {"a": DataLoader(samples()), "b": DataLoader(samples())})
    with pytest.raises(TetherError, match="2 optimisers"):
        fit(callback(L2SP()), Two(), gradient_clip_val=None)


def test_strategies_that_replace_the_parameters_are_refused():
    trainer = SimpleNamespace(strategy=FSDPStrategy())
    with pytest.raises(TetherError, match="FSDPStrategy replaces the parameters"):
        callback(L2SP()).setup(trainer, Module(), "fit")


def test_nothing_is_left_on_the_loader_or_the_strategy():
    strategies = []

    class Look(lightning.Callback):
        def on_train_start(self, trainer, module):
            strategies.append("process_dataloader" in vars(trainer.strategy))

        def on_fit_end(self, trainer, module):
            strategies.append(trainer.strategy)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(callback(EarlyLearningRegularization()), callbacks=[Look()], max_epochs=1)
    assert strategies[0] is True
    assert "process_dataloader" not in vars(strategies[1])
