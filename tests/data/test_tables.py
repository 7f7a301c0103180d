import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tether.data import load_data
from tether.data.files import read_csv
from tether.data.images import open_image
from tether.errors import ConfigError

from .makers import config, image, notice, shared, table, texts


def test_a_file_of_texts(tmp_path):
    path = texts(tmp_path / "d.csv", ["pos", "neg"] * 10)
    source = load_data(config(path))
    assert (source.kind, source.task, source.class_names) == (
        "text", "single_label", ["neg", "pos"],
    )  # fmt: skip
    assert source.tables["train"].ids[0].startswith("d.csv:")
    assert {len(t) for t in source.tables.values()} == {16, 4}


def test_ids_are_the_lines_where_rows_begin(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text('text,label\n"two\nlines",1\n\nplain,0\n', encoding="utf-8")
    columns = read_csv(path)
    assert columns.ids == ["d.csv:2", "d.csv:5"]
    assert columns.get("text") == ["two\nlines", "plain"]


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_a_folder_with_a_file_for_each_split(tmp_path, ending):
    pandas = pytest.importorskip("pandas")
    for split, labels in (("train", [10, 9, 9, 10]), ("dev", [9]), ("test", [10, 10])):
        frame = pandas.DataFrame({"sentence": [f"{split} {i}\tx" for i in range(len(labels))],
                                  "label": labels})  # fmt: skip
        path = tmp_path / f"{split}.{ending}"
        if ending == "parquet":
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    source = load_data(config(tmp_path))
    assert source.class_names == ["9", "10"]  # by value
    assert source.tables["train"].labels.tolist() == [1, 0, 0, 1]
    assert source.tables["test"].labels.tolist() == [1, 1]
    assert source.tables["validation"].inputs == ["dev 0\tx"]


def test_a_tsv_whose_quotes_are_plain_signs(tmp_path):
    path = tmp_path / "d.tsv"
    path.write_text('text\tlabel\n"hello" he said\t1\n" oh\t0\nx\t1\ny\t0\n', encoding="utf-8")
    assert read_csv(path).get("text") == ['"hello" he said', '" oh', "x", "y"]


def test_semicolons_between_columns_are_seen(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("text;label\na b, c;1\nd;0\n", encoding="utf-8")
    assert read_csv(path).names == ["text", "label"]


def test_a_byte_order_mark_is_no_part_of_the_first_name(tmp_path):
    path = tmp_path / "d.csv"
    path.write_bytes("text,label\nä,1\nö,0\nü,1\né,0\n".encode("utf-8-sig"))
    assert load_data(config(path)).kind == "text"


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_bytes_that_are_not_utf8_name_the_line(tmp_path, mark):
    path = tmp_path / "d.csv"
    path.write_bytes(mark + b"text,label\nfine,1\ncaf\xe9,0\n")
    with pytest.raises(ConfigError, match=r"d.csv, line 3: byte 0xe9 is not UTF-8"):
        load_data(config(path))
    path.write_bytes("text,label\n".encode("utf-16"))
    with pytest.raises(ConfigError, match="UTF-16"):
        load_data(config(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\na,1\nb,1,2\nc\n", r"line 3: 3 fields, but the header has 2 \(and so 1"),
        ('text,label\na,1\n"b,0\nc,1\n', "line 3: unexpected end of data"),
        ("text,text,label\n", "several columns are called 'text'"),
        ("", "is empty"),
        ("text,label\n", "no training sample is left"),
        ("text,label\na,\nb,\n", "have no labels: 'label' is empty everywhere"),
    ],
)
def test_broken_files(tmp_path, text, message):
    path = tmp_path / "d.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        load_data(config(path))


def test_without_a_label_column_the_columns_are_listed(tmp_path):
    path = table(tmp_path / "d.csv", ["text", "verdict", "when"], [("a", 1, 2), ("b", 0, 3)])
    with pytest.raises(ConfigError, match="'text', 'verdict', 'when'.*--label-column"):
        load_data(config(path))
    with pytest.raises(ConfigError, match="no column 'verdct'.*did you mean 'verdict'"):
        load_data(config(path, label_column="verdct"))
    path = table(tmp_path / "e.csv", ["a", "b", "label"], [("x", "y", 1), ("z", "w", 0)])
    with pytest.raises(ConfigError, match="no column looks like texts or images.*'a', 'b'"):
        load_data(config(path))


def test_the_only_other_column_holds_the_texts(tmp_path):
    path = texts(tmp_path / "d.csv", [0, 1] * 4, header=("quote", "Target"))
    assert load_data(config(path)).tables["train"].inputs[0].startswith("text d")


def test_sentence_pairs_guessed_and_told(tmp_path):
    rows = [(f"p{i}", f"h{i}", i % 2) for i in range(8)]
    path = table(tmp_path / "d.csv", ["premise", "hypothesis", "label"], rows)
    first, second = load_data(config(path)).tables["train"].inputs[0]
    assert (first[0], second[0]) == ("p", "h") and first[1:] == second[1:]
    swapped = load_data(config(path, text_column="hypothesis, premise"))
    assert swapped.tables["train"].inputs[0] == (second, first)


def test_image_paths_start_from_the_file(tmp_path):
    for i in range(8):
        image(tmp_path / "pics" / f"ä {i}.png", i)
    rows = [(f"pics/ä {i}.png", "ab"[i % 2]) for i in range(8)]
    path = table(tmp_path / "d.csv", ["file", "label"], rows)
    source = load_data(config(path))
    assert source.kind == "image" and source.class_names == ["a", "b"]
    assert all(p.is_file() for p in source.tables["train"].inputs)
    both = table(tmp_path / "e.csv", ["file", "text", "label"], [(f, "x", y) for f, y in rows])
    with pytest.raises(ConfigError, match="say which is meant"):
        load_data(config(both))
    assert load_data(config(both, image_column="file")).kind == "image"


def test_images_inside_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    files = [image(tmp_path / f"{i}.png", i).read_bytes() for i in range(8)]
    cells = [{"bytes": data, "path": None} for data in files]
    frame = arrow.table({"image": cells, "label": [0, 1] * 4})
    pyarrow.parquet.write_table(frame, tmp_path / "data.parquet")
    source = load_data(config(tmp_path / "data.parquet"))
    assert source.kind == "image"
    assert open_image(source.tables["train"].inputs[0]).size == (12, 10)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ConfigError, match="not a parquet file"):
        load_data(config(tmp_path / "bad.parquet"))


def test_a_column_of_splits(tmp_path):
    rows = [(f"t{i}", i % 2, ("train", "val", "test")[i % 3]) for i in range(18)]
    source = load_data(config(table(tmp_path / "d.csv", ["text", "label", "split"], rows)))
    assert {s: len(t) for s, t in source.tables.items()} == {"train": 6, "validation": 6, "test": 6}


def test_test_data_may_lack_the_label_column_but_validation_may_not(tmp_path):
    texts(tmp_path / "train.csv", [0, 1] * 5)
    table(tmp_path / "test.csv", ["text"], [("x",), ("y",)])
    source = load_data(config(tmp_path))
    assert source.tables["test"].labels is None and len(source.tables["test"]) == 2
    table(tmp_path / "validation.csv", ["text"], [("x",)])
    with pytest.raises(ConfigError, match=r"validation.csv has no column 'label'"):
        load_data(config(tmp_path))


def test_domains(tmp_path):
    rows = [(f"t{i}", i % 2, "night" if i < 12 else "day") for i in range(20)]
    path = table(tmp_path / "d.csv", ["text", "label", "where"], rows)
    source = load_data(config(path, domain_column="where"))
    assert source.domain_names == ["day", "night"]
    train = source.tables["train"]
    for name, domain in zip(train.ids, train.domains, strict=True):
        assert source.domain_names[domain] == rows[int(name.split(":")[1]) - 2][2]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\x00")),
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r")),
        ),
        max_size=8,
    )
)
def test_what_a_csv_writer_writes_is_read_back(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("csv")
    for ending, sign in (("csv", ","), ("tsv", "\t")):
        columns = read_csv(table(folder / f"d.{ending}", ["a,b", "c"], rows, sign))
        assert list(zip(columns.get("a,b"), columns.get("c"), strict=True)) == rows


def test_real_texts_and_chest_x_rays():
    trec = load_data(config(shared("trec")))
    assert [len(trec.tables[s]) for s in trec.tables] == [4941, 500, 500]
    assert trec.class_names == list("012345")
    assert notice(trec, "duplicate").count == 57
    findings = "Atelectasis,Cardiomegaly,Effusion"
    chest = load_data(config(shared("chestxray"), label_column=findings))
    assert chest.task == "multi_label" and chest.kind == "image"
    counts = {s: t.labels.sum(0).astype(int).tolist() for s, t in chest.tables.items()}
    assert counts == {"train": [55, 31, 45], "validation": [14, 9, 17], "test": [23, 16, 20]}
    assert all(t.labels.dtype == np.float32 for t in chest.tables.values())
