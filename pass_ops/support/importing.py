"""Objects by import path, and the digest of their source. Stdlib only, to keep verifiers' child processes small."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import operator
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_PATH = re.compile(r"(?P<module>[^.:][^:]*):(?P<name>[^.:][^:]*)")


def split_path(path: str) -> tuple[str, str]:
    """The module and the name in `module:name`. Imports nothing.

    Raises:
        ValueError: `path` does not have that form.
    """
    found = _PATH.fullmatch(path)
    if found is None:
        raise ValueError(f"{path!r} is not an import path; write it as module:name, for example mypackage.checks:judge")
    return found["module"], found["name"]


def extend_import_path(folders: Iterable[str]) -> None:
    """Find modules in these folders too, after everything that is installed, so that they hide no installed module."""
    for folder in folders:
        if folder not in sys.path:
            sys.path.append(folder)


def load_object(path: str) -> Any:
    """Import the object that `module:name` names.

    Raises:
        ValueError: `path` does not have that form.
        ImportError: there is no such module, or no such name in it.

    >>> load_object("math:sqrt")(9.0)
    3.0
    """
    module_name, name = split_path(path)
    module = importlib.import_module(module_name)
    try:
        return operator.attrgetter(name)(module)
    except AttributeError:
        raise ImportError(f"{path!r}: the module {module_name} has no {name!r}") from None


def source_digest(path: str) -> str:
    """sha256 (hex) of the source file of the module in `module:name`; the module itself is not imported.

    What that module imports does not count: for a change there to enter a fingerprint, give the object another name or
    an option.

    Raises:
        ValueError: `path` does not have that form.
        ImportError: there is no such module, or it has no source file.
    """
    module_name, _ = split_path(path)
    if module_name == "__main__":
        raise ImportError(
            f"{path!r} is defined in the script that runs; other processes cannot import it: put it into a module"
        )
    try:
        spec = importlib.util.find_spec(module_name)
    except ModuleNotFoundError as error:
        raise ImportError(f"{path!r}: no module {error.name!r} on the import path") from error
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise ImportError(f"{path!r}: no module {module_name!r} with a source file on the import path")
    return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
