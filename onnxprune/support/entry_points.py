"""Entry points of other packages: operators, criteria, budgets and passes from outside."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from onnxprune.errors import OnnxpruneError, PluginError


def plugin_names(group: str) -> list[str]:
    """Return the names of the entry points of a group, sorted."""
    return sorted({point.name for point in entry_points(group=group)})


def plugins(group: str) -> dict[str, Any]:
    """Import all entry points of a group, by name.

    Args:
        group: Such as ``onnxprune.ops``.

    Raises:
        PluginError: One cannot be imported, or two packages use one name.
    """
    return {name: plugin(group, name) for name in plugin_names(group)}


def plugin(group: str, name: str) -> Any:
    """Import an entry point; ``None`` where there is none of that name.

    Raises:
        PluginError: It cannot be imported, or two packages use its name.
    """
    points = list({point.value: point for point in entry_points(group=group, name=name)}.values())
    if len(points) > 1:
        homes = " and ".join(sorted(_package(point) for point in points))
        raise PluginError(f"both {homes} define '{name}' of {group}", "uninstall one of them")
    return _imported(points[0]) if points else None


def _imported(point: EntryPoint) -> Any:
    try:
        return point.load()
    except OnnxpruneError:
        raise
    except (Exception, SystemExit) as error:  # the code of others
        raise PluginError(
            f"'{point.value}' of {_package(point)} ({point.group}) cannot be imported:"
            f" {type(error).__name__}: {error}",
            "mend that package, or uninstall it",
        ) from error


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.module
