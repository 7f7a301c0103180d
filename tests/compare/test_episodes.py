"""Few-shot episodes: what is drawn, what is learnt, what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.compare.episode_spec import Episodes, read_episodes
from tether.compare.episodes import Learner, draw, interval, run_episodes, split_classes
from tether.data import load_data
from tether.data.table import DataSource, Table
from tether.errors import ConfigError
from tether.tuning.config import load_config

LABELS = np.random.default_rng(0).integers(0, 8, 400)


def digits(**more):
    return load_config({
        "model": "demo:digits", "data": "demo:digits-few", "epochs": 10, "lr": 0.01, "seed": 3,
        "device": "cpu", **more,
    })  # fmt: skip


@given(st.integers(2, 6), st.integers(1, 5), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_an_episode_has_its_shape_and_no_sample_twice(way, shot, number):
    one = draw(LABELS, range(1, 8), Episodes(way, shot, 9, queries=4), 5, number)
    assert len(set(one.classes.tolist())) == way
    assert 0 not in one.classes
    rows = np.concatenate([one.support.ravel(), one.query.ravel()])
    assert len(set(rows.tolist())) == way * (shot + 4)
    assert (LABELS[one.support] == one.classes[:, None]).all()
    assert (LABELS[one.query] == one.classes[:, None]).all()
    again = draw(LABELS, range(1, 8), Episodes(way, shot, 9, queries=4), 5, number)
    assert (again.support == one.support).all()


def test_no_class_serves_tuning_and_judging():
    source = DataSource("x", "vector", "single_label", [str(k) for k in range(11)], {})
    tune, judge = split_classes(source, 0)
    assert sorted([*tune, *judge]) == list(range(11))
    assert (split_classes(source, 1)[0] != tune).any()


def test_training_on_five_shots_tells_digits_apart_and_repeats_to_the_bit():
    config, kind = digits(), Episodes(way=3, shot=5, count=4, queries=10)
    source = load_data(config)
    found = run_episodes(config, source, kind, final=True, seed=0)
    assert found["accuracy"] > 0.75  # chance is a third
    assert found == run_episodes(config, source, kind, final=True, seed=0)
    other = run_episodes(config, source, kind, final=True, seed=1)
    assert other["episodes"] != found["episodes"]
    assert found["half_width"] == interval(found["episodes"])["half_width"]


def test_methods_act_in_episodes_and_the_network_starts_anew_each_time():
    config = digits(methods=["distance_constraint:radius=0"], lr=0.1)
    source = load_data(config)
    learner = Learner(config, source, 3)
    before = {k: v.clone() for k, v in learner.loaded.model.state_dict().items()}
    table = source.tables["test"]
    one = draw(table.labels, range(5), Episodes(3, 5, 1, queries=5), 0, 0)
    bound = learner.accuracy("test", table, one, 7)
    assert bound == learner.accuracy("test", table, one, 7)
    for name, tensor in learner.loaded.model.state_dict().items():
        assert torch.equal(tensor, before[name])
    free = Learner(digits(lr=0.1), source, 3).accuracy("test", table, one, 7)
    frozen = Learner(digits(freeze="backbone", lr=0.1), source, 3).accuracy("test", table, one, 7)
    assert (free, frozen) != (bound, bound)  # the bounds were felt


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([5], "expected"),
        ({"ways": 5}, "unknown key 'ways': did you mean 'way'"),
        ({"way": 1}, "way is a whole number, at least 2, not 1"),
        ({"shot": [1, 0]}, "shot is a whole number, at least 1, not 0"),
        ({"count": True}, "count is a whole number"),
    ],
)
def test_what_makes_no_episodes_is_refused(given, message):
    with pytest.raises(ConfigError, match=message):
        read_episodes(given)


def test_too_few_samples_are_named():
    with pytest.raises(ConfigError, match="5 classes with 90 \\+ 15 samples each.*0 of 8 classes"):
        draw(LABELS, range(8), Episodes(5, 90, 1), 0, 0)
    config = digits()
    source = load_data(config)
    source.tables = {"train": source.tables["train"]}
    with pytest.raises(ConfigError, match="no labelled test split"):
        run_episodes(config, source, Episodes(2, 1, 1), final=True, seed=0)
    texts = DataSource(
        "t", "text", "single_label", ["a", "b"], {"train": Table(["x"], None, ["0"])}
    )
    with pytest.raises(ConfigError, match="not of texts"):
        Learner(config, texts, 2)
