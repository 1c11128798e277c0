"""Files to batches, on the host, with NumPy."""
