"""The oracle, which tells whether two models compute the same.

Both run the same inputs with none of the runtime's optimisations. Where an output comes out of a function
that saturates (Softmax, Sigmoid, ArgMax …) what goes into that function is compared instead: beyond it a real
difference can vanish, and rounding can look large. Rounding alone makes models differ a little, for a shorter
sum is added up in another order. Where a network magnifies it beyond the usual tolerance its own noise is the
yardstick: how far the *same* model comes out apart with and without the runtime's optimisations. And no
output is judged finer than the runtime computes: its exponentials and sigmoids are good to the last place of
1.0, not of their own small results.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxprune.data import DataSpec, open_data
from onnxprune.errors import ModelError, VerificationError
from onnxprune.graph import Model, bodies
from onnxprune.groups.channels import Channels, cuts_inexactly
from onnxprune.inputs import feeds_that_run
from onnxprune.removal.interface import Interface, NarrowedSession
from onnxprune.removal.planned import planned_channels, stored_plan
from onnxprune.runtime import Agreement, Difference, Session, compare

TOLERANCES = {2: 1e-2, 4: 1e-5, 8: 1e-10}
"""Largest relative error by the size, in bytes, of the network's narrowest floating-point type."""
_BYTES: dict[int, int] = {
    onnx.TensorProto.FLOAT16: 2,
    onnx.TensorProto.BFLOAT16: 2,
    onnx.TensorProto.FLOAT: 4,
    onnx.TensorProto.DOUBLE: 8,
}
SATURATING = {"ArgMax", "ArgMin", "HardSigmoid", "LogSoftmax", "Sigmoid", "Softmax", "Tanh"}
TRANSPARENT = set("Cast Flatten Identity ReduceMean Reshape Squeeze Transpose Unsqueeze".split())
LAST_PLACE = {2: 2**-10, 4: 2**-23, 8: 2**-52}
"""The spacing of numbers at 1.0 by the size, in bytes, of the type."""
ONE_STEP = 1e-2
"""Tolerance of quantised networks: rounding may end at the next of 256 steps, and a few of those add up."""
NOISE_MARGIN = 4
LARGEST_MARGIN = 100
"""The tolerance is never stretched by more than this."""


@dataclass(frozen=True)
class Verdict:
    """How well two models agree, and how well they have to.

    Attributes:
        agreement: The differences found.
        allowed: The largest relative error that passes.
        floor: An absolute error that passes ...
        largest: ... up to this relative error.
        noise: The network's own noise, measured only where the usual tolerance is exceeded.
        exact: Whether the models have to agree. They need not where the user let axes be shortened that the
            network normalises over; then a difference is reported and no error.
    """

    agreement: Agreement
    allowed: float
    floor: float
    largest: float
    noise: float | None = None
    exact: bool = True

    @classmethod
    def usual(cls, agreement: Agreement, width: int, exact: bool) -> Verdict:
        """Judge by the usual tolerance of floating-point numbers of ``width`` bytes."""
        usual = TOLERANCES[width]
        return cls(agreement, usual, 2 * LAST_PLACE[width], usual * LARGEST_MARGIN, exact=exact)

    def allowed_at(self, noise: float) -> float:
        """Return the relative error that passes in a network of this noise."""
        return min(max(self.allowed, NOISE_MARGIN * noise), self.largest)

    @property
    def max_rel_error(self) -> float:
        """The largest relative error of all that was compared."""
        return self.agreement.max_rel_error

    @property
    def equal(self) -> bool:
        """Whether the models compute the same."""
        return all(self._passes(d) for d in self.agreement.per_output.values())

    def _passes(self, found: Difference) -> bool:
        rounding = found.max_abs_error <= self.floor and found.max_rel_error <= self.largest
        return found.max_rel_error <= self.allowed or rounding

    def facts(self) -> dict[str, Any]:
        """Return the verdict, ready for JSON."""
        found: dict[str, Any] = {
            "equal": self.equal,
            "exact": self.exact,
            "max_rel_error": self.max_rel_error,
            "max_abs_error": self.agreement.max_abs_error,
            "allowed_rel_error": self.allowed,
            "runs": self.agreement.samples,
        }
        return found | ({"noise_rel_error": self.noise} if self.noise is not None else {})


