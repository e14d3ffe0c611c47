"""The visual hull of the silhouettes."""
