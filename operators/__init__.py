"""Taxiway: one package for each stage of a model's life."""
