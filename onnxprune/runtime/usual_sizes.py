"""Usual sizes of open axes: the one table of numbers for sizes that are not given.

Two purposes have numbers of their own. Costs are stated at *reference* sizes, which are odd and unequal: axes
of equal numbers are equal axes. Work is forecast at *likely* sizes, those of a single sample. All others are
tried in turn, until a model runs.
"""

from __future__ import annotations

OPEN = 64
"""An axis of unknown meaning, the batch apart: a multiple of the usual strides."""

REFERENCE_BATCH, REFERENCE_SEQUENCE, REFERENCE_SOUND = 3, 11, 512
REFERENCE_PICTURES = ((224, 288, 96), (48, 320, 32), (32, 256, 32), (64, 96, 64), (640, 704, 128))
"""Height, width and depth, in the order in which they are tried: classifiers, text recognisers, detectors."""
REFERENCE_SQUARES = (224, 384, 256, 336, 448, 512, 518, 128, 32)
"""Sides of pictures where none of those fits."""
REFERENCE_LENGTHS = (11, 16, 8, 32, 64, 128, 512)
"""Lengths of sequences where none of those fits."""
DATA_DEPENDENT = 16
"""A size that depends on the data."""

LIKELY_BATCH, LIKELY_SEQUENCE, LIKELY_SIGNAL, LIKELY_FRAMES = 1, 32, 512, 128
LIKELY_SIDE, LIKELY_CHANNELS, LIKELY_CACHE = 224, 3, 16

LADDER = (4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 224, 256, 320, 384, 512, 640, 1024, 4096, 16000)
"""Lengths of an open axis, in the order in which they are tried to compare two models."""
LARGER = (32, 64, 96, 160, 224)
"""Lengths of which one axis has the double."""
SIDES = tuple(sorted((height, width) for height, width, _ in REFERENCE_PICTURES))
"""Heights and widths that text recognisers and detectors are often bound to."""
BATCHES = (2, 3, 1, 5, 8, 16, 24)
"""Numbers of samples."""

ODD = (7, 9, 5, 11, 13, 15, 17, 19, 3)
UNEQUAL = (6, 10, 4, 14, 12, 18, 2, 22)
"""Lengths that are preferred where sizes are solved for, an axis each."""
SOLVED_BATCHES = (2, 3, 1, 7, 5)
"""Batches of the sets of sizes that are solved for, in order; 3 divides few widths."""

LENGTHS = (16, 1, 64, 512, 4096)
"""Lengths of sequences to run a model with that does not run at its reference sizes, with ..."""
IMAGES = (224, 64, 32, 256, 384, 512, 640)
"""... or for the height, width and depth of images."""
