"""What the stores hold that `plumb evaluate` hands to the monitors: dataset versions, and reviewers' labels."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from plumbline.cli.options import open_blobs, open_ledger

if TYPE_CHECKING:
    from plumbline.evaluation import Observations, ReviewLabel
    from plumbline.feedback import DatasetVersionData
    from plumbline.records import Rubric


def observe(
    previous: tuple[str, ...],
    versions: "list[DatasetVersionData]",
    reviewed_under: "Rubric | None",
    ledger: Path,
    blobs: Path,
) -> "Observations":
    """The versions before the one that was trained on, oldest first, and the labels under a rubric's rules.

    Raises PlumblineError where `previous` names versions and there is none after them.
    """
    from plumbline.errors import PlumblineError
    from plumbline.evaluation import DatasetWindow, Observations

    reviews = read_reviews(reviewed_under, ledger) if reviewed_under else []
    if not previous:
        return Observations(reviews=reviews)
    if not versions:
        raise PlumblineError(
            "--previous names the version before, and no --dataset names the one after it",
            consequence="there is nothing to compare it with, and nothing was asked",
            remedy="name the version that the aligned policy was trained on with --dataset, first",
        )
    before = sorted(read_versions(previous, ledger, blobs), key=lambda one: one.manifest.version)
    windows = [DatasetWindow(one.manifest, one.train) for one in (*before, versions[0])]
    return Observations(reviews=reviews, history=windows[:-2], previous=windows[-2], current=windows[-1])


def read_versions(names: tuple[str, ...], ledger: Path, blobs: Path) -> "list[DatasetVersionData]":
    """Dataset versions by NAME or NAME@VERSION, also such as hold people who withdrew: the policy did see them."""
    from plumbline.feedback import load_version

    if not names:
        return []
    kept, found = open_blobs(blobs, must_exist=True), []
    with contextlib.closing(open_ledger(ledger, must_exist=True)) as store:
        for given in names:
            name, _, version = given.partition("@")
            found.append(load_version(store, kept, name, int(version) if version.isdecimal() else version or None))
    return found


def read_reviews(rubric: "Rubric", ledger: Path) -> "list[ReviewLabel]":
    """Reviewers' standing labels of the review desk under this rubric's rule texts, a row per rule at stake: a rule's
    units are the items that some label rests on it for, with every verdict on them, as in `plumb review agreement`."""
    from plumbline.evaluation import ReviewLabel
    from plumbline.feedback.review.desk import ReviewDesk
    from plumbline.feedback.review.settling import words

    with contextlib.closing(open_ledger(ledger, must_exist=True)) as store:
        docket = ReviewDesk(store).docket(rubric, look=False)
        rows = []
        for item in docket.items:
            given = words(docket.labels, item)
            for rule in sorted({rule for one in given for rule in one.label.rules}):
                rows += [ReviewLabel(rule, f"{item.item:012d}", one.reviewer, one.label.verdict) for one in given]
    return rows
