"""The rules, by families of operators.

node_pair       two nodes; the table of rules
layers          linear layers, and the biases and groups of their channels
convolutions, products, einsum    sums of products
elementwise, quantisation    operators element by element
moves, windows, reductions    tensors rearranged, and elements taken together
recurrent, bodies    operators with steps, and with graphs inside
"""
