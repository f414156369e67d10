"""Typed, frozen records and their canonical digests. No I/O here, and nothing heavier than pydantic."""

from plumbline.records.base import Record
from plumbline.records.canonical import Digest, canonical_bytes, digest_bytes, digest_of, merkle_root, short
from plumbline.records.consent import GENESIS, ConsentEntry, Notice, Purpose
from plumbline.records.conversation import Conversation, Message, Role, as_dicts, last_user_text, say
from plumbline.records.dataset import DatasetDiff, DatasetManifest, Member
from plumbline.records.decision import AreaVerdict, GateDecision, ReleaseEntry, Verdict
from plumbline.records.decoding import DecoderSettings
from plumbline.records.event import TYPE_PREFIX, FeedbackData, FeedbackEvent, FeedbackKind
from plumbline.records.example import ConsentReference, Example, Provenance, Split, example_address
from plumbline.records.objective import (
    Adapter,
    CheckpointChoice,
    KlTerm,
    Mask,
    MaskTotals,
    Objective,
    Optimiser,
    ProbeName,
    ProbePlan,
    TrainingRecord,
    Truncation,
)
from plumbline.records.pair import Answer, Finish, Pair, ShadowCounts, ShadowSummary, SpoolRecord
from plumbline.records.policy import PolicyManifest
from plumbline.records.report import (
    EvaluationReport,
    FailureCase,
    PairedEstimate,
    PolicyScore,
    PressureReading,
)
from plumbline.records.rubric import AREAS, PRESSURES, Rubric, Rule
from plumbline.records.suite import Suite, SuiteItem

__all__ = [
    "AREAS",
    "GENESIS",
    "PRESSURES",
    "TYPE_PREFIX",
    "Adapter",
    "Answer",
    "AreaVerdict",
    "CheckpointChoice",
    "ConsentEntry",
    "ConsentReference",
    "Conversation",
    "DatasetDiff",
    "DatasetManifest",
    "DecoderSettings",
    "Digest",
    "EvaluationReport",
    "Example",
    "FailureCase",
    "FeedbackData",
    "FeedbackEvent",
    "FeedbackKind",
    "Finish",
    "GateDecision",
    "KlTerm",
    "Mask",
    "MaskTotals",
    "Member",
    "Message",
    "Notice",
    "Objective",
    "Optimiser",
    "Pair",
    "PairedEstimate",
    "PolicyManifest",
    "PolicyScore",
    "PressureReading",
    "ProbeName",
    "ProbePlan",
    "Provenance",
    "Purpose",
    "Record",
    "ReleaseEntry",
    "Role",
    "Rubric",
    "Rule",
    "ShadowCounts",
    "ShadowSummary",
    "Split",
    "SpoolRecord",
    "Suite",
    "SuiteItem",
    "TrainingRecord",
    "Truncation",
    "Verdict",
    "as_dicts",
    "canonical_bytes",
    "digest_bytes",
    "digest_of",
    "example_address",
    "last_user_text",
    "merkle_root",
    "say",
    "short",
]
