"""Datasets as typed samples, one collate rule, one loader."""
