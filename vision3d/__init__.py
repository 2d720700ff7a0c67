"""Sparse 3D vision: correspondences, sparse-view reconstruction and sparse-convolution detection on one data layer."""

__version__ = "0.1.0"
