"""The table of operators: one `OpSpec` each, which all rooms read.

An operator is described in the file of its family (`onnxprune.ops.axes`, `onnxprune.ops.sizes`,
`onnxprune.ops.symmetry`, `onnxprune.ops.facts`), or outside the package: an entry point of the group
``onnxprune.ops`` names an `OpSpec`, or several of them in a list.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

from onnxprune.errors import PluginError
from onnxprune.ops.views import LinearRule, LinearView, Operands
from onnxprune.support.entry_points import plugins

if TYPE_CHECKING:
    import onnx

    from onnxprune.analysis.inputs.consumers import Consumer
    from onnxprune.analysis.inputs.inverse import Inverse
    from onnxprune.ops.axes.axis_typing import Typing
    from onnxprune.ops.axes.constant_rules import Carry
    from onnxprune.ops.axes.context import Context
    from onnxprune.ops.axes.statements import Axes
    from onnxprune.ops.sizes.node import SizedNode
    from onnxprune.ops.symmetry.passage import Passage
    from onnxprune.ops.symmetry.symmetry_kinds import Effect
    from onnxprune.train.pullbacks import ForwardNode, Tape

R = TypeVar("R")

Zeros: TypeAlias = "Sequence[bool | None]"
"""For a removed channel, whether each operand is zero there; ``None`` where it does not have that axis."""
ZeroRule: TypeAlias = "Callable[[Zeros], bool]"
AxesRule: TypeAlias = "Callable[[Context], None]"
SizeRule: TypeAlias = "Callable[[SizedNode], None]"
GradientRule: TypeAlias = "Callable[[ForwardNode, Tape], None]"
SymmetryRule: TypeAlias = "Callable[[Passage], Effect]"
Opens: TypeAlias = "Callable[[Typing, onnx.NodeProto], Sequence[Axes | None]]"
Arithmetic: TypeAlias = Literal["", "sum", "difference", "product", "quotient"]
Rearrangement: TypeAlias = Literal["", "shape", "axes"]
Randomness: TypeAlias = Literal["", "training", "always"]
Movement: TypeAlias = Literal["", "padded", "parts", "whole"]
Normalisation: TypeAlias = Literal["", "stored", "places", "features"]
Quantisation: TypeAlias = Literal["", "to integers", "to floats"]
Total: TypeAlias = Literal["", "sum", "mean"]
ALL_OPERANDS = range(1 << 31)
"""The numbers of all operands of an operator that takes any number of them."""


def never(_: Zeros) -> bool:
    """Not known to be zero anywhere."""
    return False


def first(zeros: Zeros) -> bool:
    """Zero where the first operand is."""
    return zeros[0] is True


def every(zeros: Zeros) -> bool:
    """Zero where all operands are."""
    return all(z is True for z in zeros)


def some(zeros: Zeros) -> bool:
    """Zero where any operand is."""
    return any(z is True for z in zeros)


def carriers(zeros: Zeros) -> bool:
    """Zero where all operands are that have the axis."""
    return all(z is not False for z in zeros)


def weights_and_bias(zeros: Zeros) -> bool:
    """Zero where the weights and the bias, operands 1 and 2, are: ``W·x + b``."""
    return all(z is True for z in zeros[1:3])


def nothing(_: Any) -> list[Any]:
    """No result is known to be constant, except by the rule of zeros."""
    return []


def no_bodies(_: Typing, __: onnx.NodeProto) -> Sequence[Axes | None]:
    """No body, or one without inputs."""
    return ()


@dataclass(frozen=True)
class OpSpec:
    """All facts about one operator.

    Attributes:
        name: The operator's name.
        domain: Its domain; empty for the standard one.
        axes: The axes rule: states through a context which axes are the same, summed over, or fixed,
            which operands masking may set to zero, and the multiply-accumulates. Without one all axes are
            blocked.
        zero: Zero rule: from the operands, true if the result is zero at a removed channel.
        beside: The results that the zero rule says nothing about: positions, masks, statistics.
        constant: Constant rule: the values that are the same for every input of the network.
        opens: The axes of the inputs of its body, in order; ``None`` where they are not known.
        sizes: The size rule. Without one the inference of onnx and onnxruntime is used.
        linear: The linear views of a node: weights, activation, bias, layout.
        symmetry: The symmetry rule: the linear maps along an axis that the operator commutes with. Without
            one those are the permutations.
        parameters: The operands that hold parameters.
        trainable: True if training changes the parameters. Those of quantised and packed operators stay.
        statistics: The operands that hold running statistics of training.
        elementwise: True if each element of the results is made of the elements of the operands at the same
            place, by a formula without axes.
        copies: True if each element of the results is one of the first operand.
        rearranges: ``shape`` if the result has the elements of the first operand, each once and in their
            order; ``axes`` if they are in another order.
        keeps_shape: True if the first result has the shape of the first operand, which the inference of onnx
            does not tell.
        sizes_only: True if the results depend on the sizes of the operands alone.
        random: ``always`` if the results are drawn in each run, ``training`` if they are in training mode.
        arithmetic: Operation among the four basic ones, if it is one of them.
        normalises: ``stored`` if it divides by stored deviations, ``features`` if by a deviation or a norm
            over the last axes, ``places`` if by one over other axes.
        moves: ``whole`` if the results consist of the elements of the first operand, in any order, repeated
            or of another type; ``parts`` if of some of its elements; ``padded`` if of zeros as well.
        carries: The operands whose integers the results hold, with their zero point.
        quantises: ``to integers`` or ``to floats`` if it converts between these by a scale and a zero point.
        jumps: True if a result jumps where an operand changes a little: it picks, compares or rounds.
        vanishes: True if the result may be exactly zero on a range of its operands.
        saturates: True if large operands make results that no longer change.
        gates: Number of its first results that saturating functions of sums inside of it are factors of.
        discrete: True if the results are sizes, positions or truth values: no gradient passes.
        rounds: True if it rounds activations to a few steps.
        attends: True if it is attention: products of computed matrices.
        affine: The operands that the result is linear in together, such as weights and bias.
        splits: True if a chain of nodes of the operator computes a product of its matrices.
        sums: ``sum`` if it adds up the elements along an axis, or a function of them that is zero at zero;
            ``mean`` if it divides that by their number.
        lists: The operands that list sizes, positions or scales, and have no axis of the network.
        zero_points: The operands that hold zero points of several axes.
        demands: The conditions on the values of the operands, such as the rows of a table.
        inverse: The conditions on the operands that follow from those on the results.
        gradient: The pullback: writes the gradients of a node's operands, from those of its results, into the
            graph of a training step. Without one training stops at the operator, or spells it in others.
        function: The operator as a function of standard operators, run where onnxruntime has no
            implementation of its own.
    """

    name: str
    domain: str = ""
    axes: AxesRule | None = None
    zero: ZeroRule = never
    beside: tuple[int, ...] = ()
    constant: Carry = nothing
    opens: Opens = no_bodies
    sizes: SizeRule | None = None
    linear: LinearRule | None = None
    symmetry: SymmetryRule | None = None
    parameters: tuple[int, ...] = ()
    trainable: bool = True
    statistics: tuple[int, ...] = ()
    elementwise: bool = False
    copies: bool = False
    rearranges: Rearrangement = ""
    keeps_shape: bool = False
    sizes_only: bool = False
    random: Randomness = ""
    arithmetic: Arithmetic = ""
    normalises: Normalisation = ""
    moves: Movement = ""
    carries: Sequence[int] = ()
    quantises: Quantisation = ""
    jumps: bool = False
    vanishes: bool = False
    saturates: bool = False
    gates: int = 0
    discrete: bool = False
    rounds: bool = False
    attends: bool = False
    affine: tuple[int, ...] = ()
    splits: bool = False
    sums: Total = ""
    lists: tuple[int, ...] = ()
    zero_points: tuple[int, ...] = ()
    demands: Consumer | None = None
    inverse: Inverse | None = None
    gradient: GradientRule | None = None
    function: onnx.FunctionProto | None = None

    @property
    def mixes(self) -> bool:
        """Return whether it multiplies its data by matrices: a layer of a network."""
        return self.linear is not None

    def views(self, operands: Operands) -> tuple[LinearView, ...]:
        """Return the linear views of a node of this operator, none where it is not linear."""
        return tuple(self.linear(operands)) if self.linear is not None else ()


class Operation(Protocol):
    """A node of any library, by the properties that identify its operator."""

    @property
    def op_type(self) -> str:
        """The operator's name."""

    @property
    def domain(self) -> str:
        """The operator's domain."""


