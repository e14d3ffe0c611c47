"""From one image to views of the object in it: video diffusion models that walk around it."""
