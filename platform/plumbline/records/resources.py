"""What Plumbline keeps in a cluster: the spec and the status of each custom resource, as records.

Everything in etcd is readable by whoever may read the namespace, is copied into every backup and cannot be erased
from them. So these records hold digests, counts, sequences and names of reasons. No text, and nobody by name or by
pseudonym: an erasure names the *digest* of a pseudonym. The only names are an approver's and a release's requester's,
which admission compares with the account that asks.

A status is a projection of the ledger database, never the truth: delete it, or the object, and it comes back.
The definitions that an API server gets are generated from these classes (plumbline.reconcile.crds), which is why
every text and list here has a bound: rules that compare old and new are priced by the largest value there can be.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from plumbline.records.release_resources import (
    PassingDecisionsSpec,
    PassingDecisionsStatus,
    ReleaseSpec,
    ReleaseStatus,
)
from plumbline.records.resource_base import (
    Count,
    Counts,
    DatasetName,
    Moment,
    ObjectName,
    Part,
    Sha256,
    Status,
    Word,
    fixed,
)
from plumbline.records.shadow_resources import ShadowEvaluationSpec, ShadowEvaluationStatus

LinePhase = Literal[
    "Blocked", "Removing", "Suspended", "Ingesting", "AwaitingApproval", "Publishing", "Failed", "Empty", "Ready"
]  # fmt: skip
RunPhase = Literal[
    "Pending", "Running", "AwaitingApproval", "Publishing", "Published", "NoChange", "Rejected", "Superseded", "Failed"
]  # fmt: skip
VersionState = Literal["Active", "Superseded", "Tainted", "Redacted"]
ErasurePhase = Literal["Blocked", "UnknownSubject", "AwaitingWithdrawal", "Removing", "Erasing", "Erased", "Failed"]


# --- DatasetLine ----------------------------------------------------------------------------------------------


class DatasetLineSpec(Part):
    """What the line should be."""

    dataset: DatasetName = Field(
        description="Name of the dataset in the ledger. Cannot be changed; make another DatasetLine instead.",
        json_schema_extra=fixed("spec.dataset cannot be changed; make another DatasetLine for another dataset"),
    )
    rubric: Sha256 = Field(
        description="Digest of the rubric in force. A new one makes a pending candidate be built anew."
    )
    approvals_required: int = Field(
        default=1,
        ge=1,
        le=10,
        description="People, none of whom wrote any of it, who must approve a candidate. Removals need nobody.",
    )
    min_new_events: int = Field(default=1, ge=1, le=10**12, description="Events to collect before they are sealed.")
    max_attempts: int = Field(default=3, ge=1, le=10, description="Tries at one run before a person has to look.")
    history_limit: int = Field(
        default=20,
        ge=1,
        le=200,
        description="Finished IngestionRuns, and DatasetVersions, to show. The ledger keeps all.",
    )
    suspended: bool = Field(default=False, description="Pause adding. Withdrawals are honoured all the same.")


class PendingRunStatus(Part):
    """The run that is neither published nor given up."""

    run_key: Sha256 = Field(description="Digest of the run's inputs.")
    stage: Literal["sealed", "awaiting_approval", "publishing"] = Field(description="How far it is.")
    candidate: Sha256 | None = Field(default=None, description="Digest that approvals are for.")
    approvals: Count = Field(default=0, description="Valid approvals so far.")


class DatasetLineStatus(Status):
    """What the operator last saw; a projection of the ledger database."""

    phase: LinePhase | None = Field(default=None, description="What the line is doing.")
    version: Count | None = Field(default=None, description="Number of the head version.")
    head_digest: Sha256 | None = Field(default=None, description="Digest of the head version's manifest.")
    examples: Count | None = Field(default=None, description="Examples in the head version.")
    consent_sequence: Count | None = Field(default=None, description="Ledger entry up to which consent was checked.")
    inbox_sequence: Count | None = Field(default=None, description="Last event in the inbox.")
    sealed_sequence: Count | None = Field(default=None, description="Last event that a finished run consumed.")
    pending_run: PendingRunStatus | None = Field(default=None, description="The open run, if there is one.")


# --- IngestionRun ---------------------------------------------------------------------------------------------


class IngestionRunSpec(Part):
    """What a run is about, by digest. Written once, by the operator."""

    line: ObjectName = Field(description="The DatasetLine that it belongs to.")
    dataset: DatasetName = Field(description="Name of the dataset in the ledger.")
    run_key: Sha256 = Field(description="Digest of the run's inputs; its Jobs are named after it.")
    kind: Literal["ingestion", "removal"] = Field(description="A removal only takes away, and needs no approval.")
    parent: Sha256 | None = Field(default=None, description="Digest of the version it builds on; none for the first.")
    from_sequence: Count | None = Field(default=None, description="First event of the sealed range.")
    to_sequence: Count | None = Field(default=None, description="Last event of the sealed range.")
    consent_sequence: Count | None = Field(default=None, description="Ledger entry that a removal goes up to.")
    rubric: Sha256 | None = Field(default=None, description="Digest of the rubric in force.")


class IngestionRunStatus(Status):
    """How far the run is; a projection of the ledger database and of the run's Jobs."""

    phase: RunPhase | None = Field(default=None, description="How far the run is, in one word.")
    stage: Word | None = Field(default=None, description="Last stage that is durable in the ledger.")
    attempts: Count = Field(default=0, description="Tries that failed. Deleting the object starts the count anew.")
    sealed: Count | None = Field(default=None, description="Events in the range.")
    accepted: Count | None = Field(default=None, description="Events that became examples.")
    rejected: Counts | None = Field(default=None, description="Events that did not, by reason.")
    candidate: Sha256 | None = Field(default=None, description="Digest that approvals are for.")
    approvals: Count | None = Field(default=None, description="Valid approvals of the candidate.")
    version: Count | None = Field(default=None, description="Number of the version that it published.")
    version_digest: Sha256 | None = Field(default=None, description="Digest of that version's manifest.")


