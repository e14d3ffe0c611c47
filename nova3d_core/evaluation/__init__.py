"""Evaluation of meshes, poses and conflict maps against ground truth."""
