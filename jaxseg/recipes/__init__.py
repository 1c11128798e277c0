"""Methods tied to data: what several experiments of one kind share."""
