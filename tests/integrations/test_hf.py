"""The Trainer of transformers gives what the bare loop gives, and resumes where it broke off."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import Trainer, TrainingArguments
from transformers.modeling_outputs import SequenceClassifierOutput

from tests.integrations.toys import (
    CLIP,
    EPOCHS,
    KINDS,
    LR,
    Dicts,
    Net,
    plain_loop,
    prepared_net,
    same_state,
    samples,
    several,
    weights,
)
from tether import (
    L2SP,
    EarlyLearningRegularization,
    FeatureNormPenalty,
    TetherError,
)
from tether.catalogue import KINDS as ALL_KINDS
from tether.integrations.hf import TetherMixin, hf_pair


class MyTrainer(TetherMixin, Trainer):
    pass


def arguments(folder, **changes):
    options = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_train_epochs": EPOCHS,
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": CLIP,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 0,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
    }
    return TrainingArguments(**{**options, **changes})


def mixin(folder, methods, model=None, data=None, options=None, trainer=None, **changes):
    return MyTrainer(
        model=model or prepared_net(methods), args=arguments(folder, **changes),
        train_dataset=data or Dicts(),
        tether_methods=methods, tether_options=options, **(trainer or {}),
    )  # fmt: skip


def paired(folder, methods, model=None, data=None, options=None, **changes):
    options = {"train_data": samples(), **(options or {})}
    changes.setdefault("label_names", ["labels"])
    loss, callback = hf_pair(methods, **options)
    trainer = Trainer(
        model=model or prepared_net(methods), args=arguments(folder, **changes),
        train_dataset=data or Dicts(), compute_loss_func=loss, callbacks=[callback],
    )  # fmt: skip
    trainer.tether = callback.handle
    return trainer


FORMS = pytest.mark.parametrize("make", [mixin, paired])
close = {"rtol": 1e-5, "atol": 1e-6}


@FORMS
@pytest.mark.parametrize("kind", KINDS)
def test_same_weights_and_state_as_the_bare_loop(make, kind, tmp_path):
    if make is paired and kind == "inputs":
        with pytest.raises(TetherError, match="'blend' acts in transform_batch.*TetherMixin"):
            make(tmp_path, KINDS[kind]())
        return
    trainer = make(tmp_path, KINDS[kind]())
    trainer.train()
    expected, reg = plain_loop(KINDS[kind]())
    torch.testing.assert_close(weights(trainer.model), expected, **close)
    same_state(trainer.tether, reg)


def test_every_kind_of_method_is_among_them():
    assert {method.info.kind for make in KINDS.values() for method in make()} == set(ALL_KINDS)


@FORMS
@pytest.mark.parametrize("kind", ["l2_sp", "layerwise", "elr"])
def test_four_times_two_is_eight(make, kind, tmp_path):
    trainer = make(
        tmp_path, KINDS[kind](), per_device_train_batch_size=4, gradient_accumulation_steps=2
    )
    trainer.train()
    expected, reg = plain_loop(KINDS[kind]())
    torch.testing.assert_close(weights(trainer.model), expected, **close)
    assert trainer.tether.step == reg.step


@FORMS
def test_a_short_micro_batch_counts_by_its_samples(make, tmp_path):
    """14 samples: 8, then 4 + 2; the last two updates of a batch size of 8 are 8 and 6."""
    results = []
    for size, steps in ((8, 1), (4, 2)):
        trainer = make(
            tmp_path, L2SP(weight=0.1), data=Dicts(14), options={"train_data": samples(14)},
            per_device_train_batch_size=size, gradient_accumulation_steps=steps,
        )  # fmt: skip
        trainer.train()
        results.append(weights(trainer.model))
    torch.testing.assert_close(*results, **close)


class Greedy(Net):
    """Takes any keyword and ignores the number of items, as stock classifiers do."""

    def forward(self, x, labels=None, **kwargs):
        logits = super().forward(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


@pytest.mark.parametrize("loss", ["cross_entropy", "model"])
@pytest.mark.parametrize("kind", ["none", "layerwise", "norm"])
def test_a_model_that_takes_any_keyword(loss, kind, tmp_path):
    kinds = {**KINDS, "norm": lambda: [FeatureNormPenalty(weight=0.1)]}
    trainer = mixin(
        tmp_path, kinds[kind](), Greedy(), options={"loss": loss},
        per_device_train_batch_size=4, gradient_accumulation_steps=2,
    )  # fmt: skip
    trainer.train()
    expected, _ = plain_loop(kinds[kind]())
    torch.testing.assert_close(weights(trainer.model), expected, **close)
    assert "task" in trainer.tether.parts


def test_the_loss_of_a_model_with_several_outputs(tmp_path):
    class SpansForQuestionAnswering(Net):
        def forward(self, x, start_positions, end_positions):
            logits = super().forward(x)
            loss = nn.functional.cross_entropy(logits, start_positions)
            return {"loss": loss, "start_logits": logits, "end_logits": -logits}

    x, y = samples().tensors
    rows = [{"x": a, "start_positions": b, "end_positions": b} for a, b in zip(x, y, strict=True)]
    with pytest.raises(TetherError, match="start_positions, end_positions"):
        mixin(tmp_path, L2SP(weight=0.1), SpansForQuestionAnswering(), rows)
    trainer = mixin(
        tmp_path, L2SP(weight=0.1), SpansForQuestionAnswering(), rows, {"loss": "model"}
    )
    trainer.train()
    expected, _ = plain_loop(KINDS["l2_sp"]())
    torch.testing.assert_close(weights(trainer.model), expected, **close)


def test_the_models_own_loss_refuses_by_name(tmp_path):
    refused = {
        "elr": "elr",
        "labels": "self_label_correction",
        "classes": "class_weights",
        "inputs": "blend",
    }
    for methods, name in ((KINDS[kind](), name) for kind, name in refused.items()):
        with pytest.raises(TetherError, match=name):
            mixin(tmp_path, methods, Greedy(), options={"loss": "model"})
    with pytest.raises(TetherError, match="penalty"):
        hf_pair(FeatureNormPenalty(), loss="model")
    loss, callback = hf_pair(L2SP(weight=0.1), loss="model")
    assert loss is None
    trainer = Trainer(Greedy(), arguments(tmp_path), train_dataset=Dicts(), callbacks=[callback])
    trainer.train()
    expected, _ = plain_loop(KINDS["l2_sp"]())
    torch.testing.assert_close(weights(trainer.model), expected, **close)


# -- rows ------------------------------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize(("remove", "workers"), [(True, 2), (False, 0)])
def test_rows_are_those_of_the_data_set(make, remove, workers, tmp_path):
    method = EarlyLearningRegularization()
    seen = []

    class Spy(Net):
        def forward(self, x, note=None):
            seen.append(x.detach())
            return super().forward(x)

    trainer = make(
        tmp_path, method, Spy(), remove_unused_columns=remove, dataloader_num_workers=workers,
        train_sampling_strategy="random", gradient_accumulation_steps=2,
        per_device_train_batch_size=4, num_train_epochs=2,
    )  # fmt: skip
    rows = []
    plain = trainer.tether.loss

    def loss(logits, targets, index=None, **known):
        rows.append(index)
        return plain(logits, targets, index=index, **known)

    trainer.tether.loss = loss
    trainer.train()
    rows, x = torch.cat(rows), torch.cat(seen)
    assert sorted(rows.tolist()) == sorted([*range(32), *range(32)])
    assert rows[:32].tolist() != list(range(32))
    assert torch.equal(samples().tensors[0][rows], x)


def test_a_data_set_of_another_size_is_refused(tmp_path):
    trainer = mixin(tmp_path, EarlyLearningRegularization(), options={"train_data": samples(16)})
    with pytest.raises(TetherError, match="32 samples, train_data has 16"):
        trainer.train()


def test_data_sets_of_the_datasets_package(tmp_path):
    datasets = pytest.importorskip("datasets")
    x, y = samples().tensors
    data = datasets.Dataset.from_dict(
        {"x": x.tolist(), "label": y.tolist(), "text": ["word"] * len(y)}
    )
    trainer = mixin(tmp_path, several(), data=data)
    trainer.train()
    expected, _ = plain_loop(several())
    torch.testing.assert_close(weights(trainer.model), expected, **close)


# -- the rest of the Trainer -----------------------------------------------------------------------


@FORMS
@pytest.mark.parametrize("model", [Net, Greedy])
def test_evaluation_is_the_plain_loss(make, model, tmp_path):
    if make is paired and model is Net:
        pytest.skip("the Trainer itself takes dicts only: it would drop the first row of a tensor")
    trainer = make(tmp_path, several(), model())
    trainer.train()
    before = trainer.tether.state_dict()["methods"]
    found = trainer.evaluate(Dicts())
    x, y = samples().tensors
    with torch.no_grad():
        logits = trainer.model.eval()(x)
        logits = getattr(logits, "logits", logits)
        expected = nn.functional.cross_entropy(logits, y).item()
    assert found["eval_loss"] == pytest.approx(expected, rel=1e-5)
    assert trainer.predict(Dicts()).predictions.shape == (32, 3)
    after = trainer.tether.state_dict()["methods"]
    for name, state in before.items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(value), torch.as_tensor(after[name][key]))


@FORMS
def test_bf16_and_compile(make, tmp_path, monkeypatch):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    trainer = make(
        tmp_path, several(), Greedy(), bf16=True,
        torch_compile=True, torch_compile_backend="eager",
    )  # fmt: skip
    trainer.train()
    assert torch.isfinite(weights(trainer.model)).all()
    assert sum(torch._dynamo.utils.counters["graph_break"].values()) == 0
    exact, _ = plain_loop(several())
    torch.testing.assert_close(weights(trainer.model), exact, rtol=0.1, atol=0.05)


def test_finish_detaches(tmp_path):
    model = Net()
    trainer = MyTrainer(
        model, arguments(tmp_path), train_dataset=Dicts(), tether_methods=several(),
        tether_finish=True,
    )  # fmt: skip
    trainer.train()
    assert trainer.tether.seam.optimizer is None
    with pytest.raises(TetherError, match="detached"):
        trainer.train()
    loss, callback = hf_pair(several(), train_data=samples(), finish=True)
    bare = Net()
    Trainer(
        bare, arguments(tmp_path, label_names=["labels"]), train_dataset=Dicts(),
        compute_loss_func=loss, callbacks=[callback],
    ).train()  # fmt: skip
    for each in (*model.modules(), *bare.modules()):
        assert not each._forward_pre_hooks
        assert not each._forward_hooks


@FORMS
def test_training_again_counts_from_zero(make, tmp_path):
    trainer = make(tmp_path, several())
    trainer.train()
    with pytest.warns(UserWarning, match="begins again"):
        trainer.train()
    assert trainer.tether.step == 4 * EPOCHS
    assert trainer.tether.stream.epoch == EPOCHS


def test_a_schedule_runs_over_the_trainers_updates(tmp_path):
    seen = []

    def curve(progress):
        seen.append(progress)
        return 0.1

    mixin(tmp_path, L2SP(weight=curve)).train()
    assert seen[-12:] == [step / 12 for step in range(12)]


def test_what_would_go_wrong_in_silence_is_refused(tmp_path):
    configured = Net()
    configured.config = SimpleNamespace()  # the Trainer reads it where labels are smoothed
    with pytest.raises(TetherError, match="label_smoothing"):
        mixin(tmp_path, L2SP(), configured, label_smoothing_factor=0.1)
    with pytest.raises(TetherError, match="auto_find_batch_size"):
        mixin(tmp_path, L2SP(), auto_find_batch_size=True)
    with pytest.raises(TetherError, match="compute_loss_func"):
        mixin(tmp_path, L2SP(), trainer={"compute_loss_func": lambda o, y, **k: o.sum()})
    _, callback = hf_pair(L2SP())
    late = Trainer(Greedy(), arguments(tmp_path), train_dataset=Dicts())
    late.add_callback(callback)
    with pytest.raises(TetherError, match="callbacks="):
        late.train()


def test_language_models_are_told_the_next_token(tmp_path):
    """``token_cross_entropy`` on labels equal to the inputs is the model's own shifted loss."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=16,
    )  # fmt: skip
    g = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 16, (8, 6), generator=g)
    labels = tokens.clone()
    labels[:4, 3:] = -100  # rows of unequal length
    rows = [{"input_ids": t, "labels": y} for t, y in zip(tokens, labels, strict=True)]
    results = []
    for loss in (None, "model", "token_cross_entropy", "pair"):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
        options = {
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
            "num_train_epochs": 1,
        }  # fmt: skip
        if loss is None:
            trainer = Trainer(model, arguments(tmp_path, **options), train_dataset=rows)
        elif loss == "pair":
            given = {"loss": "token_cross_entropy", "train_data": None}
            trainer = paired(tmp_path, [], model, rows, given, **options)
        else:
            trainer = mixin(tmp_path, [], model, rows, {"loss": loss}, **options)
        trainer.train()
        results.append(weights(model))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-5)
