"""Size rules: the sizes of the results of each operator, one file a family.

A rule is given a `Node` and says what its results are; `onnxprune.ops.spec` holds it. What no rule knows is
asked of onnx and of onnxruntime.
"""
