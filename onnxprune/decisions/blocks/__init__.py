"""The decision on residual blocks: a branch that is added to its own stream is kept or removed as a whole.

removal     the dense form: sums without their removed operands, and the nodes nothing needs any more

`analysis.groups.blocks` finds the branches; `Channels` counts a removed one among the removed channels, as
the only element of a group of its name. The mask is that of `decisions.channels.masks`.
"""

from onnxprune.decisions.blocks.removal import without_blocks

__all__ = ["without_blocks"]