SPECS: dict[tuple[str, str], OpSpec] = {}
"""The specs by domain and name; `find_spec` and `spec_of` fill the table before they read it."""
PACKAGES = ("onnxprune.ops.axes", "onnxprune.ops.facts", "onnxprune.ops.sizes", "onnxprune.ops.symmetry")
"""Every module of these is imported to fill the table: a new family of operators is a new file."""
MICROSOFT = "com.microsoft"
"""The domain of onnxruntime's own operators."""
STANDARD_DOMAINS = ("", "ai.onnx")
"""The names of the domain of ONNX itself."""
ENTRY_POINTS = "onnxprune.ops"
_STANDARD = "ai.onnx"
_loaded = False


def enter(domain: str, name: str, **facts: Any) -> OpSpec:
    """Add to the facts of an operator, and return all of them."""
    known = SPECS.get((domain, name)) or OpSpec(name, domain)
    spec = SPECS[domain, name] = replace(known, **facts)
    return spec


def enter_all(operators: str, domain: str = "", **facts: Any) -> None:
    """Add facts to several operators.

    Args:
        operators: Their names, separated by spaces.
        domain: Their domain.
        facts: The fields of `OpSpec`.
    """
    for name in operators.split():
        enter(domain, name, **facts)


def entry(fact: str, *operators: str, domain: str = "", **facts: Any) -> Callable[[R], R]:
    """Enter the decorated rule into the table.

    Args:
        fact: The field of `OpSpec` that the rule is.
        operators: The operators it is of.
        domain: Their domain.
        facts: Further fields.
    """

    def add(rule: R) -> R:
        for operator in operators:
            enter(domain, operator, **{fact: rule}, **facts)
        return rule

    return add


