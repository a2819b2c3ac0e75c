"""Operators whose results hold elements of their operands, or numbers of another kind; quantisation."""

from __future__ import annotations

from onnxprune.ops.spec import ALL_OPERANDS, MICROSOFT, enter_all

WHOLE = (
    "Cast CastLike DepthToSpace Expand Flatten Identity Reshape ReverseSequence SpaceToDepth Squeeze Tile "
    "Transpose Unsqueeze"
)
PARTS = "Compress Gather GatherElements GatherND Slice Split"
PADDED = "CenterCropPad Dropout Pad Trilu"
enter_all(WHOLE, moves="whole")
enter_all(PARTS, moves="parts")
enter_all(PADDED, moves="padded")
enter_all("GatherND", MICROSOFT, moves="parts")
enter_all("Pad Trilu", MICROSOFT, moves="padded")

enter_all(
    "DepthToSpace Dropout Expand Flatten Gather GatherElements GatherND Identity MaxPool Pad ReduceMax "
    "ReduceMin Reshape Resize ReverseSequence Slice SpaceToDepth Split Squeeze Tile Transpose Unsqueeze "
    "Upsample",
    carries=(0,),
)
enter_all("GatherND NhwcMaxPool Pad", MICROSOFT, carries=(0,))
enter_all("ScatterElements ScatterND", carries=(0, 2))
enter_all("Where", carries=(1, 2))
enter_all("Concat", carries=ALL_OPERANDS)

enter_all("Dropout MaxPool TopK", beside=(1,))
enter_all("BatchNormalization", beside=(1, 2, 3, 4))
enter_all("LayerNormalization SimplifiedLayerNormalization", beside=(1, 2))
enter_all(
    "SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization",
    MICROSOFT,
    beside=(1, 2),
)

enter_all("DynamicQuantizeLinear QuantizeLinear", quantises="to integers")
enter_all("QuantizeLinear", MICROSOFT, quantises="to integers")
enter_all("DequantizeLinear", quantises="to floats")
enter_all("DequantizeLinear", MICROSOFT, quantises="to floats")
