"""Generators of questions, each with a drawn example."""
