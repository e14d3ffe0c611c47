"""Builds networks and fills them with the tensors of a file."""
