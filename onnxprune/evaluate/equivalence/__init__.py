"""The proof that two models compute the same, and when it is none.

Two models agree if their interfaces are the same, both take the same sizes, every output was seen to be
finite and to change with the input, and all differences are rounding. Otherwise they differ, or nothing is
shown.

contract           names, types, ranks
subjects           both models changed alike where the runtime cannot run them as they are
draws              inputs of those shapes
coverage           every row of a table
paths              float types and rounding on the way to a tensor
tails              operands of operators that saturate or pick; the part of both graphs that is the same
measure            errors, and evidence that a difference would have been seen
noise              how far one last place moves the results
judgement          tolerances
runs               the runs of both models, within a budget
conclusion         the verdict on every output, from all runs
examination        all of it together
verdict            the result
device             the comparison on the device in use, after the one on the CPU
overflow           tensors that are no numbers, or next to infinity
tensor_comparison  two models run side by side, and the differences of their tensors
verification       a verdict on two models, or an error with the reason why there is none
"""

from onnxprune.evaluate.equivalence.examination import examine
from onnxprune.evaluate.equivalence.runs import CheckBudget
from onnxprune.evaluate.equivalence.verdict import OutputVerdict, Verdict
from onnxprune.evaluate.equivalence.verification import is_exact, verify

__all__ = ["CheckBudget", "OutputVerdict", "Verdict", "examine", "is_exact", "verify"]
