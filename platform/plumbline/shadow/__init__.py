"""Shadow evaluation: router, spool, worker and pairs. Tee, then replay; every lost pair has a reason."""

from plumbline.shadow.experiment import ShadowRun, replay, start_shadow
from plumbline.shadow.pairs import read_pairs, summarise
from plumbline.shadow.recorder import Consent
from plumbline.shadow.sampling import Experiment, read_experiment, sampled, session_pseudonym
from plumbline.shadow.spool import Change, Loss, Outcome, Spool
from plumbline.shadow.spool_state import Switched
from plumbline.statistics.sequential import Bounds, confidence_sequence, session_means

__all__ = [
    "Bounds",
    "Change",
    "Consent",
    "Experiment",
    "Loss",
    "Outcome",
    "ShadowRun",
    "Spool",
    "Switched",
    "confidence_sequence",
    "read_experiment",
    "read_pairs",
    "replay",
    "sampled",
    "session_means",
    "session_pseudonym",
    "start_shadow",
    "summarise",
]
