"""Objects in space from depth images: reading them, point clouds of masks, several cameras."""
