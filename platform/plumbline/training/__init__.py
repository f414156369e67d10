"""From a dataset version to an aligned policy: mask, batch, loss, loop, checkpoint, export."""

from plumbline.training.train import Trained, prepare, train

__all__ = ["Trained", "prepare", "train"]
