"""Change of basis: axes that allow it put into other coordinates, the network's results the same.

change       maps applied to all constants that an axis lies on
recognition  normalisations that are spelled out, read as one operator
absorption   normalisations absorbed by their neighbours, so that only linear maps remain
handed_on    shifts that operators between a normalisation and its readers leave as they are
parameters   scale, shift and mean of a normalisation in other weights
spelling     a root mean square in operators that every runtime has
balance      the basis in which an axis is best cut
rotatable    a model with the axes that can be put into another basis, and its rewrite by given maps
"""

from onnxprune.decisions.bases.change import changed

__all__ = ["changed"]
