"""Metrics and the official protocols; reads saved results, never models."""
