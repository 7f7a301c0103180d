"""What methods ask for with each batch arrives in every loop, and never at the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate

import tether
from tests.integrations.kinds import Blend
from tests.integrations.toys import EPOCHS, LR, Net, samples, weights
from tether import L2SP, AdaRand, Method, TetherError, catalogue, register
from tether.catalogue import ENTRIES, method_info

close = {"rtol": 1e-5, "atol": 1e-6}


def outputs(extras, forward):
    """What stands for an entry in the loss of a toy."""
    if "views" in extras:
        assert len(extras["views"]) == 2
        return sum(
            (forward(**view) if isinstance(view, dict) else forward(view)).logits
            for view in extras["views"]
        )
    if "unlabelled_views" in extras:
        assert len(extras["unlabelled_views"]) == 2
        return sum(forward(view).logits.mean(0) for view in extras["unlabelled_views"])
    if "unlabelled" in extras:
        return forward(**extras["unlabelled"]).logits.mean(0)
    if "pairs" in extras:
        sides = extras["pairs"]
        return forward(sides["chosen"]).logits.mean(0) - forward(sides["rejected"]).logits.mean(0)
    return extras["domains"][:, None].float()


class Asking(Method):
    """Near what its entry gives."""

    def __init__(self, weight: float = 0.3) -> None:
        self.weight = weight

    def setup(self, ctx):
        self.got = []

    def penalty(self, batch):
        self.got.append(batch.extras)
        return (batch.logits - outputs(batch.extras, self.ctx.forward)).square().mean()


@pytest.fixture(params=ENTRIES)
def need(request):
    """A need; a method that has it is registered for as long as the test runs."""
    name = f"asking_{request.param}"
    cls = type(f"Asking{request.param.title()}", (Asking,), {"__doc__": Asking.__doc__})
    register(name, kind="features", needs=(request.param,), views=3)(cls)
    yield request.param
    del catalogue._METHODS[name]


def asking(need):
    return tether.create_method(f"asking_{need}")


class Sided(torch.utils.data.Dataset):
    """The samples with what a data layer adds to each."""

    def __init__(self, need, n=32):
        self.need, (self.x, self.y) = need, samples(n).tensors

    def __len__(self):
        return len(self.y)

    def __getitem__(self, row):
        item = {"x": self.x[row], "labels": int(self.y[row])}
        if self.need == "views":
            item["views"] = [self.x[row].flip(0), -self.x[row]]
        elif self.need == "domains":
            item["domains"] = row % 3
        return item


class Collate:
    """The batch's own entries; a class, since worker processes and checkpoints copy it."""

    def __init__(self, need):
        self.need = need

    def __call__(self, items):
        batch = default_collate(items)
        if self.need == "unlabelled":
            batch["unlabelled"] = {"x": batch["x"].flip(-1)[:5]}
        elif self.need == "unlabelled_views":
            batch["unlabelled_views"] = torch.stack([batch["x"].flip(-1)[:5], batch["x"][:5]])
        elif self.need == "pairs":
            batch["pairs"] = {"chosen": batch["x"][:3], "rejected": batch["x"][3:6]}
        return batch


def loader(need, batch=8):
    return DataLoader(Sided(need), batch_size=batch, collate_fn=Collate(need))


def bare(need, methods, epochs=EPOCHS, accelerator=None):
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    data = loader(need)
    options = {"train_data": data, "epochs": epochs}
    if accelerator is None:
        reg = tether.attach(model, methods, optimizer, **options)
    else:
        from tether.integrations.accelerate import attach_prepared

        model, optimizer, data = accelerator.prepare(model, optimizer, data)
        reg = attach_prepared(accelerator, model, methods, optimizer, **options)
    for _ in range(epochs):
        for batch in reg.batches(data):
            loss = reg.loss(model(batch["x"]), batch["labels"], **{need: batch[need]})
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return weights(model)


# -- the bare loop ---------------------------------------------------------------------------------


def test_it_is_passed_to_the_loss_and_asked_for_by_name(need):
    model, method = Net(), asking(need)
    reg = tether.attach(model, method)
    batch = next(iter(loader(need)))
    logits = model(batch["x"])
    given = {need: batch[need]}
    reg.loss(logits, batch["labels"], **given)
    assert set(method.got[0]) == {need}
    for missing in ({}, {need: None}):
        with pytest.raises(TetherError, match=rf"'asking_{need}' needs .*reg.loss\(.*{need}="):
            reg.loss(logits, batch["labels"], **missing)
    model.eval()
    plain = nn.functional.cross_entropy(logits, batch["labels"])
    assert torch.equal(reg.loss(logits, batch["labels"]), plain)
    assert torch.equal(reg.loss(logits, batch["labels"], **given), plain)


