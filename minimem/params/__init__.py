"""Parameters: what is kept is weights; writing is an update step, reading a forward pass."""
