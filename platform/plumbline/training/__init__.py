"""From a dataset version to an aligned policy: mask, batch, loss, loop, checkpoint, export."""

from plumbline.training.train import Trained, train

__all__ = ["Trained", "train"]