def verify(
    sparse: Model,
    dense: Model,
    *,
    channels: Channels | None = None,
    removed: Mapping[str, Sequence[int]] | None = None,
    data: DataSpec | None = None,
    samples: int = 64,
    seed: int = 0,
) -> Verdict:
    """Compare two models on the same inputs.

    Args:
        sparse: The model that is right by definition.
        dense: The model to be judged.
        channels: The groups of the first, where they are known already.
        removed: What the second has lost of them, by group name, where inputs or outputs have shrunk with it;
            by default what the plan of the first says.
        data: Data to compare on, beside random inputs.
        samples: How many samples of the data.
        seed: Seed of the random inputs.

    Raises:
        VerificationError: They disagree by more than is allowed, although they have to agree.
    """
    plan = stored_plan(sparse)
    channels = channels or planned_channels(sparse, plan)
    judged = _judged_tensors(sparse, channels)
    if not dense.names.issuperset(judged):  # not of our making
        judged = [o.name for o in sparse.outputs]
    sources = [_with_outputs(m, judged, channels) for m in (sparse, dense)]
    reference, candidate = (Session(s, optimize=False) for s in sources)
    feeds = list(_feeds(reference, channels, data, samples, seed))
    gone = removed if removed is not None else plan.removed if plan is not None else {}
    changed = Interface.of(channels, gone, (*judged, *(i.name for i in reference.inputs)))
    whole = NarrowedSession(reference, changed, fed=False)
    agreement = compare(whole, NarrowedSession(candidate, changed, fed=True), feeds)
    exact = plan is None or not cuts_inexactly(channels, plan.removed)
    verdict = Verdict.usual(agreement, float_width(sparse), exact)
    if any("Quantize" in node.op_type or node.op_type.startswith("QLinear") for node in sparse.nodes):
        verdict = replace(verdict, allowed=ONE_STEP, largest=ONE_STEP)
    if not verdict.equal:
        optimised = NarrowedSession(Session(sources[0]), changed, fed=False)
        noise = compare(whole, optimised, feeds).max_rel_error
        verdict = replace(verdict, allowed=verdict.allowed_at(noise), noise=noise)
    if not verdict.equal and (exact or agreement.reason):
        error = f"relative error {verdict.max_rel_error:.2e}, allowed {verdict.allowed:.0e}"
        raise VerificationError(
            f"{sparse.name} and {dense.name} do not compute the same: {verdict.agreement.reason or error}",
            "if neither was changed by other tools, please report this: it is a defect of onnxprune",
            verdict.facts(),
        )
    return verdict


def float_width(model: Model) -> int:
    """Return the size, in bytes, of the narrowest floating-point type among a model's weights."""
    kinds: set[int] = {t.data_type for t in model.constants.values() if np.prod(t.dims) > 1}
    return min((_BYTES[k] for k in kinds if k in _BYTES), default=4)


def _judged_tensors(model: Model, channels: Channels) -> list[str]:
    """Return the outputs, or what saturating functions made them of."""
    makers = {o: n for n in model.proto.graph.node for o in n.output}
    known = channels.typing.shapes.types
    judged = []
    for output in model.outputs:
        name = source = output.name
        while source in makers and (before := _before(makers[source])):
            saturates = makers[source].op_type in SATURATING
            source = before
            if saturates and source in makers and source in known:
                name = source
        judged.append(name)
    return list(dict.fromkeys(judged))


def _before(node: onnx.NodeProto) -> str:
    """Return what a node passes on, saturated or moved about; of an If what all its branches pass on."""
    if node.op_type in SATURATING | TRANSPARENT:
        return str(node.input[0])
    passed: set[str] = set()
    for branch in bodies(node) if node.op_type == "If" else ():
        makers = {o: n for n in branch.node for o in n.output}
        source = branch.output[0].name
        while source in makers and makers[source].op_type in TRANSPARENT:
            source = makers[source].input[0]
        passed.add(source if source not in makers else "")
    return passed.pop() if len(passed) == 1 else ""


def _with_outputs(model: Model, names: list[str], channels: Channels) -> onnx.ModelProto:
    """Return the model with other outputs; itself where they are the same."""
    if names == [o.name for o in model.outputs]:
        return model.proto
    proto, types = model.copy().proto, channels.typing.shapes.types
    declared = {o.name: o for o in model.outputs}
    del proto.graph.output[:]
    for name in names:
        info = declared.get(name) or helper.make_tensor_value_info(name, types[name], None)
        proto.graph.output.append(info)
    return proto


def _feeds(
    session: Session, channels: Channels, data: DataSpec | None, samples: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield what both models are run on; where there is data, drawn inputs that do not run are left out."""
    try:
        shapes = channels.typing.shapes.inputs
        yield from feeds_that_run(channels.model, session, shapes, samples=2, seed=seed)
    except ModelError:
        if data is None:
            raise
    if data is not None:
        dataset = open_data(data, session.inputs, session.outputs)
        for batch in dataset.take(samples).batches(session.fixed_batch or 16):
            yield batch.inputs
