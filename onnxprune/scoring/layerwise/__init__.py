"""A network layer by layer: moments of each layer's operands, and least squares on them.

trace       a model run piece by piece, each node once, while its weights change
linear      matrix products as one linear map of rows
windows     convolutions likewise
layers      which nodes are linear maps
moments     sums over samples, with the means and errors derived from them
gather      the moments of a layer, within a bound of memory and of work
shifts      where the mean of a result can be moved: biases, means, additions
solve       ridge regression
statistics  BatchNormalization statistics estimated anew
obs         the error of a layer when inputs are removed and the others compensate (optimal brain surgeon)
"""
