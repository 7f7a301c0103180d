"""Import the packages of the `cli` extra only when a report is made."""

from importlib import import_module
from types import ModuleType


def require(module: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Args:
        module: dotted name, for example `"jinja2"` or `"matplotlib.figure"`.

    Raises:
        ImportError: the module is absent or broken; the message names the remedy.
    """
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as error:  # an ill-fitting build raises RuntimeError
        package = module.partition(".")[0]
        raise ImportError(
            f"writing a report needs {package}, which could not be imported ({error}); "
            'install it with: pip install "tether[cli]"'
        ) from error
