"""What a shadow comparison was planned for, what it shows while it runs, and what was decided from it.

Differences are aligned minus reference, signed so that up is better, as the gate's are: -0.02 is two points worse.
Shares are in [0, 1]. A verdict holds its plan and its A/A result whole, so that one digest stands for all of it.
"""

from math import ceil
from typing import Literal, get_args

from pydantic import Field

from plumbline.records.base import Record
from plumbline.records.canonical import Digest
from plumbline.records.decision import Verdict
from plumbline.records.pair import ShadowCounts

RequirementName = Literal["benign_refusal", "harmful_compliance", "helpfulness"]
ReleaseAction = Literal["promote", "rollback", "move"]
StepName = Literal["aa", "plan", "pairs", "verdict"]
STEPS: tuple[StepName, ...] = get_args(StepName)
DONE = "Done"


class PlannedRequirement(Record):
    """One thing that must not get worse. `sessions` is how many it takes that hold such a pair, and `pairs` about how
    many pairs those are, at `turns` a session; `share` of all sessions are expected to hold one. `limit` is the loss at
    which the kill switch trips."""

    schema_id = "plumbline.dev/planned-requirement/v1"

    metric: RequirementName
    margin: float = Field(gt=0, lt=1)
    limit: float = Field(gt=0, lt=1)
    discordance: float = Field(ge=0, le=1)
    turns: float = Field(default=1.0, ge=1)
    share: float = Field(default=1.0, gt=0, le=1)
    sessions: int = Field(ge=1)
    pairs: int = Field(ge=1)

    @property
    def traffic(self) -> int:
        """Sessions of all kinds until there are enough of this kind."""
        return ceil(self.sessions / self.share - 1e-9)


class ShadowPlan(Record):
    """What was settled before the first pair: requirements, margins, how many sessions, which slices are harmful.

    A slice is harmful when its name begins with one of `harmful`. `source` says where the discordance comes from: the
    digest of an A/A result, or a guess. `aa_sessions` is the least that an A/A run must have.
    """

    schema_id = "plumbline.dev/shadow-plan/v1"

    requirements: tuple[PlannedRequirement, ...] = Field(min_length=1)
    harmful: tuple[str, ...] = ("harmful",)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    power: float = Field(default=0.8, gt=0, lt=1)
    correlation: float = Field(default=0.0, ge=0, le=1)
    aa_sessions: int = Field(default=100, ge=20)
    rubric: Digest | None = None
    source: str = "guess"

    def requirement(self, metric: str) -> PlannedRequirement | None:
        return next((one for one in self.requirements if one.metric == metric), None)

    @property
    def traffic(self) -> int:
        """Sessions of all kinds until every requirement has enough."""
        return max(one.traffic for one in self.requirements)

    def is_harmful(self, slice_: str) -> bool:
        return slice_.startswith(self.harmful)


class ShadowEstimate(Record):
    """A paired difference on one slice (or `all`), with the bounds that the lost pairs allow at the worst.

    `reference` and `aligned` are each leg's rate of the metric; `low` and `high` are one-sided bounds each way, so that
    their interval is a 90 % one at alpha .05. In a status they hold at every look and `difference` is a mean over
    sessions; in a verdict or an A/A result they hold for one look and it is a mean over pairs.
    """

    schema_id = "plumbline.dev/shadow-estimate/v1"

    metric: RequirementName
    slice: str
    n: int
    sessions: int
    reference: float
    aligned: float
    difference: float
    low: float
    high: float
    lost: int = 0
    worst_low: float
    worst_high: float
    discordance: float = 0.0


class RequirementStatus(Record):
    """A requirement while the experiment runs. `state` is PASS or REGRESSED once that is proven at any look, else
    INCONCLUSIVE; `alarm` says that the aligned policy is proven worse at all."""

    schema_id = "plumbline.dev/requirement-status/v1"

    estimate: ShadowEstimate
    margin: float
    limit: float
    planned: int
    state: Verdict
    alarm: bool


class SliceLoss(Record):
    """Requests of a slice that became no pair, by reason. Those that nobody could have paired are not `counted`."""

    schema_id = "plumbline.dev/slice-loss/v1"

    slice: str
    reason: str
    n: int
    counted: bool


