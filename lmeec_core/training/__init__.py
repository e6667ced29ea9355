"""Training: data in device memory, augmentation, losses, clip steps, trainer, evaluation."""
