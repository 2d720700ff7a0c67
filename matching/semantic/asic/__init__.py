"""ASIC: the pictures of a small collection brought into one canonical space, fitted to that collection alone."""
