"""Inputs that a model can take, read from its graph.

demand         conditions on the elements of one tensor
value_facts    constants, sizes and origins of tensors
consumers      conditions that operators put on their operands
inverse        conditions on a result as conditions on the operands
input_demands  one walk from the outputs to the inputs: the conditions on each input
drawn_values   from conditions and names to the values that are drawn
other_shapes   shapes to try when those of the analysis fail
ladder         full shapes to try, smallest first: small, odd, one, unequal, other batches
feed_trials    feeds the model has been run on
fixed_tensors  tensors of one size in every run, compared with the memory allowed
"""

from onnxprune.analysis.inputs.drawn_values import input_values
from onnxprune.analysis.inputs.feed_trials import feeds_that_run
from onnxprune.analysis.inputs.fixed_tensors import check_fixed_tensors
from onnxprune.analysis.inputs.ladder import trial_shapes

__all__ = ["check_fixed_tensors", "feeds_that_run", "input_values", "trial_shapes"]
