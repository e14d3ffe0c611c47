"""Similarity of images as people see it: SSIM, LPIPS; registration of views by their images."""
