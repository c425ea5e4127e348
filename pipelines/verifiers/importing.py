"""Objects by import path, and the digest of their source. Stdlib only: the verifiers' child processes import this."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def extend_import_path(folders: Iterable[str]) -> None:
    """Find modules in these folders too, after everything that is installed, so that they hide no installed module."""
    for folder in folders:
        if folder not in sys.path:
            sys.path.append(folder)


def load_object(path: str) -> Any:
    """The object that `module:name` names. ValueError: no such form; ImportError: it leads nowhere.

    >>> load_object("math:sqrt")(9.0)
    3.0
    """
    module_name, name = _split(path)
    module = importlib.import_module(module_name)
    try:
        return getattr(module, name)
    except AttributeError:
        raise ImportError(f"{path!r}: the module {module_name} has no {name!r}") from None


def source_digest(path: str) -> str:
    """sha256 (hex) of the source file of the module in `module:name`; the module itself is not imported.

    What that module imports is not in it: a change there needs a new name or an option to become part of a fingerprint.
    Raises ValueError or ImportError as `load_object` does, and ImportError where the module has no source file.
    """
    module_name, _ = _split(path)
    try:
        spec = importlib.util.find_spec(module_name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{path!r}: no module {error.name!r} on the import path") from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ImportError(f"{path!r}: no module {module_name!r} with a source file on the import path")
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()


def _split(path: str) -> tuple[str, str]:
    module_name, separator, name = path.partition(":")
    if not (separator and module_name and name):
        raise ValueError(f"{path!r} is not an import path; write it as module:name, for example mypackage.checks:judge")
    return module_name, name
