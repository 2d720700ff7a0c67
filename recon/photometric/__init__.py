"""Poses aligned on the photos' own pixels: patches of the surface, compared between the photos that see them."""
