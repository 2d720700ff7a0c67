"""Semantic correspondence: the same part of different things of one category."""
