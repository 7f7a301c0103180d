"""What may be wrong with samples: found, counted, and left out or refused by one policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tether.data.images import content_hash, examine_all
from tether.data.raw import RawSplit
from tether.data.table import Notice, Table
from tether.errors import ConfigError
from tether.words import printable

WORDS = {
    "bad_image": "unreadable images",
    "empty_text": "empty texts",
    "bad_numbers": "rows with NaN or infinity",
    "missing_label": "samples without a label",
    "large_label": "samples with a label too large for 32-bit numbers",
    "unknown_label": "samples with a label that training does not have",
}


@dataclass(frozen=True)
class Problem:
    """Something wrong with a sample.

    Attributes:
        kind: a key of ``WORDS``.
        row: the sample.
        why: for people.
    """

    kind: str
    row: int
    why: str


def examine_inputs(kind: str, inputs: Sequence[Any]) -> tuple[list[bytes], list[Problem]]:
    """A hash of every input's content, and what is wrong with some of them.

    Args:
        kind: ``"image"``, ``"text"`` or ``"vector"``.
        inputs: images are decoded to their end.
    """
    if kind == "image":
        found = examine_all(inputs)
        problems = [Problem("bad_image", i, why) for i, (_, why) in enumerate(found) if why]
        return [key for key, _ in found], problems
    if kind == "vector":
        problems = [
            Problem("bad_numbers", i, "it holds NaN or infinity")
            for i, row in enumerate(inputs)
            if not np.isfinite(row).all()
        ]
        return [content_hash(np.asarray(row).tobytes()) for row in inputs], problems
    problems = [
        Problem("empty_text", i, "it is empty")
        for i, text in enumerate(inputs)
        if not all(part.strip() for part in _parts(text))
    ]
    return [content_hash(_bytes(_parts(text))) for text in inputs], problems


def _parts(text: str | tuple[str, ...]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else tuple(text)


def apply_policy(
    split: str, ids: Sequence[str], problems: Sequence[Problem], policy: str
) -> tuple[list[int], list[Notice]]:
    """Rows that stay, and notices of those that were left out.

    Args:
        split: where, for messages.
        ids: names of all samples.
        problems: what is wrong with some of them.
        policy: ``"skip"`` or ``"fail"``.

    Raises:
        ConfigError: something is wrong and the policy is to fail; says what, and how to go on.
    """
    if problems and policy == "fail":
        first = "; ".join(
            f"'{printable(ids[p.row])}' ({printable(p.why, 120)})" for p in problems[:5]
        )
        more = f"; and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise ConfigError(
            f"{len(problems)} of {len(ids)} samples in {split} cannot be used: {first}{more}. "
            "Repair or remove them, or leave them out with --on-bad-sample skip"
        )
    notices = []
    for kind, words in WORDS.items():
        mine = [ids[p.row] for p in problems if p.kind == kind]
        if mine:
            notices.append(Notice(kind, split, len(mine), f"{words} were left out", mine[:5]))
    bad = {p.row for p in problems}
    return [row for row in range(len(ids)) if row not in bad], notices


def usable(
    kind: str, splits: Mapping[str, RawSplit], policy: str
) -> tuple[dict[str, RawSplit], dict[str, bytes], list[Notice]]:
    """The samples whose inputs can be used, the hash of each by its id, and notices.

    Raises:
        ConfigError: by the policy, or since nothing is left to train on.
    """
    kept: dict[str, RawSplit] = {}
    keys: dict[str, bytes] = {}
    notices: list[Notice] = []
    for split, raw in splits.items():
        hashes, problems = examine_inputs(kind, raw.inputs)
        rows, found = apply_policy(split, raw.ids, problems, policy)
        notices += found
        keys.update((raw.ids[row], hashes[row]) for row in rows)
        kept[split] = raw.take(rows) if problems else raw
    return kept, keys, notices


# -- duplicates ------------------------------------------------------------------------------------


def duplicates(kind: str, tables: Mapping[str, Table], keys: Mapping[str, bytes]) -> list[Notice]:
    """Notices of samples that occur more than once: within training data, and across splits.

    Texts are the same if they differ in case and white space only, images if their files are.
    """
    of = {
        split: [_same(kind, each, keys[name]) for each, name in zip(t.inputs, t.ids, strict=True)]
        for split, t in tables.items()
    }
    notices = []
    first: dict[bytes, int] = {}
    again, contradicting = [], []
    train = tables["train"]
    for row, key in enumerate(of["train"]):
        before = first.setdefault(key, row)
        if before != row:
            again.append(train.ids[row])
            labels = train.labels
            if labels is not None and (labels[row] != labels[before]).any():
                contradicting.append(train.ids[row])
    if again:
        what = "samples occur earlier in the training data; kept"
        if contradicting:
            what += f", {len(contradicting)} of them with another label"
        notices.append(Notice("duplicate", "train", len(again), what, (contradicting + again)[:5]))
    pairs = (("validation", "train"), ("test", "train"), ("test", "validation"))
    for split, other in pairs:
        if split in of and other in of:
            known = set(of[other])
            found = [tables[split].ids[row] for row, key in enumerate(of[split]) if key in known]
            if found:
                what = f"samples occur in {other} as well; kept, so scores may be too good"
                notices.append(Notice("duplicate_across", split, len(found), what, found[:5]))
    return notices


def _same(kind: str, each: Any, key: bytes) -> bytes:
    if kind != "text":
        return key
    return content_hash(_bytes([" ".join(part.casefold().split()) for part in _parts(each)]))


def _bytes(parts: Sequence[str]) -> bytes:
    return "\x1f".join(parts).encode("utf-8", "surrogatepass")
