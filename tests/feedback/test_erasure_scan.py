"""A word that only one person said, wherever people's words go; then they leave; then every byte is read.

The word is in questions, answers, demonstrations, comments, reports, comparisons, a conflicting copy in quarantine, a
candidate that waits for approval, a published version, and a reviewer's reason. Read are, for SQLite and a directory,
all files below the store (ledger, log, shared memory, packs, index, what killed writers left), and for PostgreSQL and
S3 the server's whole data directory and every version of every object.
"""

import contextlib
import secrets
from collections.abc import Callable
from pathlib import Path

import pytest
from backends import Backend, backend, postgresql, s3  # noqa: F401

from plumbline.feedback import prove_absent, verify, withdraw_and_erase
from plumbline.feedback.datasets.reading import load_manifest
from plumbline.feedback.erase import finish_erasures
from plumbline.feedback.review.desk import ReviewDesk
from plumbline.records import Label, Rubric, Rule
from plumbline.stores.blobs import open_blobs
from soak.stories import DATASET, PEOPLE, Store, feedback, holding

LEAVING = "somebody who leaves"
RUBRIC = Rubric(
    id="assistant",
    version="1",
    owner="data-owner",
    purpose="tests",
    rules=(Rule(area="honesty", text="say when you do not know", margins={"calibrated": 0.02}),),
)


def say_everywhere(store: Store, word: str) -> None:
    """What the person said, and what became of it, up to a version and to a candidate that waits."""
    rewrite = store.event(LEAVING, "rewrite", f"what is {word}", text=f"{word} is a word", answer=f"no {word}")
    other = rewrite.data.model_copy(update={"answer": f"another {word}"})
    store.post(
        [
            *feedback(store),
            rewrite,
            rewrite.model_copy(update={"data": other}),
            store.event(LEAVING, "rating", f"is it {word}", answer=f"yes, {word}", score=1.0),
            store.event(LEAVING, "comment", "was it good", text=f"{word} is missing"),
            store.event(LEAVING, "report", "was it polite", text=f"it called me {word}"),
            store.event(LEAVING, "comparison", f"or {word}", text=word, rejected=f"not {word}", preferred="aligned"),
        ]
    )
    desk, reviewer = ReviewDesk(store.ledger), store.names.of("a reviewer")
    desk.open_items(RUBRIC)
    for task in desk.queue(reviewer, RUBRIC):
        reason = f"it says {word}" if word in task.text.answer else "fine"
        label = Label(text=task.item.text, verdict="approve", rules=("honesty",), reason=reason)
        desk.label(task.item.item, reviewer, label)
    assert store.ingest().accepted
    store.post([store.event(LEAVING, "rewrite", f"and {word}", text=f"waiting {word}")])
    assert store.ingest(approve=None).state == "awaiting_approval"


def scanner(backend: Backend, root: Path) -> Callable[[str], list[str]]:  # noqa: F811
    """Everything on this backend's disks that holds a text."""
    if backend.name == "sqlite+local":
        return lambda word: [str(path) for path in holding(root, word)]
    database, client = postgresql(), s3().client()
    bucket = str(backend.blobs).split("/")[2]

    def scan(word: str) -> list[str]:
        found = []
        for path in database.folder.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # the server is at work
                if path.is_file() and word.encode() in path.read_bytes():
                    found.append(str(path))
        for one in client.list_object_versions(Bucket=bucket).get("Versions", []):
            body = client.get_object(Bucket=bucket, Key=one["Key"], VersionId=one["VersionId"])["Body"].read()
            if word.encode() in body:
                found.append(one["Key"])
        return found

    return scan


@pytest.mark.slow
def test_after_erasure_no_byte_on_any_disk_holds_a_word_that_only_this_person_said(
    backend: Backend,  # noqa: F811
    tmp_path: Path,
) -> None:
    word = "w" + secrets.token_hex(8)
    local = backend.name == "sqlite+local"
    with Store(tmp_path, ledger_at=backend.ledger, open_blobs=lambda: open_blobs(backend.blobs)) as store:
        scan = scanner(backend, tmp_path)
        store.seed()
        store.give(*PEOPLE, LEAVING)
        say_everywhere(store, word)
        if local:
            (tmp_path / "blobs" / "tmp" / "of a killed writer").write_text(word)
        assert len(scan(word)) >= 2
        version = load_manifest(store.ledger, store.blobs, DATASET)

        erased = withdraw_and_erase(store.ledger, store.blobs, store.desk, LEAVING)
        assert scan(word) == []

        assert prove_absent(store.ledger, store.blobs, erased.subject, DATASET).version == version.version + 1
        check = verify(store.ledger, store.blobs, version)
        assert check.problems == () and check.erased == 1
        store.ingest()
        store.post([store.event(LEAVING, "rewrite", f"what is {word}", text=f"{word} is a word", answer=f"no {word}")])
        store.ledger.database.truncate_log()
        assert scan(word) == [], "a late copy brought it back"


class Killed(BaseException):
    pass


@pytest.mark.slow
def test_an_erasure_that_was_killed_before_the_person_came_back_leaves_no_byte_either(
    backend: Backend,  # noqa: F811
    tmp_path: Path,
) -> None:
    word, new = "w" + secrets.token_hex(8), "n" + secrets.token_hex(8)

    def kill(step: str) -> None:
        raise Killed

    with Store(tmp_path, ledger_at=backend.ledger, open_blobs=lambda: open_blobs(backend.blobs)) as store:
        scan = scanner(backend, tmp_path)
        store.seed()
        store.give(*PEOPLE, LEAVING)
        say_everywhere(store, word)
        with pytest.raises(Killed):
            withdraw_and_erase(store.ledger, store.blobs, store.desk, LEAVING, on_step=kill)
        store.give(LEAVING)
        store.post([store.event(LEAVING, "rewrite", f"what is {new}", text=f"{new} is another word")])
        store.ingest()
        store.ingest()
        assert scan(word)
        (done,), waiting = finish_erasures(store.ledger, store.blobs)
        assert waiting == [] and done.payloads == 1
        assert scan(word) == [] and scan(new)
        for version in store.ledger.publications.versions(DATASET):
            assert verify(
                store.ledger, store.blobs, load_manifest(store.ledger, store.blobs, DATASET, version.version)
            ).valid
