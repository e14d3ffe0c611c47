"""A mesh to views, by ray casting."""
