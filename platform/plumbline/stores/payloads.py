"""The register of payloads and signatures: what must be found again when a person asks to be erased.

An entry is written *before* the payload it speaks of, so that even what a killed run left behind is found.
"""

from collections.abc import Mapping, Sequence

from plumbline.stores.database import Database
from plumbline.stores.publications import Signature


class Payloads:
    def __init__(self, database: Database) -> None:
        self._database = database

    def register(self, dataset: str, owners: Mapping[str, str | None]) -> None:
        """Note whose payloads are about to be written, by address, before they are."""
        self._database.insert_many(
            "INSERT INTO payload (address, dataset, subject) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            [(address, dataset, subject) for address, subject in owners.items()],
        )

    def of_subject(self, subject: str) -> list[str]:
        rows = self._database.rows(
            "SELECT DISTINCT address FROM payload WHERE subject = ? ORDER BY address", (subject,)
        )
        return [row["address"] for row in rows]

    def unpublished(self, dataset: str) -> list[str]:
        """Payloads that were written for a candidate of this dataset alone and belong to no version."""
        rows = self._database.rows(
            "SELECT address FROM payload WHERE dataset = ? AND address NOT IN (SELECT address FROM membership)"
            " AND address NOT IN (SELECT address FROM payload WHERE dataset != ?)",
            (dataset, dataset),
        )
        return [row["address"] for row in rows]

    def forget(self, addresses: Sequence[str]) -> None:
        """Drop the register entries and signatures of payloads that were erased."""
        with self._database.transaction():
            for address in addresses:
                self._database.execute("DELETE FROM payload WHERE address = ?", (address,))
                self._database.execute("DELETE FROM signature WHERE address = ?", (address,))

    def record_erasure(self, subject: str, consent_sequence: int, *, payloads: int, events: int) -> None:
        self._database.insert(
            "erasure",
            subject=subject,
            consent_sequence=consent_sequence,
            payloads=payloads,
            events=events,
            completed_at=self._database.now(),
        )

    def erased_subjects(self) -> set[str]:
        return {row[0] for row in self._database.rows("SELECT DISTINCT subject FROM erasure")}

    def signatures(self, dataset: str) -> dict[str, Signature]:
        """Signatures of the current members by address."""
        rows = self._database.rows(
            "SELECT signature.* FROM signature JOIN membership USING (dataset, address)"
            " WHERE dataset = ? AND removed_in IS NULL",
            (dataset,),
        )
        return {
            row["address"]: Signature(row["text_key"], row["prompt_key"], row["conversation_key"], row["bands"])
            for row in rows
        }
