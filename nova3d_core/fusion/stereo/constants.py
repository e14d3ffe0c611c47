"""Constants that the warp kernel and the PyTorch implementation of the plane sweep share."""

REACH_PX = 3
"""Half side of the patches, in pixels. Taps are the 25 pixels of the square whose offsets have an
even sum, as on a chessboard."""
MIN_MASK = 0.9
"""Coverage above which a tap shows the object only."""
MIN_TAPS = 15.0
"""Pairs of patches with fewer common taps on the object have no score."""
NOISE = 2e-4
"""Added to the variances of the normalised cross-correlation, summed over the channels: patches
without texture then score 0 instead of the correlation of their noise."""
NO_SCORE = -1.0
"""Score where no neighbour shows the patch; the lowest correlation."""
NOT_SEEN = -2.0
"""Correlation with a view that does not show the patch; below any other."""
MAX_STEP_PX = 12.0
"""Taps whose depth differs by more pixels from the patch's centre belong to another surface."""
