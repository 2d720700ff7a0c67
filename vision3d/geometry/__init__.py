"""Projective and rigid geometry on tensors."""
