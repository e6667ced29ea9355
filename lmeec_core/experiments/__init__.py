"""Experiments on the method: ablations, baselines, and what single parts contribute."""
