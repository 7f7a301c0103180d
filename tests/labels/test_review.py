"""The server of the review page, spoken to without a browser, and what it refuses to start on."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket

import pytest

from tests.labels.makers import (
    CLASSES,
    image_data,
    make_run,
    serving,
    suspects_of,
    table,
    text_data,
)
from tether.cli import app as cli
from tether.errors import ConfigError
from tether.labels.journal import Journal, read_journal
from tether.labels.review.serve import lasting_token, listen
from tether.labels.review.suspects import open_review

SESSION = "0123456789abcdef"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("review")
    return make_run(folder / "run", image_data(folder / "photos", 8))


@pytest.fixture(scope="module")
def server(run):
    with serving(run, "--port", "0") as server:
        yield server


def ask(server, path, *, method="GET", body=None, **headers):
    """Status, headers and body of a raw request; underscores in names of headers are hyphens."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    told = {"Host": f"127.0.0.1:{server.port}", "X-Tether-Token": server.token}
    told |= {name.replace("_", "-"): value for name, value in headers.items()}
    connection.putrequest(method, path, skip_host=True)
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    if method == "POST":
        told = {"Content-Type": "application/json", "Content-Length": str(len(data)), **told}
    for name, value in told.items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(data or None)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def decide(server, *items, **more):
    items = [{"session": SESSION, **item} for item in items]
    status, _, body = ask(server, "/api/decide", method="POST", body={"items": items, **more})
    return status, json.loads(body)


# -- who is answered -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/app.js", "/api/start", "/picture/640/0", "/?token=wrong"])
def test_without_the_token_nothing_is_told(server, path):
    for headers in ({"X_Tether_Token": None}, {"X_Tether_Token": "x"}, {
        "X_Tether_Token": None, "Cookie": f"tether_review_{server.port}=wrong"
    }):  # fmt: skip
        status, _, body = ask(server, path, **headers)
        assert status == 403
        assert b"token" in body and server.token.encode() not in body


def test_the_address_gives_a_cookie_that_opens_the_rest(server):
    status, headers, body = ask(server, f"/?token={server.token}", X_Tether_Token=None)
    assert status == 200 and b"<main>" in body and server.token.encode() not in body
    cookie, *flags = headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=Strict"} <= set(flags)
    assert ask(server, "/api/start", X_Tether_Token=None, Cookie=cookie)[0] == 200
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": None},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_other_hosts_and_pages_are_refused(server, headers):
    status, _, body = ask(server, "/api/start", **headers)
    assert status in (400, 403) and b"suspects" not in body and b"cat" not in body


@pytest.mark.parametrize(
    "path",
    [
        "/../../../../etc/passwd", "/picture/640/../../../etc/passwd", "/picture/640/%2e%2e%2fetc",
        "/picture/640/..%2f..%2fetc%2fpasswd", "/static/app.js", "/picture/640/99999",
        "/picture/640/-1", "/picture/99999/0", "/labels/suspects.csv", "//etc/passwd",
    ],
)  # fmt: skip
def test_pictures_come_by_number_and_never_by_path(server, path):
    status, _, body = ask(server, path)
    assert status in (403, 404) and b"root:" not in body


def test_pictures_are_small_copies(server):
    status, headers, body = ask(server, "/picture/192/0")
    assert status == 200 and headers["content-type"] == "image/jpeg" and body[:2] == b"\xff\xd8"
    assert headers["x-content-type-options"] == "nosniff"


# -- decisions -------------------------------------------------------------------------------------


