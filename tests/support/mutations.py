"""Rules broken on purpose: each statement a rule makes is left out in turn, and some test has to notice.

A *site* is a statement of a rule (file, function, and the line that calls a method of ``Context``), one name
in one place of an axis pattern, or the statement of an operator about zeros. The checks are tests of the
suite that call no fixtures, examples of single operators, small networks, and the architectural ideas. The
last three also must have the groups and costs that are written down in ``expected_groups.json``. A look with
the rules as they are finds the sites of each check; then each site is broken, and its checks are run, the
fast ones first, until one fails.

    python tests/support/mutations.py             prints the survivors
    python tests/support/mutations.py --expect    writes down today's groups and costs: review the diff
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import linecache
import re
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import onnx
import single_node_checks
import single_nodes
from _pytest.mark.structures import ParameterSet
from helpers import half_of_each, prune_exactly
from ideas import IDEAS
from places import TESTS
from rule_networks import NETWORKS
from wide_nodes import WIDE

from onnxprune.analysis.groups import channel_values
from onnxprune.analysis.groups.channels import Channels, find_channels
from onnxprune.analysis.groups.cost import cost_of
from onnxprune.ir import Model, check
from onnxprune.ops.axes import notation
from onnxprune.ops.axes.context import Context
from onnxprune.ops.spec import SPECS, load, never

MODULES = (
    "test_rules_attention test_rules_control test_rules_fused test_rules_indexing test_rules_normalization "
    "test_divisions test_spared test_integers test_mirrors test_rules_maxima test_rules_plugins "
    "test_rules_scattering test_rules_quantization test_rules_recurrent test_rules test_channels test_shrink "
    "test_cost"
).split()
ROOMS = ("ops", "unit/analysis", "unit/decisions")
LEFT_OUT = {"test_examples", "test_examples_that_need_zeros", "test_imports_point_downwards"}
"""Tests that run everything, or no rule."""
STATEMENTS = (
    "block contract define divides_by follow follow_attribute follow_indices follow_operand makes_no_zeros "
    "moves normalises prefer_other reads_size rescale_attribute rescale_operand rescale_result same weights "
    "works"
).split()
EXAMPLES = 3
"""Of each operator; onnx has dozens of some."""
EXPECTED = TESTS / "expected_groups.json"

Site = tuple[str, ...]


@dataclass
class Check:
    """A test that can be called.

    Attributes:
        name: Its name.
        run: Fails with an exception.
        look: Comes by the same sites, and may be faster.
        key: The key of its expected groups; empty without any.
        seconds: How long a look takes.
    """

    name: str
    run: Callable[[], object]
    look: Callable[[], Any]
    key: str = ""
    seconds: float = 0.0


class Breaker:
    """Stands between the rules and their statements: notes every site, and breaks one."""

    def __init__(self) -> None:
        self.seen: set[Site] = set()
        self.broken: Site | None = None

    def is_broken(self, site: Site) -> bool:
        self.seen.add(site)
        return site == self.broken

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Wrap the statements of rules, patterns, and the functions of zeros."""
        kept = {name: getattr(Context, name) for name in (*STATEMENTS, "match")}
        load()
        specs = dict(SPECS)
        for name in STATEMENTS:
            setattr(Context, name, self._statement(name, kept[name]))
        Context.match = self._match(kept["match"])  # type: ignore[method-assign]
        for (domain, operator), spec in specs.items():
            SPECS[domain, operator] = replace(spec, zero=self._zeros(operator, spec.zero))
        computed = channel_values._evaluated
        channel_values._evaluated = self._evaluated(computed)
        try:
            yield
        finally:
            SPECS.update(specs)
            channel_values._evaluated = computed
            for name, method in kept.items():
                setattr(Context, name, method)

    def _statement(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def said(context: Context, *args: Any, **how: Any) -> Any:
            place = caller()
            idle = name == "define" and not context.makes(args[0])
            if place is not None and not idle and self.is_broken((*place, name)):
                return None
            return method(context, *args, **how)

        return said

    def _match(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def matched(context: Context, pattern: str, given: Any = None) -> Any:
            given = dict(given or {})
            for text, site, name, operand in mutants(pattern):
                if context.has(operand) and self.is_broken(site):
                    return method(context, text, given | ({"broken": given[name]} if name in given else {}))
            return method(context, pattern, given)

        return matched

    def _evaluated(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Leave out the computed number of an operator whose statement about zeros is left out."""

        def evaluated(typing: Any, node: onnx.NodeProto, *how: Any) -> Any:
            silent = self.broken == ("zeros", node.op_type, "never")
            return None if silent else method(typing, node, *how)

        return evaluated

    def _zeros(self, operator: str, zero: Callable[[Any], bool]) -> Callable[[Any], bool]:
        def travels(flags: Any) -> bool:
            found = zero(flags)
            if found:
                return not self.is_broken(("zeros", operator, "never"))
            return self.is_broken(("zeros", operator, "always")) if zero is not never else found

        return travels


def caller() -> Site | None:
    """Return file, function and text of the calling line; ``None`` in a pattern, which is broken apart."""
    frame = sys._getframe(2)
    while frame is not None and frame.f_code.co_filename.endswith(("context.py", "notation.py")):
        if frame.f_code.co_filename == notation.__file__:
            return None
        frame = frame.f_back  # type: ignore[assignment]
    file, line = frame.f_code.co_filename, frame.f_lineno
    while frame.f_code.co_name.startswith("<"):  # a lambda or a generator within a function
        frame = frame.f_back  # type: ignore[assignment]
    return Path(file).stem, frame.f_code.co_name, linecache.getline(file, line).strip()


def mutants(pattern: str) -> Iterator[tuple[str, Site, str, int]]:
    """Yield the pattern with one name in one place of an operand made another one."""
    left, arrow, right = pattern.partition("->")
    for place in re.finditer(r"\*?\w+(?=[^\[]*\])", left):
        name, operand = place.group(), left[: place.start()].count("[") - 1
        if not name.isdigit() and name[0] != "*" and len(re.findall(rf"\b{name}\b", pattern)) > 1:
            text = f"{left[: place.start()]}broken{left[place.end() :]}{arrow}{right}"
            yield text, ("pattern", pattern, f"operand {operand}: {name}"), name, operand


def checks() -> Iterator[Check]:
    """Yield all checks."""
    sys.path[:0] = [str(TESTS / room) for room in ROOMS]
    for module in map(importlib.import_module, MODULES):
        for name, function in vars(module).items():
            if name.startswith("test_") and name not in LEFT_OUT and callable(function):
                yield from called(f"{module.__name__}.{name}", function)
    for operator, cases in single_nodes.examples().items():
        for case in cases[:EXAMPLES]:
            for variant in ({}, {"weighed": False}, {"weighed": False, "shifted": 0.25}):
                proto = single_nodes.network(case, **variant)
                if proto is not None and case.name not in single_node_checks.SHAPES_INFERRED_WRONGLY:
                    key = f"{case.name} {' '.join(variant)}"
                    run = partial(example, case, key, **variant)
                    yield Check(f"example {operator} {variant}", run, partial(groups_of, proto), key)
    yield from checks_of_own_networks()
    for name, one in IDEAS.items():
        look = partial(lambda i: groups_of(i.build(), i.inexact), one)
        yield Check(f"idea {name}", partial(idea, name), look, name)


def checks_of_own_networks() -> Iterator[Check]:
    """Yield the checks of examples with wide axes, and of networks for single statements."""
    for name in WIDE:
        yield from checks_of_example(name)
    yield from map(check_of_network, NETWORKS)


def checks_of_example(name: str) -> Iterator[Check]:
    """Yield the checks of an example with wide axes: results weighed, summed up, and of shifted operands."""
    case = WIDE[name]()
    for variant in ({}, {"weighed": False}, {"weighed": False, "shifted": 2.5}):
        how = {**variant, "plain": case.plain, "quantised": case.quantised}
        key = f"wide {name} {' '.join(variant)}"
        look = partial(groups_of, single_nodes.network(case, **how))
        yield Check(key, partial(example, case, key, **how), look, key)


def check_of_network(name: str) -> Check:
    """Return the check of a network for a single statement."""
    (build, inexact), key = NETWORKS[name], f"network {name}"
    proto = build()
    return Check(key, partial(exactly, key, proto, inexact), partial(groups_of, proto, inexact), key)


def called(name: str, function: Callable[..., Any]) -> Iterator[Check]:
    """Yield a test with all its parameters; nothing where it has other arguments."""
    marks = [m for m in getattr(function, "pytestmark", ()) if m.name == "parametrize"]
    choices = []
    for mark in marks:
        names = mark.args[0].split(",") if isinstance(mark.args[0], str) else mark.args[0]
        rows = [ParameterSet.extract_from(v, force_tuple=len(names) == 1).values for v in mark.args[1]]
        choices.append([dict(zip(map(str.strip, names), row, strict=True)) for row in rows])
    wanted = set(inspect.signature(function).parameters)
    for chosen in itertools.product(*choices):
        given = {k: v for part in chosen for k, v in part.items()}
        if wanted == set(given):
            test = partial(function, **given)
            yield Check(f"{name} {given or ''}", test, test)


def groups_of(proto: onnx.ModelProto, inexact: bool = False) -> Channels:
    return find_channels(check(Model(proto)), allow_inexact=inexact)


def example(case: Any, key: str, **variant: Any) -> None:
    """Check an example, and that as much is free as ever."""
    compare(key, groups_of(single_nodes.network(case, **variant)))
    single_node_checks.check_example(case, **variant)


def idea(name: str) -> None:
    """Remove half of an idea, with and without the optional groups: exactly, and the expected part."""
    exactly(name, IDEAS[name].build(), IDEAS[name].inexact)


def exactly(key: str, proto: onnx.ModelProto, inexact: bool) -> None:
    """Remove half of a network, with and without the optional groups, and compare the expected groups."""
    model = check(Model(proto))
    channels = find_channels(model, allow_inexact=inexact)
    compare(key, channels)
    for optional in (False, True):
        outcome = prune_exactly(model, half_of_each(channels, optional=optional), channels)
        assert outcome.error <= (0.5 if inexact else 1e-5)


def described(channels: Channels) -> str:
    """Return the groups and costs of a network as a line; optional groups are in brackets."""
    sizes = [f"({g.size})" if g.optional else str(g.size) for g in channels.groups]
    masked = sum(p.weight for g in channels.groups for p in g.places)
    cost = cost_of(channels).figures()
    return f"{' '.join(sizes)}; {masked} masked, {cost['macs']} MACs, {len(channels.blocked)} stay"


@cache
def expected() -> dict[str, str]:
    found: dict[str, str] = json.loads(EXPECTED.read_text(encoding="utf-8"))
    return found


def compare(name: str, channels: Channels) -> None:
    """Compare groups and costs with the expected ones."""
    assert described(channels) == expected()[name], name


def expect() -> None:
    """Write the present groups and costs as the expected ones."""
    found = {one.key: described(one.look()) for one in checks() if one.key}
    EXPECTED.write_text(json.dumps(found, indent=0, sort_keys=True) + "\n", encoding="utf-8")


def survivors(
    report: Callable[[str], object] = lambda _: None,
) -> tuple[dict[Site, int], list[str]]:
    """Break every site.

    Args:
        report: Called with a line of text for each survivor.

    Returns:
        The sites that no check notices, with the number of checks that came by; and checks that fail anyway.
    """
    breaker, failing = Breaker(), []
    with breaker.installed(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        coming: dict[Site, list[Check]] = defaultdict(list)
        for one in checks():
            breaker.seen.clear()
            start = time.perf_counter()
            try:
                one.look()
            except Exception:  # any exception is a failure
                failing.append(one.name)
                continue
            one.seconds = time.perf_counter() - start
            for site in breaker.seen:
                coming[site].append(one)
        alive = {}
        for site, found in sorted(coming.items()):
            breaker.broken = site
            found.sort(key=lambda c: c.seconds)
            if all(looks_the_same(c) for c in found) and all(passes(c) for c in found):
                alive[site] = len(found)
                report(f"survives: {site}, {len(found)} checks come by")
        breaker.broken = None
        report(f"{len(coming)} sites, {len(alive)} survive")
    return alive, failing


def looks_the_same(one: Check) -> bool:
    """Return whether the groups are those that are written down, if they are."""
    try:
        return not one.key or described(one.look()) == expected()[one.key]
    except Exception:  # any exception is a detection
        return False


def passes(one: Check) -> bool:
    try:
        one.run()
    except Exception:  # any exception is a detection
        return False
    return True


if __name__ == "__main__":
    if "--expect" in sys.argv:
        expect()
    else:
        started = time.monotonic()
        _, broken = survivors(lambda line: print(line, flush=True))
        print(f"{time.monotonic() - started:.0f} s; failing without mutation: {broken}")
