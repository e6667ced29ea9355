"""Training: clips, augmentation, losses, recipes, the training loop and its scores."""
