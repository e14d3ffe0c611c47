"""Metrics of geometry, images, poses and conflict maps."""
