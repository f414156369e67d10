"""The consent desk: give, reaffirm, withdraw, refuse, show, verify. A thin counter in front of the consent ledger.

It takes identities and turns them into pseudonyms; the ledger behind it never sees an identity. Withdrawing is as
easy as giving: one call, and when it returns the withdrawal is durable and every later publication obeys it.
"""

from collections.abc import Sequence
from datetime import datetime

from plumbline.errors import PlumblineError
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.records import GRANTS, PURPOSES, ConsentAction, ConsentEntry, ConsentTerms, Notice, Purpose
from plumbline.stores import ConsentHead, Coverage, Ledger, LedgerCheck

ALL_PURPOSES: tuple[Purpose, ...] = tuple(sorted(PURPOSES))


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
        terms: ConsentTerms | None = None,
        guardian: str | None = None,
        action: ConsentAction = "given",
    ) -> ConsentEntry:
        """Record consent for the named purposes only; `action="reaffirmed"` for consent that still stands.

        `guardian` is the identity of who agrees for a minor. PlumblineError when the notice is not registered.
        """
        if guardian is not None:
            terms = (terms or ConsentTerms()).model_copy(update={"guardian": self.subject(guardian)})
        return self._ledger.consent.append(
            self.subject(identity), action, purposes, notice, valid_until=valid_until, method=method, terms=terms
        )

    def refuse(
        self, identity: str, purposes: Sequence[Purpose], notice: Notice, *, method: str = "api"
    ) -> ConsentEntry:
        """Record that the person was asked and said no."""
        return self._ledger.consent.append(self.subject(identity), "refused", purposes, notice, method=method)

    def withdraw(self, identity: str, purposes: Sequence[Purpose] = (), *, method: str = "api") -> ConsentEntry:
        """Withdraw the named purposes, or all that were given. Withdrawing again returns the entry that did it."""
        subject = self.subject(identity)
        with self._ledger.database.transaction():
            entries = self._ledger.consent.entries(subject)
            given = [entry for entry in entries if entry.action in GRANTS]
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
            still = [purpose for purpose in wanted if state[purpose].action in GRANTS]
            if not still:
                return state[wanted[0]] if wanted else entries[-1]
            return self._ledger.consent.append(subject, "withdrawn", still, given[-1].notice, method=method)

    def subject(self, identity: str) -> str:
        """The person's pseudonym. PlumblineError for an identity that is empty."""
        if not identity.strip():
            raise PlumblineError(
                "the identity is empty",
                consequence="nothing was recorded or looked up: it must say who",
                remedy="name the person as the source knows them, or by their pseudonym (s-...)",
            )
        return self._pseudonyms.of(identity)

    def covers(self, identity: str, purpose: Purpose, *, at_sequence: int | None = None) -> Coverage:
        """Default deny: whether `purpose` is covered, now or as of a ledger entry."""
        at = self._ledger.consent.head().sequence if at_sequence is None else at_sequence
        return self._ledger.consent.covers(self.subject(identity), purpose, at, self._ledger.database.clock())

    def show(self, identity: str) -> list[ConsentEntry]:
        return self._ledger.consent.entries(self.subject(identity))

    def verify(self, pin: ConsentHead | None = None) -> LedgerCheck:
        return self._ledger.consent.verify(pin)

    def head(self) -> ConsentHead:
        return self._ledger.consent.head()
