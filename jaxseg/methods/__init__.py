"""One module per paper; each fills `types.Method`."""