# --- DatasetVersion -------------------------------------------------------------------------------------------


class DatasetVersionSpec(Part):
    """What a published version is, by digest. Written once, by the operator, from the ledger."""

    line: ObjectName = Field(description="The DatasetLine that shows it.")
    dataset: DatasetName = Field(description="Name of the dataset in the ledger.")
    version: int = Field(ge=1, description="Number of the version.")
    digest: Sha256 = Field(description="Digest of its manifest.")
    parent: Sha256 | None = Field(default=None, description="Digest of the version before.")
    run_key: Sha256 = Field(description="Digest of the inputs of the run that made it.")
    root: Sha256 | None = Field(default=None, description="Merkle root over its examples' addresses.")
    rubric: Sha256 | None = Field(default=None, description="Digest of the rubric in force.")
    policy_text: Sha256 | None = Field(default=None, description="Digest of the text of the rubric's rules.")
    code: Sha256 | None = Field(default=None, description="Digest of the code and configuration that made it.")
    consent_sequence: Count = Field(description="Ledger entry up to which everyone's consent was checked.")
    reason: Word = Field(description="Why there is a version: an ingestion, an import or a withdrawal.")


class DatasetVersionStatus(Status):
    """How the version stands now; a projection of the ledger database."""

    state: VersionState | None = Field(
        default=None,
        description="Tainted: somebody in it withdrew and is not erased from it yet. Redacted: they are erased.",
    )
    examples: Count | None = Field(default=None, description="Examples in it.")
    splits: Counts | None = Field(default=None, description="Examples by split.")
    policies: Annotated[tuple[Sha256, ...], Field(max_length=100)] = Field(
        default=(),
        description="Policies trained on it, or built on one that was (the first hundred).",
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


# --- Approval -------------------------------------------------------------------------------------------------


class ApprovalSpec(Part):
    """One person's word on one candidate."""

    candidate: Sha256 = Field(description="The candidate: `.status.candidate` of its IngestionRun.")
    approver: Annotated[str, StringConstraints(min_length=1, max_length=253)] = Field(
        description="Who gives the word: your own user name, as `kubectl auth whoami` shows it."
    )
    decision: Literal["approved", "rejected"] = Field(description="The word. The first one on a candidate stands.")
    reason: Annotated[str, StringConstraints(pattern="^[A-Z][A-Za-z0-9]*$", max_length=64)] = Field(
        description="Why, in one CamelCase word: ReadTheDiff. No prose, and nothing out of the data."
    )
    attestation: Sha256 | None = Field(default=None, description="Digest of a signed statement kept elsewhere.")


class ApprovalStatus(Status):
    """Whether the word is in the ledger."""


# --- ErasureRequest -------------------------------------------------------------------------------------------


class ErasureRequestSpec(Part):
    """Who is to be erased, and until when."""

    subject: Sha256 = Field(description="SHA-256 of the person's pseudonym: never a name, never the pseudonym.")
    request: Sha256 | None = Field(default=None, description="Digest of the letter that asked for it, kept elsewhere.")
    deadline: Moment | None = Field(default=None, description="When it must be done; 24 hours from the start if unset.")
    remediation: Literal["no-action", "retrain", "adapter-removal", "retire", "unsupported"] = Field(
        default="retrain", description="What is recorded for policies trained on the person."
    )


class ErasureRequestStatus(Status):
    """How far the erasure is; counts, and a digest as proof."""

    phase: ErasurePhase | None = Field(default=None, description="How far the erasure is.")
    attempts: Count = Field(default=0, description="Tries that failed. Deleting the object starts the count anew.")
    deadline: Moment | None = Field(default=None, description="When it must be done.")
    datasets: Count | None = Field(default=None, description="Datasets whose head still holds the person.")
    payloads: Count | None = Field(default=None, description="Payloads that were erased.")
    events: Count | None = Field(default=None, description="Events whose words were erased.")
    policies: Count | None = Field(default=None, description="Policies that were flagged.")
    proof: Sha256 | None = Field(
        default=None, description="Digest of what the ledger recorded of it: the same whenever it is asked for."
    )
    completed_at: Moment | None = Field(default=None, description="When the last byte was erased.")


class Resource(BaseModel):
    """One kind of object: its names in the API, its two halves, and the columns that `kubectl get` prints."""

    model_config = ConfigDict(frozen=True)
    group: ClassVar[str] = "plumbline.dev"
    version: ClassVar[str] = "v1alpha1"

    kind: str
    plural: str
    short_name: str
    about: str
    spec: type[Part]
    status: type[Status]
    fixed: str = ""  # what is said to whoever changes the spec; empty: it may change
    columns: tuple[tuple[str, str, str], ...] = ()  # (NAME, type, JSON path below the object)
    longest_name: int = 253  # of an object; 63 where the name is a label of others, whose values may not be longer

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}"


