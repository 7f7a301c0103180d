"""Under the Trainer a resumed run equals an uninterrupted one; w0 is never a checkpoint's."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import TrainerCallback

from tests.integrations.test_hf import FORMS, MyTrainer, arguments, close, mixin
from tests.integrations.toys import KINDS, Dicts, Net, plain_loop, same_state, several, weights
from tether import L2SP, TetherError


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **now):
        control.should_training_stop = state.global_step == self.step


@FORMS
@pytest.mark.parametrize(("kind", "stop"), [("several", 6), ("several", 4), ("labels", 6)])
def test_resumed_equals_uninterrupted(make, kind, stop, tmp_path):
    """In the middle of an epoch and at its end, with dropout, momentum and shuffling."""
    changes = {
        "train_sampling_strategy": "random", "save_strategy": "steps", "save_steps": 2,
        "optim": "adamw_torch", "learning_rate": 0.02, "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
    }  # fmt: skip

    kinds = {**KINDS, "several": several}

    def build(folder):
        return make(tmp_path / folder, kinds[kind](), Net(drop=0.3), **changes)

    whole = build("whole")
    whole.train()
    broken = build("broken")
    broken.add_callback(StopAt(stop))
    broken.train()
    folder = tmp_path / "broken" / f"checkpoint-{stop}"
    assert (folder / "methods.safetensors").is_file()
    again = build("broken")
    torch.rand(7)
    again.train(resume_from_checkpoint=str(folder))
    assert torch.equal(weights(again.model), weights(whole.model))
    same_state(again.tether, whole.tether)


def test_resuming_without_the_methods_state_is_refused(tmp_path):
    first = mixin(tmp_path, L2SP(), save_strategy="steps", save_steps=2)
    first.train()
    folder = tmp_path / "checkpoint-4"
    (folder / "methods.safetensors").unlink()
    with pytest.raises(TetherError, match="methods.safetensors"):
        mixin(tmp_path, L2SP()).train(resume_from_checkpoint=str(folder))


def test_w0_is_what_the_model_held_before_a_checkpoint(tmp_path):
    mixin(tmp_path, L2SP(), save_strategy="steps", save_steps=2).train()
    folder = tmp_path / "checkpoint-4"
    again = mixin(tmp_path, L2SP(weight=0.01), num_train_epochs=6)
    with pytest.warns(UserWarning, match="resuming"):
        again.train(resume_from_checkpoint=str(folder))
    start = Net()
    for name, parameter in start.named_parameters():
        assert torch.equal(again.tether.reference[name], parameter)
    trained = Net()
    trained.load_state_dict(again.model.state_dict())
    with pytest.raises(TetherError, match="other weights"):
        mixin(tmp_path, L2SP(weight=0.01), trained).train(resume_from_checkpoint=str(folder))


@pytest.mark.parametrize("times", [1, 2])
def test_models_made_by_model_init(times, tmp_path):
    trainer = MyTrainer(
        model_init=lambda trial=None: Net(),
        args=arguments(tmp_path),
        train_dataset=Dicts(),
        tether_methods=L2SP(0.1),
    )
    for _ in range(times):
        trainer.train()
    expected, _ = plain_loop(KINDS["l2_sp"]())
    torch.testing.assert_close(weights(trainer.model), expected, **close)
