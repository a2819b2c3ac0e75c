"""Size rules: the sizes of the results of each operator, one file a family.

A rule is given a `SizedNode` and states its results; `onnxprune.ops.spec` holds it. Sizes that no rule gives
are inferred by onnx and by onnxruntime.
"""
