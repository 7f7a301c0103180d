"""The Trainer's gradients with a stock classifier: accumulation, short windows, two ranks."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import BertConfig, BertForSequenceClassification, TrainerCallback

from tests.integrations.test_hf import mixin, paired
from tether import L2SP, ClassWeights, LabelSmoothing


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=8, num_labels=3,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config)


def texts(n: int) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    words = torch.randint(20, (n, 8), generator=draw)
    return [{"input_ids": w, "labels": w[0] % 3} for w in words]


class Keep(TrainerCallback):
    """Keeps the gradient of every update, as the optimiser gets it."""

    def __init__(self):
        self.seen = []

    def on_pre_optimizer_step(self, args, state, control, **now):
        found = [p.grad.flatten() for p in now["model"].parameters() if p.grad is not None]
        self.seen.append(torch.cat(found).clone())


def gradients(make, folder, batch, accumulate, n=24, methods=(), **options):
    """The gradient of every update of an epoch in which the weights stay as they are."""
    trainer = make(
        folder, list(methods), bert(), texts(n), options={"train_data": texts(n), **options},
        per_device_train_batch_size=batch, gradient_accumulation_steps=accumulate,
        num_train_epochs=1, learning_rate=0.0, max_grad_norm=0.0,
    )  # fmt: skip
    keep = Keep()
    trainer.add_callback(keep)
    trainer.train()
    return keep.seen


def must_agree(found, wanted):
    assert len(found) == len(wanted)
    for one, two in zip(found, wanted, strict=True):
        assert float(one.norm() / two.norm()) == pytest.approx(1.0, abs=1e-4)
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-6)


FORMS = pytest.mark.parametrize("make", [mixin, paired])


@FORMS
@pytest.mark.parametrize("n", [24, 22, 20, 18])
def test_four_times_two_is_eight(make, n, tmp_path):
    """The last window is whole, of 4 + 2, of one micro-batch, or of one that is short."""
    whole = gradients(make, tmp_path, 8, 1, n)
    assert len(whole) == 3
    must_agree(gradients(make, tmp_path, 4, 2, n), whole)


@FORMS
def test_a_number_of_micro_batches_that_is_no_power_of_two(make, tmp_path):
    whole = gradients(make, tmp_path, 6, 1, 20)
    must_agree(gradients(make, tmp_path, 2, 3, 20), whole)


@FORMS
def test_with_methods_on_targets(make, tmp_path):
    methods = [ClassWeights([1.0, 2.0, 3.0]), LabelSmoothing(0.1), L2SP(0.1)]
    whole = gradients(make, tmp_path, 8, 1, 22, methods)
    methods = [ClassWeights([1.0, 2.0, 3.0]), LabelSmoothing(0.1), L2SP(0.1)]
    must_agree(gradients(make, tmp_path, 4, 2, 22, methods), whole)


@pytest.mark.parametrize("n", [24, 20])
def test_the_models_own_loss(n, tmp_path):
    whole = gradients(mixin, tmp_path, 8, 1, n)
    must_agree(gradients(mixin, tmp_path, 4, 2, n, loss="model"), whole)
    must_agree(gradients(mixin, tmp_path, 8, 1, n, loss="model"), whole)


def test_the_trainer_is_told_and_does_not_guess(tmp_path):
    trainer = mixin(tmp_path, [], bert(), texts(8))
    assert trainer.model_accepts_loss_kwargs is False
    assert trainer.loss_is_scaled_for_ga is False
