"""One model as the proof reads it; both models are read alike.

inner_graphs    graphs inside nodes
inference       the sizes that onnx infers
definitions     operators of several steps as plain ones
attention_definitions, quantised_definitions    more of them
known_elements  sequences and optional values whose elements are known
parts_of_joins, merged_axes    nodes in a simpler form
carried         states of loops that never change, read from outside
stacks          the axes that a Scan goes along, and the sizes they give
graph           all of that
"""
