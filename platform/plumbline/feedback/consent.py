"""The consent desk: give, withdraw, show, verify. A thin counter in front of the consent ledger.

It takes identities and turns them into pseudonyms; the ledger behind it never sees an identity. Withdrawing is as
easy as giving: one call, and when it returns the withdrawal is durable and every later publication obeys it.
"""

from collections.abc import Sequence
from datetime import datetime

from plumbline.errors import PlumblineError
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.records import ConsentEntry, Notice, Purpose
from plumbline.stores import ConsentHead, Coverage, Ledger, LedgerCheck

ALL_PURPOSES: tuple[Purpose, ...] = ("evaluation", "service_improvement", "training")


class ConsentDesk:
    def __init__(self, ledger: Ledger, pseudonyms: Pseudonyms) -> None:
        self._ledger = ledger
        self._pseudonyms = pseudonyms

    def give(
        self,
        identity: str,
        purposes: Sequence[Purpose],
        notice: Notice,
        *,
        valid_until: datetime | None = None,
        method: str = "api",
    ) -> ConsentEntry:
        """Record consent for the named purposes only. PlumblineError when the notice is not registered."""
        subject = self._pseudonyms.of(identity)
        return self._ledger.consent.append(subject, "given", purposes, notice, valid_until=valid_until, method=method)

    def withdraw(self, identity: str, purposes: Sequence[Purpose] = (), *, method: str = "api") -> ConsentEntry:
        """Withdraw the named purposes, or all that were given. Withdrawing again returns the entry that did it."""
        subject = self._pseudonyms.of(identity)
        with self._ledger.database.transaction():
            entries = self._ledger.consent.entries(subject)
            given = [entry for entry in entries if entry.action == "given"]
            if not given:
                raise PlumblineError(
                    "no consent is recorded for this subject",
                    consequence="there is nothing to withdraw: nothing of theirs may be used as it is",
                    remedy="check the identity and the tenant key it is pseudonymised with",
                )
            state: dict[Purpose, ConsentEntry] = {}
            for entry in entries:
                state |= dict.fromkeys(entry.purposes, entry)
            wanted = [purpose for purpose in (purposes or sorted(state)) if purpose in state]
            still = [purpose for purpose in wanted if state[purpose].action == "given"]
            if not still:
                return state[wanted[0]] if wanted else entries[-1]
            return self._ledger.consent.append(subject, "withdrawn", still, given[-1].notice, method=method)

    def covers(self, identity: str, purpose: Purpose, *, at_sequence: int | None = None) -> Coverage:
        """Default deny: whether `purpose` is covered, now or as of a ledger entry."""
        at = self._ledger.consent.head().sequence if at_sequence is None else at_sequence
        return self._ledger.consent.covers(self._pseudonyms.of(identity), purpose, at, self._ledger.database.clock())

    def show(self, identity: str) -> list[ConsentEntry]:
        return self._ledger.consent.entries(self._pseudonyms.of(identity))

    def verify(self, pin: ConsentHead | None = None) -> LedgerCheck:
        return self._ledger.consent.verify(pin)

    def head(self) -> ConsentHead:
        return self._ledger.consent.head()
