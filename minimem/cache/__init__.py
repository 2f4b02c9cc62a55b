"""Growing caches: what is kept is keys and values, one more for each token, or fewer by a rule."""