def find_spec(domain: str, name: str) -> OpSpec:
    """Return an operator's spec; an empty one for an unknown operator."""
    load()
    domain = "" if domain == _STANDARD else domain
    return SPECS.get((domain, name)) or OpSpec(name, domain)


def spec_of(node: Operation) -> OpSpec:
    """Return the spec of a node's operator; an empty one for an unknown operator."""
    return find_spec(node.domain, node.op_type)


def load() -> None:
    """Fill the table, the operators from outside the package last."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    for package in PACKAGES:
        for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
            importlib.import_module(f"{package}.{module.name}")
    for name, entered in plugins(ENTRY_POINTS).items():
        for spec in entered if isinstance(entered, list | tuple) else (entered,):
            _add_foreign(name, spec)


def _add_foreign(plugin: str, spec: object) -> None:
    """Add an operator from outside the package.

    Raises:
        PluginError: It is no spec, or the operator is known already.
    """
    if not isinstance(spec, OpSpec):
        raise PluginError(
            f"'{plugin}' of {ENTRY_POINTS} holds no OpSpec", "let it name an OpSpec, or a list of them"
        )
    if (spec.domain, spec.name) in SPECS:
        raise PluginError(
            f"'{plugin}' of {ENTRY_POINTS} describes {spec.domain or _STANDARD}.{spec.name}, which is known",
            "give the operator a domain of its own",
        )
    SPECS[spec.domain, spec.name] = spec