def test_decisions_are_taken_once_and_in_order(server, run):
    rows = suspects_of(run)
    items = [
        {"n": 0, "decision": "accept", "sequence": 1},
        {"n": 1, "decision": "other", "label": CLASSES[2], "sequence": 2},
        {"n": 2, "decision": "keep", "sequence": 3},
        {"n": 2, "decision": "undo", "sequence": 4, "of": f"{SESSION}:3"},
    ]
    for _ in range(2):  # as after an answer that was lost
        status, told = decide(server, *items, cursor=0)
        assert status == 200 and told["cursor"] == 4
        assert told["changes"] == [
            {"n": 2, "decision": None},
            {"n": 0, "decision": "accept", "label": rows[0]["suggested"], "key": f"{SESSION}:1"},
            {"n": 1, "decision": "other", "label": CLASSES[2], "key": f"{SESSION}:2"},
        ]
    written = read_journal(run / "labels" / "corrections.csv")
    assert [(e.id, e.decision, e.label) for e in written] == [
        (rows[0]["id"], "accept", rows[0]["suggested"]),
        (rows[1]["id"], "other", CLASSES[2]),
        (rows[2]["id"], "keep", rows[2]["given"]),
        (rows[2]["id"], "undo", ""),
    ]
    # another tab decides anew: the undo of the first one has come too late
    decide(server, {"n": 0, "decision": "keep", "sequence": 1, "session": "f" * 16})
    late = {"n": 0, "decision": "undo", "sequence": 5, "of": f"{SESSION}:1"}
    _, told = decide(server, late, cursor=4)
    assert told["cursor"] == 5 and told["changes"][0]["decision"] == "keep"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"n": 10**6, "decision": "keep", "sequence": 1}, "there is no suspect 1000000"),
        ({"n": True, "decision": "keep", "sequence": 1}, "there is no suspect"),
        ({"n": "../x", "decision": "keep", "sequence": 1}, "there is no suspect"),
        ({"n": 0, "decision": "delete", "sequence": 1}, "there is no decision delete"),
        ({"n": 0, "decision": "other", "label": "cow", "sequence": 1}, "there is no label 'cow'"),
        ({"n": 0, "decision": "other", "label": None, "sequence": 1}, "label is a text"),
        ({"n": 0, "decision": "keep", "sequence": -1}, "sequence is a whole number"),
        ({"n": 0, "decision": "keep", "sequence": 1, "session": "x"}, "session is 16 letters"),
    ],
)
def test_bad_decisions_change_nothing(server, run, item, message):
    before = (run / "labels" / "corrections.csv").read_bytes()
    status, told = decide(server, {"n": 5, "decision": "keep", "sequence": 77}, item)
    assert status == 400 and message in told["error"]
    assert (run / "labels" / "corrections.csv").read_bytes() == before


def test_a_page_with_another_list_of_suspects_is_told(server, run):
    item = {"n": 6, "decision": "keep", "sequence": 88}
    status, told = decide(server, item, name="another")
    assert status == 409 and "load the page anew" in told["error"]
    assert decide(server, item, name=open_review(run).name)[0] == 200


def test_ctrl_c_ends_it_well(tmp_path):
    run = make_run(tmp_path / "run", text_data(tmp_path / "t.csv", 4))
    with serving(run, "--port", "0") as server:
        assert decide(server, {"n": 0, "decision": "keep", "sequence": 1})[0] == 200
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 0
        told = server.process.stderr.read()
        assert f"1 of {len(suspects_of(run))} suspects decided" in told
        assert f"tether labels apply {run}/labels/corrections.csv --data" in told
        assert "Traceback" not in told


def test_bodies_that_are_no_decisions(server):
    for body in (b"", b"{", b"[]", b'{"items": 1}', b'{"items": [1]}', b"\xff"):
        assert ask(server, "/api/decide", method="POST", body=body)[0] == 400
    assert ask(server, "/api/decide", method="POST", body=b" " * (1 << 21))[0] == 413
    many = {"items": [{"n": 0}] * 201}
    assert ask(server, "/api/decide", method="POST", body=many)[0] == 400
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    assert ask(server, "/api/decide", method="POST", body=b"a=1", **form)[0] == 403
    assert ask(server, "/api/decide", method="GET")[0] == 405


# -- ports, tokens ---------------------------------------------------------------------------------


def test_a_port_in_use_gives_way_to_the_next():
    with listen(0) as taken:
        port = taken.getsockname()[1]
        with listen(port) as other:
            assert port < other.getsockname()[1] <= port + 50
    with listen(port) as again:  # at once, although it was just in use
        assert again.getsockname() == ("127.0.0.1", port)


def test_no_port_is_free():
    with socket.socket() as last:
        with contextlib.suppress(OSError):  # in use by somebody else: as good
            last.bind(("127.0.0.1", 65535))
            last.listen()
        with pytest.raises(ConfigError, match="no port from 65535 on is free"):
            listen(65535)


def test_the_token_lasts_and_is_for_the_owner_alone(tmp_path):
    token = lasting_token(tmp_path)
    assert lasting_token(tmp_path) == token and len(token) == 43
    path = tmp_path / ".review-token"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)  # others may have read it
    other = lasting_token(tmp_path)
    assert other != token
    path.write_text("short")
    assert len(lasting_token(tmp_path)) == 43
    assert len(lasting_token(tmp_path / "none")) == 43  # where nothing can be kept


