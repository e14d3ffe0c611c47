"""Pose refinement: the pose table, and registration of views to the surface."""
