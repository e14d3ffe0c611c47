"""Builds networks for a file and loads its tensors into them."""
