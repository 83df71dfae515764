"""Augmentation, losses, the loop and checkpoints; knows nothing about engines and streams."""
