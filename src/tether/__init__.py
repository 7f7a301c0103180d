"""tether: regularised, robust fine-tuning of pretrained networks, in any training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tether import functional as functional
    from tether import measure as measure
    from tether import noise as noise
    from tether import report as report
    from tether.api import *  # noqa: F403
    from tether.methods import *  # noqa: F403

__version__ = "0.1.0"

if not TYPE_CHECKING:  # a checker reads the lines above, and so sees a name that does not exist

    def __getattr__(name: str) -> Any:
        """Fetch a public name on its first use: the command line starts without torch (PEP 562)."""
        from importlib import import_module
        from importlib.util import find_spec

        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module 'tether' has no attribute {name!r}")
        if find_spec(f"tether.{name}") is not None:
            return import_module(f"tether.{name}")
        api = import_module("tether.api")
        if name == "__all__":
            return list(api.__all__)
        if name not in api.__all__:
            raise AttributeError(f"module 'tether' has no attribute {name!r}")
        value = globals()[name] = getattr(api, name)
        return value


def __dir__() -> list[str]:
    """What this module has, and what it would fetch."""
    from tether.api import __all__ as public

    return sorted({*globals(), *public, "functional", "measure", "noise", "report"})
