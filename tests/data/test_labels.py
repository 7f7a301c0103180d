import numpy as np
import pytest

from tether.data import load_data
from tether.errors import ConfigError

from .makers import config, notice, table, texts


def load(tmp_path, labels, **options):
    return load_data(config(texts(tmp_path / "d.csv", labels), **options))


def of(source):
    """Row of the file -> label."""
    found = {}
    for each in source.tables.values():
        for name, label in zip(each.ids, each.labels, strict=True):
            found[int(name.split(":")[1]) - 2] = label
    return [found[row] for row in sorted(found)]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "10", "9"] * 3, ["10", "9", "a", "b"]),
        ([10, 9, -1, 0] * 3, ["-1", "0", "9", "10"]),
        (["1.0", "0.0", "12.0", "2"] * 3, ["0", "1", "2", "12"]),
        (["01", "1", "1", "01"] * 3, ["01", "1"]),
        (["<b>", "naïve", "with space", " naïve "] * 3, ["<b>", "naïve", "with space"]),
    ],
)
def test_class_names_in_order(tmp_path, labels, names):
    source = load(tmp_path, labels)
    assert (source.task, source.class_names) == ("single_label", names)
    if names[0] == "<b>":
        assert [names[i] for i in of(source)] == [label.strip() for label in labels]


def test_fractions_mean_regression(tmp_path):
    labels = [0.5, 1, 2.25, 1e-3] * 5
    source = load(tmp_path, labels)
    assert (source.task, source.class_names) == ("regression", ["label"])
    np.testing.assert_allclose(of(source), labels, rtol=1e-6)
    assert source.tables["train"].labels.dtype == np.float32
    assert source.tables["train"].labels.ndim == 1


def test_told_tasks_win(tmp_path):
    assert load(tmp_path, [1, 2, 3, 4] * 3, task="regression").task == "regression"
    assert load(tmp_path, [0.5, 1.5] * 6, task="single_label").class_names == ["0.5", "1.5"]
    assert load(tmp_path, ["a;b", "c"] * 6, task="single_label").class_names == ["a;b", "c"]
    with pytest.raises(ConfigError, match=r"d.csv:3: label column 'label' holds 'many'"):
        load(tmp_path, ["1", "many"] * 3, task="regression")


def test_a_separator_anywhere_means_several_labels(tmp_path):
    source = load(tmp_path, ["b", "a; c", "", "c"] * 5)
    assert (source.task, source.class_names) == ("multi_label", ["a", "b", "c"])
    assert [row.tolist() for row in of(source)[:4]] == [[0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 1]]
    other = load(tmp_path, ["b", "a|c"] * 5, label_separator="|")
    assert other.class_names == ["a", "b", "c"]


def test_several_columns(tmp_path):
    rows = [(f"t{i}", i % 2, "true" if i % 3 else "false", i / 7, "x") for i in range(12)]
    path = table(tmp_path / "d.csv", ["text", "sick", "old", "size", "word"], rows)
    source = load_data(config(path, label_column="sick,old"))
    assert (source.task, source.class_names) == ("multi_label", ["sick", "old"])
    assert of(source)[3].tolist() == [1, 0]
    source = load_data(config(path, label_column="sick,size"))
    assert (source.task, of(source)[7][1]) == ("regression", 1.0)
    assert source.tables["train"].labels.shape[1] == 2
    with pytest.raises(ConfigError, match="0 and 1 .* or numbers are expected"):
        load_data(config(path, label_column="sick,word"))
    with pytest.raises(ConfigError, match="one label column is expected"):
        load_data(config(path, label_column="sick,old", task="single_label"))
    with pytest.raises(ConfigError, match=r"holds '0.142857.*expects 0 or 1"):
        load_data(config(path, label_column="sick,size", task="multi_label"))


@pytest.mark.parametrize("labels", [["same"] * 6, [0.5] * 6, ["a;b"] * 6])
def test_nothing_to_learn(tmp_path, labels):
    with pytest.raises(ConfigError, match="one class|the same labels"):
        load(tmp_path, labels)


@pytest.mark.parametrize("value", ["1e400", "-1e39", "3.5e38"])
def test_numbers_that_32_bits_do_not_hold_are_problems(tmp_path, value):
    path = texts(tmp_path / "d.csv", ["0.5", "1.5", "3.4e38", value] * 4)
    with pytest.raises(ConfigError, match="4 of 16 .*too large for 32-bit numbers"):
        load_data(config(path))
    source = load_data(config(path, on_bad_sample="skip"))
    assert sum(len(t) for t in source.tables.values()) == 12
    assert all(np.isfinite(t.labels).all() for t in source.tables.values())
    assert notice(source, "large_label", "train").count == 4
