"""Reading and writing of files that hold tensors."""
