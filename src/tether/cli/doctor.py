"""``tether doctor``: versions, whether torch and torchvision fit, devices, room, extras."""

# Without postponed annotations: see tether.cli.app.

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

from tether.cli.extras import extras, fits, requirements, version_of
from tether.cli.failures import FAILURE, reported
from tether.cli.output import console, print_json

if TYPE_CHECKING:
    from typer import Typer

PACKAGES = (
    "torch", "torchvision", "timm", "transformers", "datasets", "accelerate", "safetensors",
    "numpy",
)  # fmt: skip
#: torch 2.N goes with torchvision 0.(N + 15).
TORCHVISION_MINOR = 15


@dataclass(frozen=True)
class Pairing:
    """Whether torch and torchvision fit.

    Attributes:
        ok: they do, or torchvision is not installed.
        text: what was found.
        remedy: the command that mends it.
    """

    ok: bool
    text: str
    remedy: str = ""


def add(app: "Typer", cls: Any) -> None:
    """Enter the command."""
    from typer import Option

    @app.command(cls=cls)
    def doctor(
        as_json: Annotated[bool, Option("--json", help="print JSON")] = False,
    ) -> None:
        """Show versions, devices, disk space and extras, and what to mend."""
        with reported("tether doctor"):
            found = examine()
            if as_json:
                print_json(found)
            else:
                _print(found)
            if not found["pairing"]["ok"]:
                raise SystemExit(FAILURE)


def examine() -> dict[str, Any]:
    """Everything the command shows."""
    import platform
    import shutil

    from tether import __version__

    versions = {"tether": __version__, "python": platform.python_version()}
    versions.update({name: version_of(name) for name in PACKAGES})
    disk = shutil.disk_usage(os.getcwd())
    return {
        "versions": versions,
        "platform": f"{platform.system()} {platform.machine()}, {sys.executable}",
        "pairing": asdict(check_pairing()),
        "devices": _devices(),
        "disk": {"folder": os.getcwd(), "free_gib": round(disk.free / 2**30, 1)},
        "extras": {
            name: {
                "installed": all(one.met for one in asked),
                "adds": [f"{one.name}{one.versions}" for one in asked if not one.met],
                "install": f"pip install 'tether[{name}]'",
            }
            for name, asked in extras().items()
        },
    }


def check_pairing() -> Pairing:
    """Import both, and compare what the one asks of the other."""
    import torch

    there = version_of("torchvision")
    if not there:
        return Pairing(True, "torchvision is not installed")
    asked = [one.versions for one in requirements("torchvision") if one.name == "torch"]
    both = f"torch {torch.__version__}, torchvision {there}"
    # What PyPI has is named without its build, though torch itself tells it.
    build = _build(version_of("torch"))
    mend = remedy(torch.__version__, build)
    if asked and not fits(torch.__version__, asked[0]):
        return Pairing(False, f"{both}: torchvision wants torch {asked[0]}", mend)
    if len({build, _build(there)} - {""}) > 1:
        return Pairing(False, f"{both}: builds for different devices", mend)
    try:
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        first = str(error).partition("\n")[0]
        return Pairing(False, f"{both} do not fit: {first}", mend)
    return Pairing(True, f"{both} fit")


def remedy(torch_version: str, build: str) -> str:
    """The command that installs the torchvision of a torch, from the same place.

    Example:
        >>> remedy("2.6.0", "cpu").partition("torchvision")[2]
        "==0.21.*' --index-url https://download.pytorch.org/whl/cpu"
    """
    major, minor = torch_version.split(".")[:2]
    wanted = f"torchvision==0.{int(minor) + TORCHVISION_MINOR}.*" if major == "2" else "torchvision"
    command = f"pip install --force-reinstall --no-deps '{wanted}'"
    return f"{command} --index-url https://download.pytorch.org/whl/{build}" if build else command


def _build(version: str) -> str:
    return version.partition("+")[2]


def _devices() -> list[str]:
    import torch

    memory = ""
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        memory = f", {pages / 2**30:.1f} GiB memory"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = [f"cpu: {cores} cores{memory}, {torch.get_num_threads()} threads of torch"]
    if not torch.cuda.is_available():
        return found
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        found.append(f"cuda:{number}: {about.name}, {about.total_memory / 2**30:.1f} GiB")
    return found


def _print(found: dict[str, Any]) -> None:
    from rich.text import Text

    screen = console()
    for title, lines in _lines(found):
        screen.print(Text(title, style="bold"))
        for line, style in lines:
            screen.print(Text(f"  {line}", style=style), soft_wrap=True)


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Heading, and under it lines with their style."""
    versions = found["versions"].items()
    yield (
        "Versions",
        [(f"{name:<14}{version or 'not installed'}", "") for name, version in versions],
    )
    yield "Platform", [(found["platform"], "")]
    pairing = found["pairing"]
    if pairing["ok"]:
        yield "torch and torchvision", [(pairing["text"], "green")]
    else:
        mend = (f"mend it with: {pairing['remedy']}", "bold")
        yield "torch and torchvision", [(pairing["text"], "red"), mend]
    yield "Devices", [(line, "") for line in found["devices"]]
    disk = found["disk"]
    yield "Disk", [(f"{disk['free_gib']} GiB free in {disk['folder']}", "")]
    lines = []
    for name, about in found["extras"].items():
        if about["installed"]:
            lines.append((f"{name:<14}installed", ""))
        else:
            lines.append(
                (f"{name:<14}{about['install']} adds {', '.join(about['adds'])}", "yellow")
            )
    yield "Extras", lines
