"""Writes the self-contained report.html of a run."""
