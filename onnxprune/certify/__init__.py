"""A verifier of its own: a dense model is the sparse one, for all inputs and all sizes.

    python -m onnxprune.certify SPARSE DENSE [CERTIFICATE] [--original FILE] [--json]

It imports numpy and onnx, but no other part of the program, and shares no rule with it. For every input for
which the tensors of the sparse model are finite, the dense model computes the same, in real arithmetic: sums
are the same but for terms that are zero. Constants that were moved into biases are compared after rounding.
Operators without a rule are refused by name.

refusal         the exception of a failed proof
size_products   sizes as integers times unknowns
shape_rules     the size rules, operator by operator
known_values    constants and shape arithmetic
definitions     operators of several steps as plain ones
attention_definitions, quantised_definitions    more of them
joined_parts, merged_axes    nodes read in a simpler form, in both models
carried         states of loops that never change, read from outside in both models
stacks          the axes that a Scan goes along, and the sizes they give
graph           all of that, of one model
element_bounds  intervals that hold elements of the sparse model, for all inputs
relation        which elements of a sparse tensor a dense one holds
reshaping       the same through Reshape
kept_constants  dense constants compared with the kept elements of sparse ones
node_pair       two nodes; the table of rules
elementwise, moves, windows, reductions, products, einsum, recurrent, bodies    the rules
proof           relations from the inputs to the outputs
certification   the result
certificate     the hints in a file
"""

from onnxprune.certify.certificate import digest, to_json
from onnxprune.certify.certification import CertifyResult, certify

__all__ = ["CertifyResult", "certify", "digest", "to_json"]
