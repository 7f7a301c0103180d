"""Who works on a study: a machine and a process, and whether that process is still there."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def here() -> str:
    """This machine, and the space of its process numbers."""
    try:
        space = os.stat("/proc/self/ns/pid").st_ino
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()[:8]
    except OSError:
        return socket.gethostname().replace(" ", "_")
    return f"{socket.gethostname().replace(' ', '_')}/{boot}/{space}"


def is_gone(owner: str) -> bool:
    """Whether a process of this machine has ended."""
    place, pid, _ = owner.split(" ")
    if place != here():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
