"""Fixed states: what is kept is an array of constant size, rewritten at every token."""
