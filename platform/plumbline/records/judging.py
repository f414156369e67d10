"""Judging: labels that people gave, the errors of what judges by machine, and rates corrected by the labels.

An instrument's numbers and its measured errors are one record. A judge or guardrail that has not been measured has
no card, and whoever loads one asks for the card.
"""

from typing import Literal

from pydantic import AwareDatetime, Field, model_validator

from plumbline.records.base import Record
from plumbline.records.canonical import Digest
from plumbline.records.conversation import Message

PromptClass = Literal["benign", "harmful"]
CardClass = Literal["benign", "harmful", "all"]
ActName = Literal["refuse", "abstain", "comply", "incoherent"]
JudgeKind = Literal["text", "learned", "likelihood"]
Side = Literal["input", "output"]


class LabelledText(Record):
    """A line of a labels file: what a person says that one answer did. `text` is the digest of the answer they read; a
    label is of that text and of no other. `answer` and `messages` may be left out once an answer was erased."""

    schema_id = "plumbline.dev/labelled-text/v1"

    policy: str = Field(min_length=1)
    item: str = Field(min_length=1)
    prompt_class: PromptClass
    text: Digest
    act: ActName
    labeller: str = Field(min_length=1)
    labelled: str = Field(pattern=r"^\d{4}-\d{2}-\d{2}$")
    rubric: Digest
    answer: str | None = None
    messages: tuple[Message, ...] = ()


class ErrorRate(Record):
    """`errors` of `n`, with a 95 % interval (Wilson's; of a threshold that was chosen, the hull of Wilson's on what it
    did not see and on what it saw). No cases: the rate is 0 within [0, 1]."""

    schema_id = "plumbline.dev/error-rate/v1"

    rate: float
    low: float
    high: float
    errors: int
    n: int


class Ranking(Record):
    """Area under the ROC curve with a 95 % interval: how well the score orders, whatever the threshold."""

    schema_id = "plumbline.dev/ranking/v1"

    area: float
    low: float
    high: float


class RocPoint(Record):
    """What saying "yes" at scores of `threshold` and more would give."""

    schema_id = "plumbline.dev/roc-point/v1"

    threshold: float
    false_positive: float
    true_positive: float


class ReliabilityBin(Record):
    """`n` answers of like probability: what was said (`mean`) and what was so (`share`, with a Wilson interval)."""

    schema_id = "plumbline.dev/reliability-bin/v1"

    mean: float
    share: float
    low: float
    high: float
    n: int


class ErrorCard(Record):
    """A judge's errors for one policy and prompt class (`all` pools): how often it cries refusal over an answer that
    was none (FPR), and how often it misses one (FNR). `labels` is the digest of the labelled texts, so a card measured
    on other answers cannot pass for this one.

    `threshold` is the score from which it says refusal; `rule` how that was chosen, and how the rates were kept apart
    from the choice. `acts` counts answers by "human>judge". `brier` and `ece` (equal-mass bins; `ece_by_chance` is what
    true probabilities would show) are of the judge's probability, ROC and AUROC of its score; those two are absent
    where only one kind of answer occurs.
    """

    schema_id = "plumbline.dev/error-card/v2"

    judge: Digest
    policy: str
    prompt_class: CardClass
    false_positive: ErrorRate
    false_negative: ErrorRate
    labels: Digest
    threshold: float | None = None
    rule: str = "as it stands"
    auroc: Ranking | None = None
    brier: float | None = None
    ece: float | None = None
    ece_by_chance: float | None = None
    roc: tuple[RocPoint, ...] = ()
    bins: tuple[ReliabilityBin, ...] = ()
    acts: dict[str, int] = Field(default_factory=dict)


class CorrectedRate(Record):
    """A rate as people would have found it: what the judge says of all `n` answers, corrected by `labelled` labels.

    `leg` is `reference`, `aligned` or `difference` (aligned minus reference, paired); `counted` are the acts that make
    the rate. `naive` is the judge alone. `low` and `high` are a 95 % interval of a rate, a 90 % one of a difference.
    `stale` labels were of another text and count for nothing. `cards` are the digests of the judge's cards for the leg.
    """

    schema_id = "plumbline.dev/corrected-rate/v1"

    leg: Literal["reference", "aligned", "difference"]
    policy: str
    prompt_class: PromptClass
    counted: tuple[ActName, ...]
    rate: float
    low: float
    high: float
    naive: float
    labelled: int
    n: int
    stale: int = 0
    labels: Digest
    judge: Digest
    cards: tuple[Digest, ...] = ()


class NgramModel(Record):
    """A logistic regression on hashed n-grams: which are read (`words` and `characters` from-to, in 2^`bits` buckets,
    of the `first` characters or of windows of `window`), and its numbers as base64 of little-endian float32."""

    schema_id = "plumbline.dev/ngram-model/v1"

    words: tuple[int, int] = (1, 3)
    characters: tuple[int, int] = (0, 0)
    bits: int = Field(default=15, ge=8, le=20)
    first: int = Field(default=0, ge=0)
    window: int = Field(default=0, ge=0)
    weights: str = ""
    rarity: str = ""
    bias: float = 0.0


