"""Importing what an extra provides, with an error that says which extra to install."""

import importlib
from types import ModuleType


def require(module: str, extra: str) -> ModuleType:
    """Import and return `module`; if that fails, raise ImportError naming the extra that provides it.

    A package can be installed and still fail to load (a missing shared library, say), so the original
    reason is part of the message.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        raise ImportError(
            f"'{module}' is needed here and could not be imported ({error}). "
            f"Install it with: pip install 'videomae-fast[{extra}]'"
        ) from error
