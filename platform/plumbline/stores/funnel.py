"""What the ledger holds, as counts: how far feedback came, where consent stands, what is still to be erased.

Read only, and about nobody: a dashboard may show all of it. Everything but `people` costs a few steps in an index;
`people` reads each person's last word, so `read_funnel` leaves it out when the consent ledger stands where the caller
knows it.
"""

from dataclasses import dataclass, field
from datetime import datetime

from plumbline.stores.ledger import Ledger


@dataclass(frozen=True)
class Funnel:
    """Counts by dataset, action, remediation or release. `erasure_age_s` is that of the oldest open erasure (0: none).

    `waiting`: events after the last that a finished ingestion of a dataset read; only datasets that events come to.
    `withdrawn`: people in a head version whose consent ended. `flagged_releases`: whether a release serves a policy
    that learned from somebody who was erased since, and something was to be done about it.
    """

    consent_sequence: int
    inbox: int
    waiting: dict[str, int]
    approvals: dict[str, int]
    withdrawn: dict[str, int]
    erasures: int
    erasure_age_s: float
    flagged_policies: dict[str, int]
    flagged_releases: dict[str, bool]
    people: dict[str, int] | None = field(default=None)


def read_funnel(ledger: Ledger, *, known: int | None = None) -> Funnel:
    """Where everything stands. `known` is the consent sequence at which the caller last read `people`."""
    rows = ledger.database.rows
    inbox, at = ledger.inbox.last_sequence(), ledger.consent.head().sequence
    sealed = rows(
        "SELECT dataset, MAX(to_sequence) AS last FROM run WHERE state IN ('published', 'no_change', 'rejected')"
        " GROUP BY dataset HAVING MAX(to_sequence) > 0 ORDER BY dataset"
    )
    runs = rows(
        "SELECT dataset, SUM(CASE WHEN state = 'open' AND stage = 'awaiting_approval' THEN 1 ELSE 0 END) AS waiting"
        " FROM run GROUP BY dataset ORDER BY dataset"
    )
    asked = ledger.database.row(
        "SELECT COUNT(*) AS number, MIN(requested_at) AS first FROM erasure_request WHERE completed_at IS NULL"
    )
    assert asked is not None  # an aggregate has one row
    flagged = rows(
        "SELECT remediation, COUNT(DISTINCT policy) AS number FROM remediation GROUP BY remediation"
        " ORDER BY remediation"
    )
    serving = rows(
        "SELECT one.release AS name, EXISTS (SELECT 1 FROM remediation WHERE remediation.policy = one.policy"
        " AND remediation.remediation <> 'no-action') AS flagged FROM release AS one WHERE one.sequence ="
        " (SELECT MAX(last.sequence) FROM release AS last WHERE last.release = one.release) ORDER BY one.release"
    )
    return Funnel(
        consent_sequence=at,
        inbox=inbox,
        waiting={row["dataset"]: max(0, inbox - int(row["last"])) for row in sealed},
        approvals={row["dataset"]: int(row["waiting"]) for row in runs},
        withdrawn={name: len(ledger.publications.uncovered(name)) for name in ledger.publications.datasets()},
        erasures=int(asked["number"]),
        erasure_age_s=_age(ledger, asked["first"]),
        flagged_policies={row["remediation"]: int(row["number"]) for row in flagged},
        flagged_releases={row["name"]: bool(row["flagged"]) for row in serving},
        people=None if known == at else _people(ledger),
    )


def newest_decision(ledger: Ledger) -> tuple[str, datetime] | None:
    """Digest of the gate decision that was recorded last, and when; of several at one moment (a clock may be set, as
    the loop's is) one that a release rests on."""
    row = ledger.database.row(
        "SELECT digest, recorded_at FROM decision ORDER BY recorded_at DESC,"
        " EXISTS (SELECT 1 FROM release WHERE release.decision = decision.digest) DESC, digest DESC LIMIT 1"
    )
    return None if row is None else (row["digest"], datetime.fromisoformat(row["recorded_at"]))


def _people(ledger: Ledger) -> dict[str, int]:
    rows = ledger.database.rows(
        "SELECT one.action AS action, COUNT(*) AS number FROM consent_purpose AS one WHERE one.purpose = 'training'"
        " AND one.sequence = (SELECT MAX(last.sequence) FROM consent_purpose AS last"
        " WHERE last.subject = one.subject AND last.purpose = 'training') GROUP BY one.action ORDER BY one.action"
    )
    return {row["action"]: int(row["number"]) for row in rows}


def _age(ledger: Ledger, since: str | None) -> float:
    return 0.0 if since is None else (ledger.database.clock() - datetime.fromisoformat(since)).total_seconds()
