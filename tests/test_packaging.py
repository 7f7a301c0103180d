"""What is installed: light imports, extras, the wheel, one version, public names, a new method."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import tether
from tests.markdown import ROOT, code_blocks
from tools.api_surface import missing, present, recorded

SOURCE = ROOT / "src" / "tether"
CORE = {"torch", "numpy", "safetensors"}
USER_EXTRAS = "vision text cli sweep labels peft ot lightning pruning".split()
#: Imported name -> name of the distribution, where the two differ.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "ot": "pot",
    "sklearn": "scikit-learn",
    "torch_pruning": "torch-pruning",
    "yaml": "pyyaml",
}
TRAINER = {f"tether.tuning.{name}" for name in "callbacks progress trainer".split()}
OPTIONAL = (
    "PIL accelerate cleanlab datasets jinja2 lightning matplotlib optuna ot pandas peft polars "
    "pyarrow pytorch_lightning ray rich scipy sklearn timm torch_pruning torchvision transformers "
    "typer yaml"
).split()


def python(code: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter, with ``path`` first on its path; it must succeed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done


def modules() -> list[str]:
    """Every module of the package that must import without an extra.

    An integration is the meeting with its framework: it says at import what it needs. So do the
    parts of the tune job that stand on the Trainer.
    """
    names = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        bound = name.startswith("tether.integrations.") or name in TRAINER
        if not name.endswith("__main__") and not bound:
            names.append(name)
    return names


# -- imports -------------------------------------------------------------------------------------

BARE_LOOP = """
import importlib, importlib.abc, importlib.machinery, sys

class Blocked(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    # Found, but not importable: torch looks for some of them without importing any.
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {optional!r}:
            return importlib.machinery.ModuleSpec(name, self)

    def exec_module(self, module):
        raise {error}(f"{{module.__name__}} is not usable here")

sys.meta_path.insert(0, Blocked())
for name in {modules!r}:
    importlib.import_module(name)

import torch
import tether
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
data = TensorDataset(torch.randn(48, 6), torch.arange(48) % 3)
loader = DataLoader(data, batch_size=16, shuffle=True)
model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
before = [p.detach().clone() for p in model.parameters()]
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
methods = [
    tether.AdaRand(),
    tether.LayerwiseConstraint(radius=0.5),
    tether.EarlyLearningRegularization(),
]
reg = tether.attach(model, methods, optimizer, train_data=data, epochs=2)
losses = []
for epoch in range(2):
    for x, y in reg.batches(loader):
        loss = reg.loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
reg.detach()
assert len(losses) == 6 and torch.stack(losses).isfinite().all(), losses
assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))
print("trained")
"""


@pytest.mark.parametrize(
    "error", ["ImportError", pytest.param("RuntimeError", marks=pytest.mark.long)]
)
def test_everything_imports_and_trains_with_torch_alone(error: str) -> None:
    done = python(BARE_LOOP.format(optional=set(OPTIONAL), error=error, modules=modules()))
    assert done.stdout.split() == ["trained"]


def test_import_loads_no_optional_package() -> None:
    done = python("import sys, tether; tether.list_methods(); print(*sys.modules)")
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert "tether" in loaded
    assert not loaded & set(OPTIONAL)


def test_import_is_light_and_names_come_on_first_use() -> None:
    code = """
import sys, tether, tether.errors
assert not {"torch", "numpy"} & set(sys.modules)
assert tether.__version__
assert not hasattr(tether, "__wrapped__") and "torch" not in sys.modules
for name in ("functional", "noise", "measure", "report"):
    assert getattr(tether, name).__name__ == f"tether.{name}"
assert set(tether.__all__) <= set(dir(tether))
space = {}
exec("from tether import *", space)
assert set(tether.__all__) <= set(space)
assert space["L2SP"] is tether.L2SP is tether.methods.L2SP
assert space["tune"] is tether.tune
try:
    tether.nothing
except AttributeError as error:
    print(error)
"""
    assert python(code).stdout.strip() == "module 'tether' has no attribute 'nothing'"


TYPED = """
import tether
from tether import AdaRand, attach

reveal_type(tether.L2SP)
reveal_type(tether.noise)
tether.nothing
"""


def test_a_type_checker_sees_the_public_names(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(TYPED, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(ROOT / ".mypy_cache")]
    done = subprocess.run(
        [*command, str(tmp_path / "program.py")], cwd=ROOT, capture_output=True, text=True
    )
    assert "-> tether.methods.weights.l2_sp.L2SP" in done.stdout
    assert "types.ModuleType" in done.stdout
    assert done.stdout.count("error") == 2  # the missing name, and the sum of errors
    assert 'Module has no attribute "nothing"' in done.stdout


def imported(path: Path) -> set[str]:
    """Top-level names of the packages that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def declared(*extras: str) -> set[str]:
    """Names of the distributions that the extras of the installed package require."""
    found = set()
    for line in metadata.requires("tether") or []:
        requirement, _, marker = line.partition(";")
        if any(f"extra == '{extra}'" in marker.replace('"', "'") for extra in extras):
            name = re.match(r"[\w.-]+", requirement)
            assert name is not None
            found.add(name[0].lower())
    return found


def test_every_imported_package_is_declared() -> None:
    used = {name for path in SOURCE.rglob("*.py") for name in imported(path)}
    outside = used - set(sys.stdlib_module_names) - {"tether", "__future__", "tomllib"}
    names = {DISTRIBUTIONS.get(name, name).lower() for name in outside}
    assert CORE - {"safetensors"} <= names
    assert names <= declared(*USER_EXTRAS) | CORE


