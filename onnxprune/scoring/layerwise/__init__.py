"""A network layer by layer: what arrives at each, and what follows from it.

trace       a model run piece by piece, each node once, while its weights change
linear      matrix products as one linear map of rows
windows     convolutions likewise
layers      which nodes are linear maps
moments     sums over samples, and what follows from them
gather      the moments of a layer, within a bound of memory and of work
shifts      where the mean of a result can be moved: biases, means, additions
solve       ridge regression
statistics  BatchNormalization statistics estimated anew
surgeon     what a layer loses when inputs go and the others make up for it
"""
