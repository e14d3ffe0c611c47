"""Constants that the warp kernels and the PyTorch implementation share."""

MIN_TRANSMITTANCE = 0.005
"""Rays end below this transmittance."""
STORED_SAMPLES = 32
"""Samples of a ray that a forward pass keeps for the backward pass; later ones are read again."""
COLOUR_BANDS = 1.5
"""Samples farther from the surface than this many bands contribute no colour."""
TINY = 1e-9
"""Added to denominators."""
HALF_DIAGONAL = 0.87
"""Upper bound of the distance from a point to the nearest voxel, in cells: sqrt(3) / 2."""
BETAS = (0.9, 0.95)
"""Adam's betas."""
EPS = 1e-9
"""Adam's epsilon."""
BLUR = (0.4, 0.24, 0.06)
"""Taps of the gradient blur: the voxel itself, its neighbours, and the next ones."""
