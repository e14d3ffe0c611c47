"""Gaussian splats from four views in one forward pass: LGM, and Ouroboros3D's variant of it."""
