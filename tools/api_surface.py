"""The public names of tether, as they are and as ``tests/api_surface.json`` has them.

``python tools/api_surface.py`` prints what changed; ``--write`` writes the file anew.
"""

from __future__ import annotations

import argparse
import json
import sys
from importlib import import_module
from pathlib import Path

from tether.catalogue import list_methods, method_info

FILE = Path(__file__).resolve().parent.parent / "tests" / "api_surface.json"
MODULES = (
    "tether", "tether.noise", "tether.measure", "tether.compare", "tether.diagnose",
    "tether.encode", "tether.labels",
)  # fmt: skip

Surface = dict[str, dict[str, list[str]]]


def present() -> Surface:
    """Public names by module, and options by registered method."""
    return {
        "modules": {name: sorted(import_module(name).__all__) for name in MODULES},
        "methods": {name: sorted(method_info(name).options) for name in list_methods()},
    }


def recorded() -> Surface:
    """What the file says."""
    surface: Surface = json.loads(FILE.read_text(encoding="utf-8"))
    return surface


def missing(old: Surface, new: Surface) -> list[str]:
    """What ``old`` has and ``new`` lacks, as readable lines."""
    gone = []
    for part, entries in old.items():
        for owner, names in entries.items():
            if owner not in new[part]:
                gone.append(f"{part}: {owner}")
                continue
            gone += [f"{part}: {owner}: {n}" for n in names if n not in new[part][owner]]
    return gone


def main() -> int:
    """Compare or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the file anew")
    write = parser.parse_args().write
    new = present()
    old = recorded() if FILE.exists() else {"modules": {}, "methods": {}}
    for sign, lines in (("-", missing(old, new)), ("+", missing(new, old))):
        for line in lines:
            print(sign, line)
    if write:
        FILE.write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
