"""The KServe predictor, and starting one as a process. `plumbline.serving.predictor` is heavy: import it by name."""

from plumbline.serving.process import PredictorProcess, wait_all

__all__ = ["PredictorProcess", "wait_all"]
