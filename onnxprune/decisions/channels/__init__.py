"""Removed channels: first as zeros, then cut.

planned               the plan in a sparse model
masks                 its zeros
ghost_corrections     sums corrected by the contributions of removed channels
configuration         files beside a model that state its width
dense_interface       inputs and outputs that shrink with it
channel_cut           the dense model
rescaling             its numbers that depend on the length of an axis
adapted_inputs        the dense model, fed with inputs of the whole one
assembly              a network that receives nodes and initializers of another
graph_comparison      two networks compared node by node
hints                 the elements of the sparse constants that the dense ones hold
kept_rows             numbers of rows after the removal of some
lists                 lists of sizes that a network puts together while it runs
own_graph             weights that were changed in canonical form, put back into the graph of the user's file
own_nodes             nodes of the user's file in place of folded constants that a cut left as they were
remaining_statistics  normalisations of a sparse model that take their statistics over the remaining channels
scales                scalar factors of cuts
size_sources          sizes that a network computes while it runs, changed at their sources
special_tokens        rows of a vocabulary that programs use by number, apart from texts: padding, start, end
summary               the widths of a dense model in its metadata, readable in a viewer of graphs
"""
