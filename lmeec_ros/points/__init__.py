"""Positions of objects in space, from masks of calibrated cameras."""
