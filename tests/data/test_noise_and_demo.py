import numpy as np
import pytest

from tether.data import describe, load_data
from tether.data.keyed import KeyedDataset
from tether.demo.task import noisy_task
from tether.errors import ConfigError

from .makers import config, image_folder, texts


def test_only_training_labels_become_wrong(tmp_path):
    path = texts(tmp_path / "d.csv", list("abcd") * 25)
    plain, noisy = load_data(config(path)), load_data(config(path, noise="symmetric:0.4"))
    train = noisy.tables["train"]
    assert (train.true_labels == plain.tables["train"].labels).all()
    assert (train.labels != train.true_labels).mean() == noisy.noise["realised_rate"] == 0.4
    assert noisy.noise["name"] == "symmetric" and noisy.noise["rate"] == 0.4
    assert np.shape(noisy.noise["transition"]) == (4, 4)
    assert (noisy.tables["validation"].labels == plain.tables["validation"].labels).all()
    assert noisy.fingerprints == plain.fingerprints
    assert any("40.0% of the training labels are wrong" in line for line in describe(noisy))
    other = load_data(config(path, noise="symmetric:0.4", seed=7))
    assert (other.tables["train"].labels != train.labels).any()


@pytest.mark.parametrize("name", ["pair", "class_agnostic", "instance"])
def test_other_protocols(tmp_path, name):
    image_folder(tmp_path, {"a": 20, "b": 20, "c": 20})
    source = load_data(config(tmp_path, noise=f"{name}:0.5"))
    train = source.tables["train"]
    wrong = (train.labels != train.true_labels).mean()
    assert wrong == pytest.approx(source.noise["realised_rate"]) and 0.2 < wrong < 0.7


def test_several_labels_keep_their_frequency(tmp_path):
    path = texts(tmp_path / "d.csv", ["a;b", "a", "c", ""] * 50)
    source = load_data(config(path, noise="symmetric:0.3"))
    train = source.tables["train"]
    assert train.labels.dtype == np.float32 and (train.labels != train.true_labels).any()
    np.testing.assert_allclose(train.labels.sum(0), train.true_labels.sum(0), atol=2)


@pytest.mark.parametrize(
    ("labels", "noise", "message"),
    [
        ("ab", "symetric:0.4", "did you mean 'symmetric'"),
        ("ab", "symmetric", "needs a rate"),
        ("ab", "asymmetric:0.4", "use asymmetric_cifar10"),
        ("ab", "auxiliary", "another network"),
        ("ab", "instance:0.4", "not texts"),
        ("ab", "asymmetric_cifar10:0.4", "option noise"),
        (["a;b", "b"], "pair:0.4", "only symmetric"),
        ([0.5, 1.5], "symmetric:0.4", "labels are numbers"),
    ],
)
def test_noise_that_does_not_fit(tmp_path, labels, noise, message):
    path = texts(tmp_path / "d.csv", list(labels) * 10)
    with pytest.raises(ConfigError, match=message):
        load_data(config(path, noise=noise))


def test_the_digits_are_those_of_the_demo():
    source = load_data(config("demo:digits", seed=3))
    task = noisy_task(3)
    train = source.tables["train"]
    assert source.kind == "vector" and source.class_names == list("0123456789")
    np.testing.assert_array_equal(np.stack(train.inputs), task.train.tensors[0].numpy())
    np.testing.assert_array_equal(train.labels, task.noisy.labels.numpy())
    np.testing.assert_array_equal(train.true_labels, task.noisy.true.numpy())
    assert source.noise["realised_rate"] == task.noisy.rate and source.noise["seed"] == 3
    held_out = [source.tables[s] for s in ("validation", "test")]
    assert sum(map(len, held_out)) == len(task.test)
    shares = [np.bincount(t.labels) for t in held_out]
    np.testing.assert_allclose(shares[0] / (shares[0] + shares[1]), 0.2, atol=0.03)
    assert not set(held_out[0].ids) & set(held_out[1].ids)
    assert train.inputs[0].dtype == np.float32 and train.inputs[0].shape == (64,)
    again = load_data(config("demo:digits", seed=3))
    assert again.fingerprints == source.fingerprints
    item = KeyedDataset(train, lambda row: {"x": row}, seed=0, train=True)[0]
    assert item["labels"] == train.labels[0]


def test_few_digits_and_options_on_them():
    source = load_data(config("demo:digits-few", seed=3, shots=4, noise="symmetric:0.5"))
    train = source.tables["train"]
    assert np.bincount(train.true_labels).tolist() == [4] * 10
    assert (train.labels != train.true_labels).sum() == 20
    with pytest.raises(ConfigError, match="use demo:digits-few"):
        load_data(config("demo:digits", seed=3, noise="pair:0.1"))
    with pytest.raises(ConfigError, match="'demo:digit' is unknown.*did you mean 'digits'"):
        load_data(config("demo:digit"))
    with pytest.raises(ConfigError, match="option label_column"):
        load_data(config("demo:digits", label_column="x"))
    with pytest.raises(ConfigError, match="option task"):
        load_data(config("demo:digits", task="regression"))
