"""Reading and writing the files that hold tensors."""