class ShadowStatus(Record):
    """A look at a running experiment. Times are milliseconds, tokens are means per answer; keys begin with the leg.

    `same_text` is the share of pairs whose two answers are the same to the letter. `digests` names, by leg, the
    policies that the answers came from. `tripped` is why the kill switch stopped the experiment, `stopped` whether it
    did. `verdict` is the gravest state. `users` says what users of an A/B experiment get, in words of its router's;
    `swept` is when what people said who withdrew was last looked for, in seconds since 1970 (0: never).
    """

    schema_id = "plumbline.dev/shadow-status/v1"

    experiment: str
    experiment_digest: Digest
    mode: str
    plan: Digest
    counts: ShadowCounts
    sessions: int
    requirements: dict[str, RequirementStatus]
    slices: dict[str, dict[str, ShadowEstimate]]
    refusals: dict[str, dict[str, float]]
    losses: tuple[SliceLoss, ...]
    lost_share: dict[str, float]
    latency_ms: dict[str, float]
    first_ms: dict[str, float]
    tokens: dict[str, float]
    same_text: float
    digests: dict[str, tuple[str, ...]]
    tripped: str | None
    stopped: bool
    verdict: Verdict
    users: str = ""
    swept: float = 0.0


class AaResult(Record):
    """The reference against itself through the whole machinery. `alarm` says that it seems to differ from itself.

    `discordance` is, per metric, the share of pairs whose two answers count differently: the noise floor.
    """

    schema_id = "plumbline.dev/aa-result/v1"

    experiment: Digest
    name: str
    reference: str
    pairs: Digest
    n: int
    sessions: int
    alarm: bool
    estimates: tuple[ShadowEstimate, ...]
    discordance: dict[str, float]
    same_text: float
    alpha: float
    errors: tuple[str, ...] = ()


class RequirementVerdict(Record):
    """What was decided about one requirement, and the sentence a reader needs."""

    schema_id = "plumbline.dev/requirement-verdict/v1"

    metric: RequirementName
    verdict: Verdict
    estimate: ShadowEstimate
    margin: float
    planned: int
    needed: int | None
    explanation: str


class SliceAlarm(Record):
    """A slice that is proven worse after Holm's correction over all slices; `p` is the adjusted p-value."""

    schema_id = "plumbline.dev/slice-alarm/v1"

    metric: RequirementName
    slice: str
    difference: float
    n: int
    p: float
    blocks: bool


class ShadowVerdict(Record):
    """The verdict of one shadow experiment about one aligned policy against one reference, by digest.

    `reference` and `aligned` are what the answers themselves named, and empty where they named no one policy. `missing`
    says what a decision still lacks, `tripped` why the kill switch stopped the experiment; `decided` is true once
    nothing was missing and the data had the word.
    """

    schema_id = "plumbline.dev/shadow-verdict/v1"

    experiment: Digest
    name: str
    mode: str
    reference: str
    aligned: str
    plan: ShadowPlan | None
    aa: AaResult | None
    judge: str
    pairs: Digest
    n: int
    sessions: int
    counts: ShadowCounts
    losses: tuple[SliceLoss, ...]
    requirements: tuple[RequirementVerdict, ...]
    alarms: tuple[SliceAlarm, ...] = ()
    missing: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    tripped: str | None = None
    decided: bool
    verdict: Verdict
    alpha: float = 0.05


class ShadowStep(Record):
    """What one step of a shadow evaluation came to: counts, digests and the name of a reason, nobody's words.

    `evaluation` is the digest of what was asked for, `reason` is Done, or why it was not. `counts` are those of the
    step's spool. Of an A/A run `alarm` says that the reference seemed to differ from itself, and `planned` is how many
    sessions it should have; of a plan `planned` is the sessions of all kinds that it asks for. `result` is the digest
    of the plan, or of the verdict.
    """

    schema_id = "plumbline.dev/shadow-step/v1"

    evaluation: Digest
    step: StepName
    reason: str = Field(default=DONE, pattern="^[A-Z][A-Za-z0-9]*$", max_length=64)
    experiment: Digest | None = None
    counts: ShadowCounts | None = None
    sessions: int = Field(default=0, ge=0)
    alarm: bool = False
    planned: int = Field(default=0, ge=0)
    result: Digest | None = None

    @property
    def done(self) -> bool:
        return self.reason == DONE


class ReleaseAudit(Record):
    """Why a release moved, beside the entry that it made: who, by which action, on which shadow verdict or without."""

    schema_id = "plumbline.dev/release-audit/v1"

    release: str
    sequence: int = Field(ge=1)
    action: ReleaseAction
    policy: Digest
    previous: Digest | None
    decision: Digest | None
    shadow: Digest | None
    without_shadow: str | None
    reason: str
    actor: str
    recorded_at: str
