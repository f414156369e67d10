"""What one run of the loop did, in one record: the only thing the report is made from.

The loop fills a `LoopStory` as it goes; the page, `summary.json` and the closing table are pure functions of it.
So a story can be kept, sent and rendered again elsewhere to the same bytes, and nothing on the page can be
staged: a sentence that is not in these records, or computed from them, has nowhere to come from.

Every part but the seed and the ending may be missing. A loop that stopped early still gets a page, which says
what is missing and, from `ending` and `exit_notes`, why.
"""

from pydantic import Field

from plumbline.records import (
    DatasetDiff,
    DatasetManifest,
    Digest,
    EvaluationReport,
    GateDecision,
    PolicyManifest,
    Record,
    ReleaseEntry,
    Rubric,
    ShadowSummary,
    TrainingRecord,
    Verdict,
)

AS_PLANNED = "as_planned"


class Redactions(Record):
    """What was blanked out of feedback before it became examples. `samples` are texts *after* redaction."""

    schema_id = "plumbline.dev/redactions/v1"

    counts: dict[str, int] = Field(default_factory=dict)
    samples: tuple[str, ...] = ()


class Withdrawal(Record):
    """A subject who withdrew, as a keyed pseudonym, and the sentence that proves the absence (counts, digests)."""

    schema_id = "plumbline.dev/withdrawal/v1"

    pseudonym: str
    proof: str


class LineageEdge(Record):
    """`from` became part of, or was used for, `to`: ids are digests or names, kinds are words of DESIGN section 2."""

    schema_id = "plumbline.dev/lineage-edge/v1"

    from_kind: str
    from_id: str
    relation: str
    to_kind: str
    to_id: str


class Stage(Record):
    """One step of the loop: wall time in seconds, and its product by digest (none for a side effect)."""

    schema_id = "plumbline.dev/stage/v1"

    name: str
    seconds: float = Field(ge=0)
    product: Digest | None = None


class LoopStory(Record):
    """Everything the report tells. `ending` is `as_planned`, or a sentence that says what happened instead.

    `policies` start with the reference; `reports`, `decisions` and `training` name policies by digest and may be
    fewer than the policies. `datasets` are in order of version; `diff` is between the last two.
    """

    schema_id = "plumbline.dev/loop-story/v1"

    seed: int
    ending: str = Field(min_length=1)
    rubric: Rubric | None = None
    policies: tuple[PolicyManifest, ...] = ()
    datasets: tuple[DatasetManifest, ...] = ()
    diff: DatasetDiff | None = None
    redactions: Redactions | None = None
    withdrawn: tuple[Withdrawal, ...] = ()
    reports: tuple[EvaluationReport, ...] = ()
    decisions: tuple[GateDecision, ...] = ()
    training: tuple[TrainingRecord, ...] = ()
    shadows: tuple[ShadowSummary, ...] = ()
    releases: tuple[ReleaseEntry, ...] = ()
    lineage: tuple[LineageEdge, ...] = ()
    stages: tuple[Stage, ...] = ()
    versions: dict[str, str] = Field(default_factory=dict)
    exit_notes: tuple[str, ...] = ()

    @property
    def reference(self) -> PolicyManifest | None:
        return next((policy for policy in self.policies if policy.role == "reference"), None)

    @property
    def serving(self) -> str | None:
        """Digest of the policy that the release pointer names at the end; None when nothing was ever released."""
        return max(self.releases, key=lambda entry: entry.sequence).policy if self.releases else None

    def policy_name(self, digest: str) -> str:
        """The name people use for a policy; its short digest when the story does not hold the manifest."""
        for policy in self.policies:
            if policy.digest == digest:
                return policy.name
        return digest.removeprefix("sha256:")[:12]

    def report_on(self, aligned: str) -> EvaluationReport | None:
        """The last report on an aligned policy, by the policy's digest."""
        return next((report for report in reversed(self.reports) if report.aligned == aligned), None)

    def decision_on(self, aligned: str) -> GateDecision | None:
        """The last gate decision on an aligned policy, by the policy's digest."""
        return next((decision for decision in reversed(self.decisions) if decision.aligned == aligned), None)

    @property
    def shows_the_plan(self) -> bool:
        """Whether the records themselves show the planned story, whatever `ending` says: the first gate refused,
        the last passed, and the policy that passed is the one that serves."""
        if len(self.decisions) < 2:
            return False
        first, last = self.decisions[0], self.decisions[-1]
        return first.verdict is Verdict.REGRESSED and last.verdict is Verdict.PASS and self.serving == last.aligned
