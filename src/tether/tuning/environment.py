"""What a run was made with: ``environment.json``."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from tether.machine import describe_machine

PACKAGES = (
    "numpy", "safetensors", "transformers", "accelerate", "datasets", "timm", "torchvision",
    "pillow", "tokenizers",
)  # fmt: skip


def environment() -> dict[str, object]:
    """Versions, machine, devices, processes, command, and the commit of the current folder."""
    return {
        **describe_machine(*[name for name in PACKAGES if _installed(name)]),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "command": sys.argv,
        "git": _commit(),
    }


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _commit() -> str | None:
    """The commit that the current folder stands at, where it is a git checkout."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
