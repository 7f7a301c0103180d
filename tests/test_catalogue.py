"""The register: listing, making, refusing, third parties."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tether import AdaRand, Method, create_method, list_methods, method_info, register

OURS = {
    "adarand", "randreg", "feature_norm", "l2_sp", "distance_constraint", "layerwise_constraint",
    "elr", "self_label_correction", "confidence_reweighting", "regsl",
}  # fmt: skip


def test_listing():
    assert set(list_methods()) >= OURS
    assert list_methods("*rand*") == ["adarand", "randaugment", "random_teacher", "randreg"]
    constraints = ["distance_constraint", "layerwise_constraint", "rate_constraint"]
    assert list_methods("*_constraint", kind="weights") == constraints
    assert list_methods("adarand", kind="weights") == []
    with pytest.raises(ValueError, match="kind 'weight' is not one of"):
        list_methods(kind="weight")


def test_making():
    method = create_method("adarand", alpha=0.9)
    assert isinstance(method, AdaRand)
    assert method.alpha == 0.9
    assert repr(method) == "AdaRand(alpha=0.9)"
    assert create_method("adarand", **method.options()).options() == method.options()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("adarnd", {}, "unknown method 'adarnd': did you mean 'adarand'"),
        ("zzz", {}, "unknown method 'zzz': .*list_methods.. gives the [0-9]+ there are"),
        ("adarand", {"alhpa": 1}, "'adarand' has no option 'alhpa': did you mean 'alpha'"),
        ("distance_constraint", {}, "'distance_constraint' needs the option 'radius'"),
    ],
)
def test_bad_names_and_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        create_method(name, **options)


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("Bad Name", {"kind": "weights"}, "lower case with underscores"),
        ("fine", {"kind": "loss"}, "kind 'loss' is not one of"),
        ("fine", {"kind": "weights", "needs": ("magic",)}, "unknown needs"),
        ("fine", {"kind": "weights", "cost": "cheap"}, "cost must be one of"),
        ("adarand", {"kind": "weights"}, "'adarand' is taken by tether.methods"),
    ],
)
def test_bad_records(name, record, message):
    with pytest.raises(ValueError, match=message):

        @register(name, **record)
        class Other(Method):
            """Something."""


def test_records():
    info = method_info("adarand")
    assert info.cls is AdaRand
    assert info.kind == "features"
    assert info.summary
    assert "alpha" in info.options


def test_third_parties_register_by_entry_point(tmp_path):
    (tmp_path / "outside.py").write_text(
        textwrap.dedent(
            '''
            from tether import Method, register

            @register("outside", kind="weights")
            class Outside(Method):
                """Comes from elsewhere."""

                def __init__(self, strength: float = 2.0) -> None:
                    self.strength = strength
            '''
        )
    )
    dist = tmp_path / "outside-1.0.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (dist / "entry_points.txt").write_text("[tether.methods]\noutside = outside:Outside\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import tether; "
        "print(tether.list_methods('out*'), tether.create_method('outside', strength=3.0))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['outside'] Outside(strength=3.0)"
