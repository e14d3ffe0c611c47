"""Image files: decoding, encoding, sRGB."""
