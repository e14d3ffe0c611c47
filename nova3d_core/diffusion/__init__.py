"""From one picture to views of the object in it: video diffusion models that walk around it."""