def test_domains_are_whole_numbers_one_a_row():
    class Domains(Asking):
        pass

    Domains.info = catalogue.MethodInfo("domains", Domains, "features", needs=("domains",))
    model, method = Net(), Domains()
    reg = tether.attach(model, method)
    logits, y = model(torch.zeros(4, 6)), torch.zeros(4, dtype=torch.int64)
    reg.loss(logits, y, domains=[0, 1, 2, 1])
    assert method.got[0]["domains"].dtype is torch.int64
    for bad in (torch.zeros(3).long(), torch.zeros(4), torch.zeros(4, 1).long()):
        with pytest.raises(TetherError, match="one whole number a row"):
            reg.loss(logits, y, domains=bad)


def test_views_come_one_by_one_and_there_must_be_enough():
    class Views(Asking):
        pass

    Views.info = catalogue.MethodInfo("views", Views, "features", needs=("views",), views=3)
    model, method = Net(), Views()
    reg = tether.attach(model, method)
    x, y = torch.randn(2, 4, 6), torch.zeros(4, dtype=torch.int64)
    for form in (x, list(x), tuple(x)):
        reg.loss(model(x[0]), y, views=form)
        assert all(torch.equal(a, b) for a, b in zip(method.got[-1]["views"], x, strict=True))
    reg.loss(model(x[0]), y, views={"x": x})
    assert [set(view) for view in method.got[-1]["views"]] == [{"x"}, {"x"}]
    with pytest.raises(TetherError, match="'views' works on 3 views .* 2 beside .* not 1"):
        reg.loss(model(x[0]), y, views=x[:1])


def test_the_record_counts_views():
    with pytest.raises(ValueError, match="at least 2"):
        register("one_view", kind="features", needs=("views",), views=1)(Asking)
    assert method_info("l2_sp").views == 2


def test_methods_that_change_batches_see_it_and_pass_it_on():
    """Rows are reversed, and their domains with them; the model is not given them."""

    class Reverse(Method):
        def transform_batch(self, batch):
            assert set(batch.kwargs) == {"x"}
            batch.kwargs = {"x": batch.kwargs["x"].flip(0)}
            batch.extras["domains"] = batch.extras["domains"].flip(0)
            batch.targets = batch.targets.flip(0)
            return batch

    class Domains(Asking):
        pass

    for cls in (Reverse, Domains):
        needs = ("domains",)
        cls.info = catalogue.MethodInfo(cls.__name__.lower(), cls, "features", needs=needs)
    model, method = Net(), Domains()
    reg = tether.attach(model, [method, Reverse()], torch.optim.SGD(model.parameters(), lr=LR))
    batch = next(reg.batches(loader("domains")))
    assert batch["domains"].tolist() == [1, 0, 2, 1, 0, 2, 1, 0]
    assert torch.equal(batch["x"], samples().tensors[0][:8].flip(0))


# -- the page --------------------------------------------------------------------------------------


def test_the_page_of_a_method_shows_it_in_a_loop_that_runs(need, monkeypatch):
    pytest.importorskip("sphinx")
    from tests.markdown import ROOT

    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    from method_pages import loop_example, method_page

    info = method_info(f"asking_{need}")
    page = method_page(info, [])
    assert f"with each batch: `{need}=`" in page
    assert ("3 of a sample" in page) == (need == "views")
    lines = [line for line in loop_example(info) if "```" not in line]
    code = "\n".join(line for line in lines if not line.startswith("from "))
    model = Net()
    names = {
        info.cls.__name__: info.cls, "model": model, "loader": loader(need), "epochs": 1,
        "train_set": Sided(need), "optimizer": torch.optim.SGD(model.parameters(), lr=LR),
    }  # fmt: skip
    exec(code, names)
    assert torch.isfinite(names["loss"])
    torch.testing.assert_close(weights(model), bare(need, asking(need), epochs=1), **close)


# -- frameworks ------------------------------------------------------------------------------------


