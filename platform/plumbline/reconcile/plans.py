"""What a RayJob beside training is to do: the document that its ConfigMap carries. A run is named after its digest.

Paths are seen from the pods; a relative one lies on the shared storage (`--storage`). No item of a suite, no event and
no key is in a plan: they are on the storage and in Secrets, not in etcd.
"""

from pydantic import Field

from plumbline.records import Digest, Record, Rubric
from plumbline.records.canonical import short


class EvaluationPlan(Record):
    """Two policies and the suites to compare them on. `suite`, where it is given, is the digest that the suites must
    have together; `datasets` (NAME@VERSION) are what the aligned policy was trained on, read from the ledger."""

    schema_id = "plumbline.dev/evaluation-plan/v1"

    reference: str
    aligned: str
    suites: tuple[str, ...]
    rubric: Rubric
    suite: Digest | None = None
    max_tokens: int = Field(default=64, ge=1)
    datasets: tuple[str, ...] = ()
    judge: str | None = None
    labels: str | None = None
    variants: str | None = None
    record: bool = False

    @property
    def run_name(self) -> str:
        return f"eval-{short(self.digest)}"


class BackfillPlan(Record):
    """A file of feedback events (JSON lines or Parquet) and the source that they come from."""

    schema_id = "plumbline.dev/backfill-plan/v1"

    file: str
    source: str

    @property
    def run_name(self) -> str:
        return f"backfill-{short(self.digest)}"
