from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
from dataclasses import astuple, replace

import pytest

from tether.errors import ConfigError
from tether.labels.journal import COLUMNS, Entry, Journal, fold, format_journal, read_journal

NASTY = 'a,"b"\n<script>\r\n😀 \u202eשלום.png'


def entry(name="1.png", decision="accept", label="dog", sequence=1, session="0123456789abcdef"):
    label = "" if decision in ("skip", "undo") else label
    return Entry(
        "2026-01-01T00:00:00Z", name, "train", "cat", decision, label, sequence, session
    )  # fmt: skip


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "labels" / "corrections.csv"
    written = [entry(), entry(NASTY, "other", NASTY, 2), entry("\udcff.png", "skip", "", 3)]
    journal = Journal(path)
    assert journal.add(written) == written
    assert read_journal(path) == written == Journal(path).entries
    assert path.read_bytes() == format_journal(written).encode("utf-8", "surrogatepass")
    with path.open(encoding="utf-8", errors="surrogatepass", newline="") as file:
        assert list(csv.reader(file))[1:] == [[str(c) for c in astuple(e)] for e in written]


def test_a_decision_that_is_sent_twice_counts_once(tmp_path):
    journal = Journal(tmp_path / "c.csv")
    journal.add([entry(), entry()])
    assert not journal.add([entry()])
    assert not Journal(tmp_path / "c.csv").add([entry()])
    assert len(journal.add([entry(session="f" * 16)])) == 1
    assert len(read_journal(tmp_path / "c.csv")) == 2


def test_undo_takes_back_one_decision_of_its_sample(tmp_path):
    journal = Journal(tmp_path / "c.csv")
    journal.add([entry(sequence=1), entry("2.png", sequence=2), entry(decision="keep", sequence=3)])
    undo = entry(decision="undo", sequence=4)
    journal.add([undo])
    assert journal.state() == {"2.png": entry("2.png", sequence=2), "1.png": entry()}
    journal.add([replace(undo, sequence=5), replace(undo, sequence=6)])  # one is left to undo
    assert list(journal.state()) == ["2.png"]
    assert len(journal.entries) == 5
    assert fold(read_journal(tmp_path / "c.csv")) == journal.state()


@pytest.mark.parametrize("cut", [1, 5, 17, 18, 40, 60, 100])
def test_a_line_that_was_broken_off_is_cut_away(tmp_path, cut):
    path = tmp_path / "c.csv"
    Journal(path).add([entry(), entry(NASTY, "other", 'say "no"', 2)])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    # without its line end alone, the line is whole
    expected = 2 if cut == 1 else 1 if whole[:-cut].count(b"accept") else 0
    assert len(read_journal(path)) == expected
    journal = Journal(path)
    assert len(journal.entries) == expected
    journal.add([entry("3.png", sequence=3)])
    assert [e.id for e in read_journal(path)][expected:] == ["3.png"]


def test_every_prefix_of_a_journal_opens(tmp_path):
    path = tmp_path / "c.csv"
    whole = format_journal([entry("ü.png"), entry(NASTY, sequence=2)]).encode()
    for length in range(len(whole) + 1):
        path.write_bytes(whole[:length])
        journal = Journal(path)
        journal.add([entry("last.png", sequence=9)])
        assert [e.id for e in read_journal(path)] == [
            *(e.id for e in journal.entries[:-1]), "last.png",
        ]  # fmt: skip


def test_a_spreadsheet_may_have_saved_it(tmp_path):
    path = tmp_path / "c.csv"
    text = format_journal([entry(), entry("ü.png", sequence=2)])
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    assert [e.id for e in read_journal(path)] == ["1.png", "ü.png"]
    assert len(Journal(path).add([entry(sequence=3)])) == 1
    assert len(read_journal(path)) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "its first line is not"),
        (",".join(COLUMNS) + "\n1,2\n", "line 2: 2 fields instead of 8"),
        (format_journal([entry(decision="maybe"), entry()]), "decision 'maybe' is none of"),
        (format_journal([replace(entry(), sequence="x")]), "sequence 'x' is not a whole number"),
        (",".join(COLUMNS) + '\n"a"b,\n' + "x\n", "line 2"),
    ],
)
def test_other_files_are_refused_and_left_as_they_are(tmp_path, text, message):
    path = tmp_path / "c.csv"
    path.write_text(text, encoding="utf-8")
    for read in (read_journal, Journal):
        with pytest.raises(ConfigError, match=message):
            read(path)
    assert path.read_text(encoding="utf-8") == text


def test_where_it_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="name another file with --corrections"):
        Journal(tmp_path / "file" / "c.csv")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_journal(tmp_path / "none.csv")


def test_threads_and_processes_add_to_one_file(tmp_path):
    path = tmp_path / "c.csv"
    code = (
        "import sys; from pathlib import Path; from tests.labels.test_journal import *\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for n in range(40): journal.add([entry(sequence=n, session=sys.argv[2] * 16)])"
    )
    others = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    journal = Journal(path)

    def work(name):
        for n in range(40):
            journal.add([entry(sequence=n, session=name * 16)])

    threads = [threading.Thread(target=work, args=(name,)) for name in "cd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait(60) for other in others] == [0, 0]
    journal.refresh()
    keys = [e.key for e in journal.entries]
    assert len(keys) == len(set(keys)) == 160
    assert read_journal(path) == journal.entries


def test_what_was_told_to_be_saved_survives_a_kill(tmp_path):
    path = tmp_path / "c.csv"
    code = (
        "import sys; from pathlib import Path; from tests.labels.test_journal import *\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for n in range(10**6):\n"
        "    journal.add([entry(NASTY, sequence=n)]); print(n, flush=True)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    while int(process.stdout.readline()) < 50:
        pass
    os.kill(process.pid, signal.SIGKILL)
    told = [int(line) for line in process.stdout.read().split()]
    process.stdout.close()
    process.wait()
    found = [e.sequence for e in Journal(path).entries]
    assert found == list(range(len(found)))
    assert len(found) > max(told, default=50)
