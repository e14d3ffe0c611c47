"""The fusion pipeline: from views to a textured mesh, stage by stage or as a whole."""
