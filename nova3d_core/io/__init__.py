"""Reading and writing files: views, images, meshes, settings."""
