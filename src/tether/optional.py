"""Packages that an extra of tether brings, imported when they are needed."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from tether.errors import ConfigError


def require(
    module: str, extra: str, what: str = "this", error: type[Exception] = ConfigError
) -> ModuleType:
    """Import an optional package, or say which extra brings it.

    Args:
        module: dotted name, for example ``"PIL.Image"``.
        extra: name of the extra.
        what: what cannot be done without it, for the message.
        error: what to raise; a :class:`~tether.errors.ConfigError` unless told otherwise.

    Raises:
        ConfigError: it is absent or broken.
    """
    try:
        return import_module(module)
    except (ImportError, RuntimeError) as reason:  # an ill-fitting build raises RuntimeError
        package = module.partition(".")[0]
        raise error(
            f"{what} needs {package}, which could not be imported ({reason}); "
            f'install it with: pip install "tether[{extra}]"'
        ) from reason
