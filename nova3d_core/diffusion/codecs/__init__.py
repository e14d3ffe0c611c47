"""Image codecs (VAE, pixel blocks) and image encoders (CLIP, small)."""