# -- what is built -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_holds_the_package_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    shipped = {name for name in wheel.namelist() if ".dist-info/" not in name}
    wanted = {
        str(path.relative_to(SOURCE.parent))
        for path in SOURCE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped == wanted
    assert "tether/py.typed" in shipped
    assert any(name.endswith(".j2") for name in shipped)


def test_the_wheel_says_what_it_needs(wheel: zipfile.ZipFile) -> None:
    path = next(name for name in wheel.namelist() if name.endswith("METADATA"))
    text = wheel.read(path).decode()
    core = {
        re.split(r"[<>=!~]", line.removeprefix("Requires-Dist: "))[0]
        for line in text.splitlines()
        if line.startswith("Requires-Dist: ") and ";" not in line
    }
    extras = set(re.findall(r"^Provides-Extra: (\S+)$", text, re.MULTILINE))
    assert core == CORE
    assert extras == {*USER_EXTRAS, "dev"}
    assert any("licenses/LICENSE" in name for name in wheel.namelist())


def test_the_command_is_installed(wheel: zipfile.ZipFile) -> None:
    path = next(name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "tether = tether.cli:main" in wheel.read(path).decode()


def test_the_version_stands_in_one_place() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    version = tether.__version__
    assert version == metadata.version("tether")
    files = [ROOT / "docs" / "conf.py", *SOURCE.rglob("*.py")]
    written = re.compile(rf"version\w* *= *[\"']{re.escape(version)}[\"']")
    holders = [path for path in files if written.search(path.read_text(encoding="utf-8"))]
    assert len(holders) + len(written.findall(project)) == 1


def test_constraints_pin_what_the_development_install_asks_for() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.lower().split("==") for line in lines if line and not line.startswith("#"))
    asked = declared("dev", "vision", "text", "cli", "labels", "lightning")
    assert asked - {"tether"} | CORE <= set(pins)


# -- public names --------------------------------------------------------------------------------


def test_no_public_name_vanished() -> None:
    gone = missing(recorded(), present())
    assert not gone, f"gone: {gone}; if that was meant, write the file anew with `make api`"


def test_a_vanished_name_is_seen() -> None:
    now = present()
    was = {part: {owner: list(names) for owner, names in now[part].items()} for part in now}
    was["modules"]["tether"].append("Vanished")
    was["methods"]["l2_sp"].append("vanished")
    was["methods"]["vanished_method"] = []
    assert missing(was, now) == [
        "modules: tether: Vanished",
        "methods: l2_sp: vanished",
        "methods: vanished_method",
    ]


# -- a method in ten minutes ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project in which the walk of CONTRIBUTING.md was followed to the letter."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    blocks = {block.mark: block.code for block in code_blocks(ROOT / "CONTRIBUTING.md")}
    named = re.search(r"`(src/tether/methods/\w+/\w+\.py)`", text)
    assert named is not None
    root = tmp_path_factory.mktemp("walk")
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, root / folder, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / named[1]).write_text(blocks["walk: method"], encoding="utf-8")
    with (root / "src/tether/methods/__init__.py").open("a", encoding="utf-8") as room:
        room.write(blocks["walk: import"])
    (root / "twin.py").write_text(blocks["walk: twin"], encoding="utf-8")
    return root


WALK = """
import sys
sys.path.insert(0, {root!r})
import torch
import tether
from tether.methods.features.logit_norm import LogitNorm, squared_logit_norms
from twin import logit_norm_penalty

assert tether.__file__.startswith({root!r}), tether.__file__
assert "logit_norm" in tether.list_methods()
assert isinstance(tether.create_method("logit_norm", weight=0.1), LogitNorm)

logits = torch.randn(9, 4, dtype=torch.float64)
assert abs(float(squared_logit_norms(logits).mean()) - logit_norm_penalty(logits.numpy())) < 1e-6

def train(methods):
    torch.manual_seed(0)
    x, y = torch.randn(32, 6), torch.arange(32) % 3
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    reg = tether.attach(model, methods, optimizer)
    for _ in range(40):
        loss = reg.loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    reg.detach()
    return model(x).detach()

plain, neutral, short = train([]), train([LogitNorm(weight=0.0)]), train([LogitNorm(weight=0.5)])
assert torch.equal(plain, neutral)
assert short.norm() < 0.7 * plain.norm(), (short.norm(), plain.norm())
print("walked")
"""


def test_the_walk_gives_a_method_that_trains(walked: Path) -> None:
    done = python(WALK.format(root=str(walked)), path=walked / "src")
    assert done.stdout.split() == ["walked"]


def test_the_method_of_the_walk_passes_lint_and_contract(walked: Path) -> None:
    file = walked / "src/tether/methods/features/logit_norm.py"
    ruff = Path(sys.executable).parent / "ruff"
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([ruff, *command, file], cwd=walked, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    environment = {**os.environ, "PYTHONPATH": str(walked / "src"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    for tests in (
        ["tests/contract", "-k", "logit_norm"],
        ["--doctest-modules", str(file.relative_to(walked))],
    ):
        done = subprocess.run(
            [*command, *tests], cwd=walked, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout
        assert re.search(r"\b[1-9]\d* passed", done.stdout), done.stdout
