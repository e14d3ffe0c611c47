"""Mesh files: readers and writers."""
