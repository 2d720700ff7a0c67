"""Sparse-view reconstruction: correspondences in, cameras, points and surfaces out."""
