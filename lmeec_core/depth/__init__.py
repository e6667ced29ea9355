"""Objects in 3D from depth images: reading, point clouds of masks, fusion of several cameras."""