# -- what cannot be reviewed -----------------------------------------------------------------------


@pytest.fixture
def texts(tmp_path):
    return make_run(tmp_path / "run", text_data(tmp_path / "texts.csv", 6))


def test_no_run_and_no_suspects(tmp_path, texts):
    with pytest.raises(ConfigError, match="holds no run"):
        open_review(tmp_path)
    path = texts / "labels" / "suspects.csv"
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    for text, message in (
        (first + "\n", "lists no suspects"), ("id,split\n1,train\n", "no column 'given'"),
        ("", "is empty"),
        (first + "\nx,train,0,cat,dog,high,1,,,,\n", "'high' is not a number"),
    ):  # fmt: skip
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            open_review(texts)
    path.unlink()
    with pytest.raises(ConfigError, match="tether labels find"):
        open_review(texts)


def test_data_that_have_gone_or_changed(tmp_path, texts):
    path = tmp_path / "texts.csv"
    assert not open_review(texts).warnings
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("emoji", "emotion"), encoding="utf-8")
    assert "the data have changed in" in open_review(texts).warnings[0]
    rows = [line for line in text.splitlines() if line]
    swapped = [rows[0], *(r.replace("cat", "owl <b>") for r in rows[1:-1]), "x,cat"]
    path.write_text("\n".join(swapped), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"the labels of \d+ of \d+ suspects have changed"):
        open_review(texts)
    path.rename(tmp_path / "moved.csv")
    with pytest.raises(ConfigError, match=r"no file or folder"):
        open_review(texts)
    other = text_data(tmp_path / "others.csv", 6)
    with pytest.raises(ConfigError, match="none of the suspects is in them"):
        open_review(texts, data=str(other))


def test_data_that_have_moved_are_named(tmp_path, texts):
    (tmp_path / "there").mkdir()
    (tmp_path / "texts.csv").rename(tmp_path / "there" / "texts.csv")
    review = open_review(texts, data=str(tmp_path / "there" / "texts.csv"))
    assert not review.warnings and review.samples.text(0)[0].startswith("<script>")


def test_labels_that_the_data_do_not_have(tmp_path, texts):
    rows = suspects_of(texts)
    rows[0]["suggested"] = "cow"
    table(texts / "labels" / "suspects.csv", rows)
    with pytest.raises(ConfigError, match="there is no label 'cow'"):
        open_review(texts)


def test_samples_that_have_gone_leave_the_others(tmp_path):
    run = make_run(tmp_path / "run", image_data(tmp_path / "photos", 8))
    (tmp_path / "photos" / suspects_of(run)[0]["id"]).unlink()
    (tmp_path / "photos" / suspects_of(run)[1]["id"]).write_bytes(b"no image")
    review = open_review(run)
    assert any("1 suspects are no longer in the data" in text for text in review.warnings)
    from tether.labels.review.samples import UnreadableError

    with pytest.raises(UnreadableError, match="no longer in the data"):
        review.samples.picture(0)
    with pytest.raises(UnreadableError, match="UnidentifiedImageError"):
        review.samples.picture(review.samples.number[suspects_of(run)[1]["id"]])


def test_several_labels_a_sample(tmp_path):
    rows = [
        {"text": f"text {i}", "tags": ("a", "a;b", "c", "")[i % 4]} for i in range(40)
    ]  # fmt: skip
    run = make_run(tmp_path / "run", table(tmp_path / "t.csv", rows), label_column="tags")
    review = open_review(run)
    assert review.task == "multi_label"
    review.check_label("a;c")
    review.check_label("")
    with pytest.raises(ConfigError, match="no label 'd'"):
        review.check_label("a;d")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="name another file with --corrections"):
        Journal(tmp_path / "corrections.csv")


def test_the_command_refuses_in_one_line(tmp_path, texts, capsys):
    (tmp_path / "file").write_text("")
    for options, message in (
        (["--output", "x.html"], "--output names the file of --static"),
        (["--static", "--corrections", "c.csv"], "--static downloads its decisions"),
        (["--corrections", str(tmp_path / "file" / "c.csv")], "cannot be written"),
        (["--static", "--output", str(tmp_path)], "is a folder; name a file"),
    ):
        assert cli.run(["labels", "review", str(texts), *options]) == 2
        told = capsys.readouterr()
        assert told.out == "" and told.err.count("\n") == 1 and message in told.err
