"""Decisions on ranks: a product with weights becomes a chain of two or three smaller ones.

splittable_layers  the products that can be split, their kernels and their costs
split_forms        the ways to split a kernel, and the ranks at which that pays
rewrite            the nodes of the chain in the place of the node
"""

from onnxprune.decisions.ranks.rewrite import written
from onnxprune.decisions.ranks.split_forms import Form, FormName, RankOption, forms_of, options_of
from onnxprune.decisions.ranks.splittable_layers import (
    RankLayer,
    WholeLayer,
    find_layers,
    with_written_weights,
)

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
