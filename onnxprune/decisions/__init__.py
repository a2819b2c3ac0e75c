"""Decisions about a network, each with a mask, a rewrite and a cost.

channels     channels: first as zeros, then cut
blocks       residual blocks, kept or removed as a whole
bases        axes put into other coordinates, the results of the network the same
ranks        products with weights as chains of smaller ones
elements     single elements of weights: N of every M, or a share
pattern      the patterns of such zeros, and their note
plan         plans and analyses as data
rotation     the note of a rotated model
origin_note  the note of statistics of the original
note_form    the common form of notes in the metadata
"""
