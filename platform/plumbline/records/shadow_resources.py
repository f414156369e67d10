"""A shadow evaluation as a resource: two policies compared on requests that both answer."""

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from plumbline.records.resource_base import Count, Counts, Part, Sha256, Status, Word

EvaluationPhase = Literal[
    "Blocked", "AA", "Planning", "Pairing", "Deciding", "Decided", "Undecided", "Unsound", "Watching", "Stopped",
    "Failed",
]  # fmt: skip
Url = Annotated[str, StringConstraints(pattern="^https?://[A-Za-z0-9.:_/-]+$", max_length=512)]
DataPath = Annotated[
    str, StringConstraints(pattern="^[A-Za-z0-9_][A-Za-z0-9_-]*([./][A-Za-z0-9_][A-Za-z0-9_-]*)*$", max_length=253)
]
ShareText = Annotated[str, StringConstraints(pattern="^0[.][0-9]{0,3}[1-9][0-9]{0,3}$", max_length=9)]
Points = Annotated[str, StringConstraints(pattern="^-?[01][.][0-9]{4}$", max_length=7)]
VerdictWord = Literal["PASS", "REGRESSED", "INCONCLUSIVE", "ERROR"]


def _exactly_one(one: str, other: str, where: str) -> dict[str, Any]:
    said = f"{where} is either {one} or {other}: name exactly one of them"
    return {"x-kubernetes-validations": [{"rule": f"has(self.{one}) != has(self.{other})", "message": said}]}


class EvaluationEndpoints(Part):
    """Where both policies are asked."""

    reference: Url | None = Field(default=None, description="OpenAI base URL of the reference, ending in /v1.")
    aligned: Url | None = Field(default=None, description="OpenAI base URL of the aligned policy, ending in /v1.")


class RequestsSource(Part):
    """A JSONL file of chat requests that both policies are asked."""

    path: DataPath | None = Field(default=None, description="The file, below the data volume: requests/first.jsonl.")
    blob: Sha256 | None = Field(default=None, description="Digest of the file among the blobs.")
    consented_by: Annotated[str, StringConstraints(pattern="^[A-Z][A-Za-z0-9]*$", max_length=64)] | None = Field(
        default=None,
        description="Who vouches for everybody in it, in one CamelCase word; unset: the ledger's consent, by subject.",
    )


class LiveSource(Part):
    """A running router, which is watched and never told anything."""

    monitor: Url = Field(description="Root URL of the router's monitor: http://plumbline-router:81.")


class EvaluationSource(Part):
    """Where the pairs come from: requests that are asked now, or users who ask a router."""

    requests: RequestsSource | None = Field(
        default=None,
        description="A file of requests, which Jobs ask both policies.",
        json_schema_extra=_exactly_one("path", "blob", "requests"),
    )
    live: LiveSource | None = Field(default=None, description="A router that users ask; it is read, and no more.")


class EvaluationMargins(Part):
    """How much worse the aligned policy may be, as a share; what is unset is the rubric's."""

    benign_refusal: ShareText | None = Field(default=None, description="Of benign requests that are refused.")
    harmful_compliance: ShareText | None = Field(default=None, description="Of harmful requests that are answered.")


class ShadowEvaluationSpec(Part):
    """Which two policies are compared, on what, and how much worse is too much."""

    experiment: Annotated[
        str, StringConstraints(pattern="^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$", max_length=60)
    ] = Field(description="Name of the experiment. It has one look: its first verdict on two policies stands.")
    reference: Sha256 = Field(description="Digest of the policy that users have.")
    aligned: Sha256 = Field(description="Digest of the policy that they may get.")
    source: EvaluationSource = Field(
        description="Where the pairs come from.", json_schema_extra=_exactly_one("requests", "live", "spec.source")
    )
    endpoints: EvaluationEndpoints | None = Field(
        default=None, description="Where both are asked; what is unset is the release's InferenceService."
    )
    margins: EvaluationMargins | None = Field(default=None, description="Margins in the place of the rubric's.")
    rubric: DataPath | None = Field(
        default=None, description="A rubric's YAML below the data volume; unset: the micro-world's margins."
    )
    judge: DataPath | None = Field(
        default=None, description="A judge below the data volume, from `plumb judge fit`; unset: refusal prefixes."
    )
    aa_sessions: int = Field(
        default=100,
        ge=20,
        le=1_000_000,
        description="Least sessions of the A/A run, which comes first and takes ten times as many where there are.",
    )
    planned_sessions: Count | None = Field(
        default=None, description="Least sessions of each requirement, where the plan would do with fewer."
    )
    max_attempts: int = Field(default=3, ge=1, le=10, description="Tries at one step before a person has to look.")


class RequirementShown(Part):
    """One requirement of a verdict. Numbers are shares, aligned minus reference; up is better."""

    metric: Word = Field(description="What must not get worse.")
    verdict: VerdictWord = Field(description="What was decided about it.")
    difference: Points = Field(description="The paired difference.")
    low: Points = Field(description="Its lower bound.")
    high: Points = Field(description="Its upper bound.")
    worst_low: Points = Field(description="The lower bound if every lost pair had gone wrong.")
    margin: Points = Field(description="How much worse it may be.")
    sessions: Count = Field(description="Sessions with such a pair.")
    planned: Count = Field(description="Sessions that were planned.")


class ShadowEvaluationStatus(Status):
    """How far the comparison is and what came of it: counts, bounds and digests."""

    phase: EvaluationPhase | None = Field(default=None, description="How far the comparison is.")
    step: Literal["aa", "plan", "pairs", "verdict"] | None = Field(default=None, description="The step that is next.")
    attempts: Count = Field(
        default=0, description="Tries at that step that failed. Made again, the object starts anew."
    )
    aa_sessions: Count | None = Field(default=None, description="Sessions of the A/A run.")
    sessions: Count | None = Field(default=None, description="Sessions with a pair.")
    planned_sessions: Count | None = Field(default=None, description="Sessions of all kinds that the plan asks for.")
    spooled: Count | None = Field(default=None, description="Requests that were recorded: paired + pending + shed.")
    paired: Count | None = Field(default=None, description="Requests that both policies answered.")
    pending: Count | None = Field(default=None, description="Requests that wait for the aligned policy.")
    shed: Counts | None = Field(default=None, description="Requests that became no pair, by reason.")
    verdict: VerdictWord | None = Field(default=None, description="What was said of these very policies.")
    verdict_digest: Sha256 | None = Field(default=None, description="Digest of the verdict in the ledger.")
    requirements: Annotated[tuple[RequirementShown, ...], Field(max_length=8)] = Field(
        default=(),
        description="The verdict by requirement, with bounds.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["metric"]},
    )
