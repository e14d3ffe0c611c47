"""Sampling: preprocessing, conditioning, guidance, Euler steps, decoding."""
