"""Exports recordings and their masks as datasets in common formats: LeRobot, HDF5, COCO, ..."""
