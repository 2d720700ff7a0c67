"""Textured rooms drawn with exact depth and pose, to train matching on."""
