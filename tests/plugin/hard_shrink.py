"""An operator from outside the package: HardShrink, ``x`` where ``|x| > lambd``, else 0."""

from onnx import helper

from onnxprune.ops.axes.constant_rules import by_itself
from onnxprune.ops.axes.pointwise import elementwise
from onnxprune.ops.sizes.elementwise import same_shape
from onnxprune.ops.spec import OpSpec, first

DOMAIN = "com.example"


def _function():
    """Return the operator as a function of standard ones, which onnxruntime runs."""
    bound = helper.make_node("Constant", [], ["bound"])
    bound.attribute.add(name="value_float", ref_attr_name="lambd", type=1)
    nodes = [
        bound,
        helper.make_node("Constant", [], ["zero"], value_float=0.0),
        helper.make_node("Abs", ["x"], ["size"]),
        helper.make_node("Greater", ["size", "bound"], ["large"]),
        helper.make_node("Where", ["large", "x", "zero"], ["y"]),
    ]
    return helper.make_function(
        DOMAIN, "HardShrink", ["x"], ["y"], nodes, [helper.make_opsetid("", 17)], ["lambd"]
    )


HARD_SHRINK = OpSpec(
    "HardShrink",
    DOMAIN,
    axes=elementwise,  # every axis of the result is that of the operand
    zero=first,  # zero stays zero
    constant=by_itself,  # computed element by element
    elementwise=True,
    sizes=same_shape,
    function=_function(),
)
CONV = OpSpec("Conv")
"""An operator that is known already."""