def _condition(kind: str) -> str:
    return f'.status.conditions[?(@.type=="{kind}")].status'


RESOURCES: tuple[Resource, ...] = (
    Resource(
        kind="DatasetLine",
        plural="datasetlines",
        short_name="dsl",
        about="The sequence of versions of one dataset, built from consented feedback events.",
        spec=DatasetLineSpec,
        status=DatasetLineStatus,
        longest_name=63,
        columns=(
            ("VERSION", "integer", ".status.version"),
            ("EXAMPLES", "integer", ".status.examples"),
            ("CONSENT", "string", _condition("ConsentVerified")),
            ("APPROVED", "string", _condition("Approved")),
            ("PHASE", "string", ".status.phase"),
        ),
    ),
    Resource(
        kind="IngestionRun",
        plural="ingestionruns",
        short_name="irun",
        about="One run on its way from a sealed range of events to a version. Made by the operator.",
        spec=IngestionRunSpec,
        status=IngestionRunStatus,
        fixed="an IngestionRun is a record of what was started and cannot be changed",
        columns=(
            ("LINE", "string", ".spec.line"),
            ("KIND", "string", ".spec.kind"),
            ("PHASE", "string", ".status.phase"),
            ("SEALED", "integer", ".status.sealed"),
            ("ACCEPTED", "integer", ".status.accepted"),
            ("CONSENT", "string", _condition("ConsentVerified")),
            ("APPROVED", "string", _condition("Approved")),
            ("VERSION", "integer", ".status.version"),
        ),
    ),
    Resource(
        kind="DatasetVersion",
        plural="datasetversions",
        short_name="dsv",
        about="A published, immutable dataset version, as the ledger has it. Made by the operator.",
        spec=DatasetVersionSpec,
        status=DatasetVersionStatus,
        fixed="a published version cannot be changed; the next one can differ",
        columns=(
            ("DATASET", "string", ".spec.dataset"),
            ("VERSION", "integer", ".spec.version"),
            ("EXAMPLES", "integer", ".status.examples"),
            ("CONSENT", "string", _condition("ConsentVerified")),
            ("STATE", "string", ".status.state"),
            ("REASON", "string", ".spec.reason"),
        ),
    ),
    Resource(
        kind="Approval",
        plural="approvals",
        short_name="appr",
        about="One person's word on one candidate, given under their own account.",
        spec=ApprovalSpec,
        status=ApprovalStatus,
        fixed="a word once given stands; a new candidate can be decided anew",
        columns=(
            ("CANDIDATE", "string", ".spec.candidate"),
            ("DECISION", "string", ".spec.decision"),
            ("APPROVER", "string", ".spec.approver"),
            ("VERIFIED", "string", _condition("Verified")),
        ),
    ),
    Resource(
        kind="ErasureRequest",
        plural="erasurerequests",
        short_name="erase",
        about="A person's words are to be erased from every version there ever was.",
        spec=ErasureRequestSpec,
        status=ErasureRequestStatus,
        fixed="a request to erase cannot be changed; make another",
        columns=(
            ("PHASE", "string", ".status.phase"),
            ("WITHDRAWN", "string", _condition("Withdrawn")),
            ("PAYLOADS", "integer", ".status.payloads"),
            ("EVENTS", "integer", ".status.events"),
            ("DEADLINE", "string", ".status.deadline"),
            ("IN-TIME", "string", _condition("DeadlineMet")),
        ),
    ),
    Resource(
        kind="ShadowEvaluation",
        plural="shadowevaluations",
        short_name="shev",
        about="Two policies are compared on requests that both answer, against margins and a plan.",
        spec=ShadowEvaluationSpec,
        status=ShadowEvaluationStatus,
        fixed="a comparison that has begun cannot be changed; make another ShadowEvaluation",
        columns=(
            ("EXPERIMENT", "string", ".spec.experiment"),
            ("PHASE", "string", ".status.phase"),
            ("AA", "string", _condition("AASound")),
            ("PAIRED", "integer", ".status.paired"),
            ("SESSIONS", "integer", ".status.sessions"),
            ("PLANNED", "integer", ".status.plannedSessions"),
            ("VERDICT", "string", ".status.verdict"),
        ),
    ),
    Resource(
        kind="Release",
        plural="releases",
        short_name="rel",
        about="Which policy serves users: the one mutable pointer. Named as the release in the ledger.",
        spec=ReleaseSpec,
        status=ReleaseStatus,
        columns=(
            ("POLICY", "string", ".spec.policy"),
            ("PASSED", "string", _condition("Passed")),
            ("PHASE", "string", ".status.phase"),
            ("MOVE", "integer", ".status.sequence"),
            ("REASON", "string", ".spec.reason"),
        ),
    ),
    Resource(
        kind="PassingDecisions",
        plural="passingdecisions",
        short_name="passing",
        about="Whereto each release may move, as the ledger says: what admission reads. Made by the operator.",
        spec=PassingDecisionsSpec,
        status=PassingDecisionsStatus,
        columns=(("READABLE", "boolean", ".spec.readable"), ("CURRENT", "string", _condition("Current"))),
    ),
)
BY_KIND = {resource.kind: resource for resource in RESOURCES}
