"""Costs that budgets can be made of: those of this package, of entry points, and functions by reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from onnxprune.analysis.groups.channels import Channels
from onnxprune.analysis.groups.cost import Polynomial, cost_of
from onnxprune.errors import PluginError, UsageError
from onnxprune.support.callables import is_reference, load_callable, user_code
from onnxprune.support.entry_points import plugin, plugin_names

ENTRY_POINTS = "onnxprune.budgets"
KINDS = ("macs", "params", "size", "latency", "channels")
"""Costs with an option of their own; ``size`` and ``latency`` are functions of further facts."""
CostFunction: TypeAlias = Callable[[Channels], Polynomial]
"""Function from a network to a cost: a polynomial in the channels that remain."""
COSTS: dict[str, CostFunction] = {
    "macs": lambda channels: cost_of(channels).macs,
    "params": lambda channels: cost_of(channels).params,
    "channels": lambda channels: cost_of(channels).channels,
}
"""Costs of this package by name; ``--reduce NAME=R`` takes those that are not in `KINDS`."""


def find_cost(name: str) -> CostFunction:
    """Return a cost by its name: one of `COSTS`, that of an entry point, or ``module:callable``.

    Raises:
        UsageError: There is none of that name.
        DataError: The module or the callable is not there.
        PluginError: The entry point cannot be imported, or is no function.
    """
    if name in COSTS:
        return COSTS[name]
    if is_reference(name):
        return load_callable(name)
    found = plugin(ENTRY_POINTS, name)
    if found is None:
        known = ", ".join(dict.fromkeys((*KINDS, *COSTS, *plugin_names(ENTRY_POINTS))))
        raise UsageError(f"there is no budget of '{name}'", f"choose from: {known}; or module:callable")
    if not callable(found):
        raise PluginError(f"the budget '{name}' is no function", "it takes the channels of a network")
    return found  # type: ignore[no-any-return]


def cost_by_name(name: str, channels: Channels) -> Polynomial:
    """Return a cost of a network by the name of its function; see `find_cost`.

    Raises:
        PluginError: The function returns something else than a polynomial that is positive.
        DataError: It raises an error.
    """
    function = find_cost(name)
    with user_code(f"the budget {name}"):
        cost: Any = function(channels)
    if not isinstance(cost, Polynomial) or not cost.value() > 0:
        raise PluginError(
            f"the budget '{name}' returned {type(cost).__name__}, which is no positive cost",
            "return an onnxprune.analysis.groups.cost.Polynomial",
        )
    return cost
