"""Features that are kept, and the small networks on them."""

import numpy as np
import pytest
import torch

from tests.models.tiny import bert_folder
from tests.tuning.toys import image_folder, settings, text_file
from tether.data.cache import cached
from tether.errors import ConfigError
from tether.models import load_exported, load_model
from tether.models.features import cache_features, features_of
from tether.models.predict import run_model
from tether.tuning.assembly import assemble
from tether.tuning.config import load_config
from tether.tuning.job import tune


def test_features_are_what_the_head_sees(tmp_path):
    config = load_config(settings(image_folder(tmp_path / "images", 6), tmp_path / "run"))
    folder = cache_features(config, tmp_path / "features")
    made = assemble(config)
    again = assemble(load_config({
        **settings(folder, tmp_path / "probe", model="tether:linear", image_size=0),
        "model_args": {},
    }))  # fmt: skip
    for split, table in made.source.tables.items():
        other = again.source.tables[split]
        assert list(table.ids) == list(other.ids)
        rows = np.stack(other.inputs)
        head = made.loaded.model.get_submodule(made.loaded.head)
        logits = head(torch.tensor(rows)).detach().numpy()
        assert np.allclose(logits, run_model(made.loaded, table, batch_size=7), atol=1e-5)


def test_a_perceptron_on_sentence_features_is_a_run_like_any(tmp_path):
    encoder = bert_folder(tmp_path / "bert")
    config = load_config(
        settings(text_file(tmp_path / "t.csv"), tmp_path / "run", model=str(encoder), model_args={})
    )
    config.image_size = 0
    folder = cache_features(config, tmp_path / "features")
    given = cached(config, folder, "single_label", true=False)
    given.model, given.model_args = "tether:mlp", {"hidden": 16}
    given.noise, given.methods, given.epochs = "symmetric:0.2", ["elr"], 2
    result = tune(given)
    assert set(result.last) == {"validation"}
    loaded = load_exported(tmp_path / "run" / "model")
    assert len(loaded.model.layers) == 2
    assert loaded.class_names == ["number", "person", "place"]


def test_a_head_that_sees_tokens_gives_the_first():
    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head = torch.nn.Linear(3, 2)

        def forward(self, x):
            return self.head(x.reshape(-1, 2, 3))[:, 0]

    from tether.data.table import Table
    from tether.models.spec import LoadedModel

    rows = np.arange(18, dtype=np.float32).reshape(3, 6)
    loaded = LoadedModel(Tokens(), "plain", "t", "vector", "x", "head", lambda _: None, "")
    assert (features_of(loaded, Table(list(rows), None, ["a", "b", "c"]), 2) == rows[:, :3]).all()


@pytest.mark.parametrize(
    ("model", "args", "message"),
    [
        ("tether:mlp", {"hiden": 3}, "has no model_args 'hiden'.*'hidden'"),
        ("tether:mlp", {"layers": 0}, "layers=0: a whole number, at least 1"),
        ("tether:mlp", {"dropout": 1.0}, "dropout=1.0"),
        ("tether:linear", {"hidden": 3}, "takes no model_args"),
    ],
)
def test_perceptrons_refuse(tmp_path, model, args, message):
    from tether.data import load_data

    config = load_config({"model": model, "data": "demo:digits", "model_args": args})
    with pytest.raises(ConfigError, match=message):
        load_model(config, load_data(config))


def test_sentence_features_are_the_mean_over_the_tokens(tmp_path):
    config = load_config(settings(
        text_file(tmp_path / "t.csv"), tmp_path / "run", model=str(bert_folder(tmp_path / "bert")),
        model_args={}, image_size=0,
    ))  # fmt: skip
    made = assemble(config)
    table = made.source.tables["train"]
    found = features_of(made.loaded, table, 5)
    batch = made.collate([made.plain[3]])
    batch.pop("labels")
    hidden = made.loaded.model.eval().bert(**batch)[0]
    assert np.allclose(found[3], hidden[0].mean(0).detach().numpy(), atol=1e-5)
