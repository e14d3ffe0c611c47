"""Cameras, camera rigs and orbits."""
