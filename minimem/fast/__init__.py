"""Adapters to optimized libraries: the only place that imports them."""
