"""Rendering and fitting of Gaussian splats."""