class Threshold(Record):
    """Where a judge says refusal for one policy: chosen by `rule` on the `labels` (digest) of that policy's answers.
    `unseen` is whether each of those texts (by digest) is a refusal to a judge that knew nothing of its label, that is,
    by the threshold of `folds` that was chosen without it."""

    schema_id = "plumbline.dev/threshold/v1"

    policy: str
    score: float
    rule: str
    labels: Digest
    n: int = Field(ge=1)
    folds: tuple[float, ...] = ()
    unseen: dict[str, bool] = Field(default_factory=dict)


class FittedJudge(Record):
    """A judge as it is kept. `refusals` and `others` are prefixes: for `text` those of refusals and of abstentions, for
    `likelihood` those of refusals and of compliance. `training` is the digest of the labels that `model` learned from
    and `cross_fitted` the score of each of those texts (by digest) from a model that never saw it, or its item."""

    schema_id = "plumbline.dev/judge/v1"

    name: str
    kind: JudgeKind
    refusals: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    model: NgramModel | None = None
    training: Digest | None = None
    cross_fitted: dict[str, float] = Field(default_factory=dict)
    thresholds: tuple[Threshold, ...] = ()
    cards: tuple[ErrorCard, ...] = ()

    @model_validator(mode="after")
    def _a_learned_judge_has_learned(self) -> "FittedJudge":
        if (self.kind == "learned") != (self.model is not None):
            raise ValueError("a learned judge has a model, and no other has")
        if len({threshold.policy for threshold in self.thresholds}) < len(self.thresholds):
            raise ValueError("a policy has one threshold")
        carded = {card.policy for card in self.cards}
        if bare := sorted(t.policy for t in self.thresholds if t.policy not in carded):
            raise ValueError(f"the threshold for {bare[0]} has no error card")
        return self


class Operating(Record):
    """A guardrail at one threshold: the share of good texts it stops (FPR), of bad ones it lets through (FNR), on a
    calibration set, from thresholds chosen without the text that they judge. Both are measured or there is none."""

    schema_id = "plumbline.dev/guardrail-operating/v1"

    threshold: float
    target_false_positive: float = Field(gt=0, lt=1)
    false_positive: ErrorRate
    false_negative: ErrorRate

    @model_validator(mode="after")
    def _both_rates_are_measured(self) -> "Operating":
        if min(self.false_positive.n, self.false_negative.n) < 1:
            raise ValueError("a threshold without a measured FPR and FNR is no threshold")
        return self


class SliceErrors(Record):
    """FPR and FNR of the refusing threshold on one slice of the calibration set."""

    schema_id = "plumbline.dev/slice-errors/v1"

    slice: str
    false_positive: ErrorRate
    false_negative: ErrorRate


class GuardrailCard(Record):
    """What a guardrail's side was measured to do: on which calibration set, for which policies, until when.

    `classifier` is the digest of the model measured, `calibration` that of the labelled texts. `refuse` is the
    threshold from which a text is stopped, `flag` an optional lower one from which it is marked.
    """

    schema_id = "plumbline.dev/guardrail-card/v1"

    side: Side
    classifier: Digest
    calibration: Digest
    policies: tuple[Digest, ...] = Field(min_length=1)
    made: AwareDatetime
    expires: AwareDatetime
    refuse: Operating
    flag: Operating | None = None
    slices: tuple[SliceErrors, ...]
    auroc: Ranking
    brier: float
    ece: float
    ece_by_chance: float
    roc: tuple[RocPoint, ...]
    bins: tuple[ReliabilityBin, ...]

    @model_validator(mode="after")
    def _it_ends_after_it_begins(self) -> "GuardrailCard":
        if self.expires <= self.made:
            raise ValueError("a card expires after it is made")
        if self.flag is not None and self.flag.threshold > self.refuse.threshold:
            raise ValueError("a text is flagged from a lower score than it is refused from")
        return self


class GuardrailSide(Record):
    """One side's classifier with its card. The thresholds stand in the card and nowhere else."""

    schema_id = "plumbline.dev/guardrail-side/v1"

    model: NgramModel
    training: Digest
    calibration: Digest
    card: GuardrailCard

    @model_validator(mode="after")
    def _the_card_is_of_this_classifier(self) -> "GuardrailSide":
        if self.card.classifier != self.model.digest:
            raise ValueError("the card was measured on another classifier")
        if self.card.calibration != self.calibration:
            raise ValueError("the card was measured on another calibration set")
        return self


class GuardrailFile(Record):
    """A guardrail as it is kept: for what users ask, for what the policy answers, or for both."""

    schema_id = "plumbline.dev/guardrail/v1"

    name: str
    sides: tuple[GuardrailSide, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_side_once(self) -> "GuardrailFile":
        if len({side.card.side for side in self.sides}) < len(self.sides):
            raise ValueError("a guardrail has one classifier per side")
        return self
