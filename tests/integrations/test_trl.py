"""TRL's SFTTrainer with the mixin and the pair: its own course without methods."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("datasets")
pytest.importorskip("trl")

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from tests.integrations.toys import weights
from tether import L2SP, FeatureNormPenalty
from tether.integrations.hf import TetherMixin, hf_pair

WORDS = [f"w{at}" for at in range(14)]


class MySFTTrainer(TetherMixin, SFTTrainer):
    pass


def tokenizer():
    ids = {word: at for at, word in enumerate(["<pad>", "<eos>", *WORDS])}
    plain = Tokenizer(models.WordLevel(ids, unk_token="<eos>"))
    plain.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="<eos>")


def texts():
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(14, (5 + row % 3,), generator=draw).tolist() for row in range(24)]
    return Dataset.from_dict({"text": [" ".join(WORDS[at] for at in row) for row in rows]})


def train(form, folder, batch=8, accumulate=1, methods=(), loss="token_cross_entropy"):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16,
        pad_token_id=0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    given = {
        "model": LlamaForCausalLM(config), "train_dataset": texts(),
        "processing_class": tokenizer(),
        "args": SFTConfig(
            output_dir=str(folder), per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulate, num_train_epochs=1, learning_rate=0.1,
            optim="sgd", lr_scheduler_type="constant", report_to="none", disable_tqdm=True,
            use_cpu=True, bf16=False, max_length=16, save_strategy="no", logging_strategy="no",
            gradient_checkpointing=False, train_sampling_strategy="sequential",
        ),
    }  # fmt: skip
    if form == "mixin":
        options = {"loss": loss}
        trainer = MySFTTrainer(**given, tether_methods=list(methods), tether_options=options)
    elif form == "paired":
        function, callback = hf_pair(list(methods), loss=loss)
        trainer = SFTTrainer(**given, compute_loss_func=function, callbacks=[callback])
    else:
        trainer = SFTTrainer(**given)
    trainer.train()
    return weights(trainer.model)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("loss", ["token_cross_entropy", "model"])
@pytest.mark.parametrize("form", ["mixin", "paired"])
def test_without_methods_it_is_its_own_course(form, loss, accumulate, tmp_path):
    found = train(form, tmp_path, 8 // accumulate, accumulate, loss=loss)
    torch.testing.assert_close(found, train("plain", tmp_path), rtol=1e-5, atol=1e-6)


def test_methods_act(tmp_path):
    plain = train("plain", tmp_path)
    far = [train(form, tmp_path, methods=[L2SP(1.0)]) for form in ("mixin", "paired")]
    assert (far[0] - plain).abs().max() > 1e-4
    torch.testing.assert_close(far[1], far[0], rtol=1e-5, atol=1e-6)
    both = [
        train(form, tmp_path, methods=[L2SP(1.0), FeatureNormPenalty(0.1)])
        for form in ("mixin", "paired")
    ]
    assert (both[0] - far[0]).abs().max() > 1e-4
    torch.testing.assert_close(both[1], both[0], rtol=1e-5, atol=1e-6)
