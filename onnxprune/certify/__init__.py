"""A verifier of its own: a dense model is the sparse one, for all inputs and all sizes.

    python -m onnxprune.certify SPARSE DENSE [CERTIFICATE] [--original FILE] [--json]

It imports numpy and onnx, but no other part of the program, and shares no rule with it. For every input for
which the tensors of the sparse model are finite, the dense model computes the same, in real arithmetic: sums
are the same but for terms that are zero. Constants that were moved into biases are compared after rounding.
Operators without a rule are refused by name.

refusal         the exception of a failed proof
sizes           sizes of tensors in each model, as integers times unknowns, and shape arithmetic
relations       the elements of a sparse tensor that a dense one holds, and intervals that hold them
reading         one model: its graphs, sizes and constants, its nodes in their simplest form
rules           the rules, operator by operator
proof           relations from the inputs to the outputs
certification   the result
certificate     the hints in a file
"""

from onnxprune.certify.certificate import digest, to_json
from onnxprune.certify.certification import CertifyResult, certify

__all__ = ["CertifyResult", "certify", "digest", "to_json"]
