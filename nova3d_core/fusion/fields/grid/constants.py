"""Constants that the warp kernels and the PyTorch implementation share."""

MIN_TRANSMITTANCE = 0.005
"""Rays end below this transmittance."""
STORED_SAMPLES = 32
"""Samples of a ray that a forward pass keeps for the backward pass; later ones are read again."""
COLOUR_BANDS = 1.5
"""Samples farther from the surface than this many bands contribute no colour."""
TINY = 1e-9
"""Added to denominators."""
BLOCK_CELLS = 4
"""Side of the blocks of cells whose minimum of f lets rays skip them."""
BLOCK_MARGIN = 1.0
"""Cells by which f may fall before the minima are updated."""
PREFETCH_CELLS = 5.0
"""Distance from a sample to the voxels that are prefetched: less is too late."""
BETAS = (0.9, 0.95)
"""Adam's betas."""
EPS = 1e-9
"""Adam's epsilon."""
BLUR = (0.4, 0.24, 0.06)
"""Taps of the gradient blur: the voxel itself, its neighbours, and the next ones."""
