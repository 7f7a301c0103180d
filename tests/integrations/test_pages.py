"""The page on integrations runs; tether imports no framework by itself."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.markdown import ROOT, code_blocks

FRAMEWORKS = ("transformers", "lightning", "accelerate")


def run(code, folder):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)


def test_code_of_the_page_runs(tmp_path):
    for name in FRAMEWORKS:
        pytest.importorskip(name)
    blocks = code_blocks(ROOT / "docs" / "integrations.md")
    assert len(blocks) >= 6
    script = tmp_path / "page.py"
    run = [block.code for block in blocks if not block.mark.startswith("not run")]
    script.write_text("\n".join(run), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoint-3" / "methods.safetensors").is_file()


def test_tether_imports_no_framework(tmp_path):
    code = (
        "import sys, tether, tether.integrations, tether.integrations.accelerate\n"
        f"print([name for name in {FRAMEWORKS!r} if name in sys.modules])"
    )
    done = run(code, tmp_path)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("module", "missing", "extra", "error"),
    [
        ("hf", "transformers", "tether[text]", "RuntimeError"),
        ("lightning", "lightning.pytorch", "tether[lightning]", "ImportError"),
    ],
)
def test_a_missing_framework_is_named(module, missing, extra, error, tmp_path):
    code = f"""
import sys
class Broken:
    def find_spec(self, name, path=None, target=None):
        if name == {missing!r} or {missing!r}.startswith(name + "."):
            raise {error}("broken build")
sys.meta_path.insert(0, Broken())
try:
    import tether.integrations.{module}
except ImportError as error:
    print(error)
"""
    done = run(code, tmp_path)
    assert extra in done.stdout, done.stderr
    assert "broken build" in done.stdout
