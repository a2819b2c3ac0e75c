"""Code of the user's own, named ``module:callable``."""

from __future__ import annotations

import importlib
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from onnxprune.errors import DataError, OnnxpruneError

_REFERENCE = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<name>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")


def is_reference(text: str) -> bool:
    """Return whether a text has the form ``module:callable``; dots are allowed on either side."""
    return _REFERENCE.fullmatch(text) is not None


def load_callable(reference: str) -> Callable[..., Any]:
    """Import the callable of a reference ``module:callable``.

    The current folder is searched after all installed modules, and stays on the search path, since the
    user's code may import from there while it runs.

    Args:
        reference: For instance ``onnxprune.datasets:mnist_test``.

    Returns:
        The callable.

    Raises:
        DataError: The module cannot be imported, or has no such callable.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise DataError(
            f"{reference!r} is not of the form module:callable", "such as onnxprune.datasets:mnist_test"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    with user_code(f"importing {found['module']!r}"):
        value: Any = _import(found["module"])
    for part in found["name"].split("."):
        value = getattr(value, part, None)
    if not callable(value):
        what = "has no" if value is None else "cannot call its"
        raise DataError(
            f"module {found['module']!r} {what} {found['name']!r}", "name a function or class it has"
        )
    return value  # type: ignore[no-any-return]


@contextmanager
def user_code(subject: str) -> Iterator[None]:
    """Turn every exception of the user's code into an error that states its file and line.

    Args:
        subject: Name of the work, the subject of a sentence: ``"loader:train"``.

    Raises:
        DataError: The code inside raised an exception of another type than `OnnxpruneError`.
    """
    try:
        yield
    except OnnxpruneError:
        raise
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"{subject} raised {type(error).__name__}: {error}", f"see {place.filename}, line {place.lineno}"
        ) from error


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise  # the module is there, but one of its imports is not
        raise DataError(
            f"there is no module {error.name!r}", "it must be installed or lie in the current folder"
        ) from error
