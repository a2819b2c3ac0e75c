"""The canonical form of a module, which the analyses read: one file a rewrite.

canonicalise      the order of the rewrites; known values as constants
canonical_bodies  graphs inside nodes, with names of their own; branches that are known
computed_weights  weights that a network computes from other constants
copied_constants  copies of constants by Identity
sharing           constants that are equal by accident, one for each reader
own_fills         the same for tensors of one number whose size is open
joined_parts      parts of joined tensors, read where they were before they were joined
rejoined_parts    tensors cut and joined again in order, read where they were before the cut
sequences         sequences of tensors, as the tensors they consist of
optionals         optional values, as their elements where these are known
unchanged_states  states of loops that never change
routers           mixtures of experts whose router gets a bias
merged            matrices that an exporter merged, split again
freed             outputs whose width is opened by an identity product
"""
