"""Pure functions on the arrays of one example; `vmap` them over batches."""
