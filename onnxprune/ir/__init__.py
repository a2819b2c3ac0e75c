"""A model in memory.

model            the file's own message, and quick ways through it
nested_graphs    graphs inside nodes, and the values they capture
index            values with their producer and uses; liveness, backward slices
analyses         results of analyses, kept for one version of a model
extraction       subgraphs as models, models with other outputs
attributes       attributes of a node, decoded on access
given            sizes of inputs that the user gives
open_interface   inputs and outputs whose axes may shrink
sample_shapes    shapes of samples, at which work is counted
reading          from a file, external data included
checking         models of files, checked and put in the order of execution
meaning          forms that some writers use, brought into the usual one
mask_statistics  normalisations over the remaining channels of a sparse model
inlining         local functions put in the places of their calls
local_calls      the same calls, written again where their nodes are unchanged
vocabulary       tables whose rows the caller picks by number
damage           the fault of a file that cannot be read
canonical        the canonical form of a module, which the analyses read: one file a rewrite
compact          constants that a file made of much less than their values
declarations     declared shapes compared with those that inference finds; wrong ones are corrected
output           results on disk: whole or not at all, and no model that onnxruntime has not run
"""

from onnxprune.ir.analyses import AnalysisManager, Scope, analysis, analysis_scope
from onnxprune.ir.attributes import Attributes, attributes
from onnxprune.ir.checking import OLDEST_OPSET, check, check_weights, load, skeleton
from onnxprune.ir.extraction import extracted, with_outputs
from onnxprune.ir.given import axis_name, merged, sized
from onnxprune.ir.index import CAPTURED, GraphIndex, Use
from onnxprune.ir.mask_statistics import STATISTICS_KEY, note_statistics, noted_statistics, over_all_channels
from onnxprune.ir.model import FLOAT_TYPES, Model
from onnxprune.ir.nested_graphs import (
    anonymous,
    bodies,
    captured,
    dead_nodes,
    every_graph,
    flat,
    label,
    subgraphs,
)
from onnxprune.ir.open_interface import OPEN_KEY, fixed_axes, open_values, opened
from onnxprune.ir.sample_shapes import SAMPLES_KEY, note_sample_shapes, sample_shapes, sized_like
from onnxprune.ir.vocabulary import (
    VOCABULARY_KEY,
    Vocabulary,
    find_vocabulary,
    note_vocabulary,
    noted_vocabulary,
    pickable_rows,
    renumbered,
)

__all__ = [
    "CAPTURED",
    "FLOAT_TYPES",
    "OLDEST_OPSET",
    "OPEN_KEY",
    "SAMPLES_KEY",
    "STATISTICS_KEY",
    "VOCABULARY_KEY",
    "AnalysisManager",
    "Attributes",
    "GraphIndex",
    "Model",
    "Scope",
    "Use",
    "Vocabulary",
    "analysis",
    "analysis_scope",
    "anonymous",
    "attributes",
    "axis_name",
    "bodies",
    "captured",
    "check",
    "check_weights",
    "dead_nodes",
    "every_graph",
    "extracted",
    "find_vocabulary",
    "fixed_axes",
    "flat",
    "label",
    "load",
    "merged",
    "note_sample_shapes",
    "note_statistics",
    "note_vocabulary",
    "noted_statistics",
    "noted_vocabulary",
    "open_values",
    "opened",
    "over_all_channels",
    "pickable_rows",
    "renumbered",
    "sample_shapes",
    "sized",
    "sized_like",
    "skeleton",
    "subgraphs",
    "with_outputs",
]
