"""Methods that mix samples train under the Trainer as they do in the bare loop."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from tests.integrations.test_hf import close, mixin
from tests.integrations.toys import plain_loop, samples, weights
from tether import L2SP, AdaMixup, DecoupledMixup, EarlyLearningRegularization, LabelSmoothing

RECIPES = {
    "with elr": lambda: [
        DecoupledMixup(0.3, alpha=1.0), EarlyLearningRegularization(), LabelSmoothing(), L2SP(0.1),
    ],
    "more rows": lambda: [AdaMixup()],
}  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_trainer_mixes_as_the_bare_loop_does(recipe, tmp_path):
    trainer = mixin(tmp_path, RECIPES[recipe](), options={"train_data": samples()})
    trainer.train()
    expected, _ = plain_loop(RECIPES[recipe]())
    torch.testing.assert_close(weights(trainer.model), expected, **close)
