"""Simulated scans: streets seen by a spinning LiDAR, rooms seen by a depth camera, with their ground truth."""
