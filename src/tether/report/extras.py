"""Import the packages of the `cli` extra only when a report is made."""

from types import ModuleType

from tether import optional


def require(module: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Args:
        module: dotted name, for example `"jinja2"` or `"matplotlib.figure"`.

    Raises:
        ImportError: the module is absent or broken; the message names the remedy.
    """
    return optional.require(module, "cli", "writing a report", ImportError)
