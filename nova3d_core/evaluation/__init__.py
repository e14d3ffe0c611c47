"""Evaluation of meshes, poses and conflict maps against a reference."""