def trainer_of(make, need, folder, methods, **changes):
    from tests.integrations import test_hf

    build = {"mixin": test_hf.mixin, "paired": test_hf.paired}[make]
    if make == "mixin":  # the Trainer's constructor has the collator
        return test_hf.MyTrainer(
            model=Net(), args=test_hf.arguments(folder, max_grad_norm=0.0, **changes),
            train_dataset=Sided(need), data_collator=Collate(need), tether_methods=methods,
        )  # fmt: skip
    trainer = build(
        folder, methods, data=Sided(need), max_grad_norm=0.0, remove_unused_columns=False,
        options={"train_data": loader(need)}, **changes,
    )  # fmt: skip
    trainer.data_collator = Collate(need)
    return trainer


@pytest.mark.parametrize("make", ["mixin", "paired"])
def test_the_trainer_takes_it_out_before_the_forward(make, need, tmp_path):
    """Beside a method with a statistics pass; the bare loop gives the same weights."""
    pytest.importorskip("transformers")
    recipe = [asking(need), AdaRand()]
    trainer = trainer_of(make, need, tmp_path, recipe)
    trainer.train()
    expected = bare(need, [asking(need), AdaRand()])
    torch.testing.assert_close(weights(trainer.model), expected, **close)
    if make == "paired":  # a model that gives bare tensors: see test_evaluation_is_the_plain_loss
        return
    before = len(recipe[0].got)
    found = trainer.evaluate(Sided(need))
    assert found["eval_loss"] > 0
    assert trainer.predict(Sided(need)).predictions.shape == (32, 3)
    unlabelled = [{k: v for k, v in Sided(need)[row].items() if k != "labels"} for row in range(8)]
    trainer.data_collator = Collate(need)
    assert trainer.predict(unlabelled).predictions is not None
    assert len(recipe[0].got) == before


def test_the_pair_refuses_a_trainer_that_drops_columns(need, tmp_path):
    pytest.importorskip("transformers")
    from tests.integrations.test_hf import paired

    with pytest.raises(TetherError, match=f"'asking_{need}' needs.*remove_unused_columns=False"):
        paired(tmp_path, asking(need))


def test_with_the_models_own_loss_and_changed_batches(tmp_path):
    pytest.importorskip("transformers")
    from tests.integrations import test_hf

    class Domains(Asking):
        pass

    Domains.info = catalogue.MethodInfo("domains", Domains, "features", needs=("domains",))
    for extra, options in (([L2SP(0.1)], {"loss": "model"}), ([Blend()], None)):
        method = Domains()
        test_hf.MyTrainer(
            model=test_hf.Greedy(), args=test_hf.arguments(tmp_path, num_train_epochs=1),
            train_dataset=Sided("domains"), tether_methods=[method, *extra],
            tether_options=options,
        ).train()  # fmt: skip
        assert torch.cat([got["domains"] for got in method.got]).tolist() == [
            row % 3 for row in range(32)
        ]


def test_columns_of_the_datasets_package(tmp_path):
    pytest.importorskip("transformers")
    datasets = pytest.importorskip("datasets")
    from tests.integrations import test_hf

    class Domains(Asking):
        pass

    Domains.info = catalogue.MethodInfo("domains", Domains, "features", needs=("domains",))
    x, y = samples().tensors
    columns = {"x": x.tolist(), "label": y.tolist(), "domains": [row % 3 for row in range(32)]}
    data = datasets.Dataset.from_dict({**columns, "text": ["word"] * 32})
    method = Domains()
    test_hf.mixin(tmp_path, method, data=data, num_train_epochs=1).train()
    found = torch.cat([got["domains"] for got in method.got]).tolist()
    assert found == columns["domains"]


def test_accelerate(need):
    accelerate = pytest.importorskip("accelerate")
    found = bare(need, asking(need), accelerator=accelerate.Accelerator(cpu=True))
    torch.testing.assert_close(found, bare(need, asking(need)), **close)


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:.*litlogger.*")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_lightning(need):
    lightning = pytest.importorskip("lightning.pytorch")
    from tether.integrations.lightning import TetherCallback

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, at):
            given = {need: batch[need]}
            return self.tether.loss(self(batch["x"]), batch["labels"], **given)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=LR)

    module = Module()
    lightning.Trainer(
        callbacks=[TetherCallback(asking(need))], max_epochs=EPOCHS, accelerator="cpu",
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, log_every_n_steps=1,
    ).fit(module, loader(need))  # fmt: skip
    torch.testing.assert_close(weights(module), bare(need, asking(need)), **close)
