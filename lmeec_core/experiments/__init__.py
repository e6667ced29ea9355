"""Experiments about the method: ablations, and how simple methods compare."""
