"""Decisions on ranks: a product with weights becomes a chain of two or three smaller ones.

layers      the products that can be split, their kernels and their costs
forms       the ways to split a kernel, and the ranks at which that pays
rewrite     the nodes of the chain in the place of the node
"""

from onnxprune.decisions.ranks.forms import Form, FormName, RankOption, forms_of, options_of
from onnxprune.decisions.ranks.layers import RankLayer, WholeLayer, find_layers, with_written_weights
from onnxprune.decisions.ranks.rewrite import written

__all__ = [
    "Form",
    "FormName",
    "RankLayer",
    "RankOption",
    "WholeLayer",
    "find_layers",
    "forms_of",
    "options_of",
    "with_written_weights",
    "written",
]
