"""Mesh extraction, clean-up, simplification and UV unwrapping."""
