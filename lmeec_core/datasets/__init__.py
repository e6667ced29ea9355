"""Recordings with their masks as datasets that other programs read: LeRobot, HDF5, COCO, ..."""
