"""A network layer by layer: moments of each layer's operands, and least squares on them.

trace              a model run piece by piece, each node once, while its weights change
segments           a model as consecutive sessions of a bounded number of nodes
linear_views       matrix products as one linear map of rows
im2col             convolutions likewise
layer_recognition  recognition of nodes that are linear maps
moments            sums over samples, with the means and errors derived from them
row_moments        the moments of a layer, within a bound of memory and of work
shifts             where the mean of a result can be moved: biases, means, additions
ridge              ridge regression
batch_statistics   BatchNormalization statistics estimated anew
obs                the error of a layer whose other inputs make up for removed ones (optimal brain surgeon)
elements           single elements of a matrix: which of them go, and how the others of a row make up for it
low_rank_kernels   kernels of low rank
"""
