"""The dataset card as people read it (Markdown with a front matter), and its answers to the RAI questions.

The answers are those of the Croissant RAI vocabulary (http://mlcommons.org/croissant/RAI/), once, for the Markdown and
for the JSON-LD. The front matter is that of a dataset repository's README, so that tools which read such files find the
splits. What no record can answer is said to be unknown, in the same place and in the same words every time.
"""

from collections.abc import Iterable, Mapping

import yaml

from plumbline.feedback.datasets.card import DatasetCard
from plumbline.feedback.redaction.redact import NOT_DETECTED
from plumbline.records import short

LICENCES = ("MIT", "Apache-2.0", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "ODC-By", "BSD-3-Clause")
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
REASONS = {
    "withdrawal": "a removal: it holds nobody who had left, and nothing new",
    "seed": "examples written for the purpose",
    "import": "public examples, imported under their licence",
    "ingest": "feedback that people gave, after consent, redaction, guards and approval",
}


def markdown(card: DatasetCard, data_files: Mapping[str, str] | None = None) -> str:
    """The card. `data_files` names the file of each split when the card lies beside an export."""
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front_matter(card, data_files), sort_keys=False, allow_unicode=True).rstrip(),
            "---",
            "",
            f"# {card.name}",
            "",
            description(card),
            "",
            *_section("At a glance", _glance(card)),
            *_section("What it is for", answers(card)["dataUseCases"]),
            *_section("Whose words, and by what right", _consent(card)),
            *_section("Who wrote, filtered and approved it", _hands(card)),
            *_section("How feedback became this version", _account(card)),
            *_section("Personal data", _redaction(card)),
            *_section("Splits", _splits(card)),
            *_section("Licence", _licence(card)),
            *_section("Where it comes from", _lineage(card)),
            *_section("Known limits", [*answers(card)["dataLimitations"], *answers(card)["dataBiases"]]),
            *_section("Upkeep", answers(card)["dataReleaseMaintenancePlan"]),
        ]
    )


def description(card: DatasetCard) -> str:
    manifest = card.manifest
    made = REASONS.get(manifest.reason, manifest.reason)
    what = (
        f"Version {manifest.version} of the dataset `{manifest.dataset}`, published {card.published_at[:10]}: {made}."
    )
    sizes = ", ".join(
        f"{_n(manifest.sizes.get(split, 0))} {split.replace('_', '-')}" for split in ("train", "held_out")
    )
    return f"{what} {_n(manifest.size)} conversations ({sizes}) of {_n(manifest.subjects)} people."


def front_matter(card: DatasetCard, data_files: Mapping[str, str] | None = None) -> dict[str, object]:
    names = {name.lower(): name for name in LICENCES}
    only = next(iter(card.licences)) if len(card.licences) == 1 else ""
    licence: dict[str, object] = {"license": names[only.lower()].lower()} if only.lower() in names else {
        "license": "other", "license_name": "see-below"
    }  # fmt: skip
    found: dict[str, object] = {
        "pretty_name": card.name,
        **licence,
        "language": list(card.languages) or ["en"],
        "task_categories": ["text-generation"],
        "size_categories": [next((name for most, name in SIZES if card.manifest.size < most), "n>1M")],
        "tags": ["plumbline", "alignment", "sft", "consent"],
        "plumbline": {"version": card.manifest.version, "digest": card.manifest.digest, "root": card.manifest.root},
    }
    if data_files:
        files = [{"split": split, "path": path} for split, path in data_files.items()]
        found["configs"] = [{"config_name": "default", "data_files": files}]
    return found


def answers(card: DatasetCard) -> dict[str, list[str]]:
    """The RAI questions that records can answer, by the vocabulary's own names."""
    consent, manifest = card.consent, card.manifest
    people = f"{_n(consent.people)} people consented to training" if consent.people else "No person's words are in it"
    collection = [
        f"{people}; {_n(consent.examples_of_nobody)} examples are nobody's and stand under their licence.",
        f"Origins: {_list(card.origins)}. Sources: {_list(card.sources)}.",
    ]
    missing = [f"Of {_n(card.sealed)} events, {_n(card.refused)} were refused, each under a reason that is counted."]
    if card.not_shown:
        missing.append(
            f"{_n(card.not_shown)} examples were erased since, or the consent to them ended: they are not here."
        )
    return {
        "dataCollection": collection,
        "dataCollectionType": ["User feedback on answers", "Examples written or imported for the purpose"],
        "dataCollectionMissingData": missing,
        "dataPreprocessingProtocol": [
            "Exact and near duplicates are removed by keyed signatures; what is on the held-out side wins.",
            "E-mail addresses, phone and card numbers, IBANs, IP addresses and secrets become typed placeholders.",
            "Guards keep out floods by one person or source, one text from many people, and control tokens.",
        ],
        "dataAnnotationProtocol": [
            "Answers become targets only when a person rewrote them, or reviewers approved them under the rubric "
            f"{short(manifest.rubric)}; thumbs only select what is looked at.",
            f"Approved by: {_list(card.approvers) or 'nobody is recorded'}.",
        ],
        "machineAnnotationTools": [f"plumbline, source digest {short(manifest.code)}"],
        "dataUseCases": [
            "Supervised fine-tuning of an assistant towards the rubric in force (train), and measuring it (held-out).",
            "Not for: learning from the held-out split, reward models without calibration, finding out who is who.",
        ],
        "dataBiases": [
            f"Slices: {_list(manifest.slices)}.",
            f"Languages: {_list(card.languages)}.",
            "Who gives feedback is not who uses a system; people's age, gender and origin are not recorded.",
        ],
        "dataLimitations": [
            f"Redaction does not find {', '.join(NOT_DETECTED)}; what it misses by class is in the table above.",
            "Supervised targets show what to say, not how much better it is than another answer.",
            "A policy trained on this does not unlearn when somebody leaves; it is flagged, and people decide.",
        ],
        "dataSocialImpact": [
            "People can leave: a version published after a withdrawal was acknowledged does not contain that person."
        ],
        "personalSensitiveInformation": [
            "Conversations may hold what people said about themselves. Pseudonyms are left out unless asked for.",
            f"Redacted on the way in: {_list(card.redactions) or 'nothing was found'}. "
            f"{'; '.join(f'{name}: not detected' for name in NOT_DETECTED)}.",
        ],
        "dataReleaseMaintenancePlan": [
            "Consent is checked again when a version is published and when one is trained on or exported.",
            "After a withdrawal a version without the person follows; older exports must be deleted or made again.",
        ],
    }


# --- sections -----------------------------------------------------------------------------------------------------


def _glance(card: DatasetCard) -> list[str]:
    rows = [
        ("version", f"{card.manifest.version}"),
        ("digest", f"`{card.manifest.digest}`"),
        ("Merkle root", f"`{card.manifest.root}`"),
        ("published", card.published_at),
        ("examples", _n(card.manifest.size)),
        ("people", _n(card.manifest.subjects)),
        ("not in what was read", _n(card.not_shown)),
        ("checked now", "sound" if not card.problems else "UNSOUND: " + "; ".join(card.problems)),
    ]
    return _table(("", ""), rows)


def _consent(card: DatasetCard) -> list[str]:
    consent, manifest = card.consent, card.manifest
    expiry = (
        f"the earliest ends {consent.earliest_expiry}" if consent.earliest_expiry else "none of them ends by itself"
    )
    return [
        f"- {_n(consent.people)} people; {_n(consent.examples_of_nobody)} examples are nobody's.",
        f"- Purposes that stand, by people: {_list(consent.purposes) or 'none'}.",
        f"- Notices they agreed to, by people: {_list(consent.notices) or 'none'}.",
        f"- Consents with an end: {_n(consent.people - consent.without_expiry)}; {expiry}.",
        f"- People who left before this version: {_n(consent.withdrawn)} withdrew, {_n(consent.expired)} expired.",
        f"- Checked against entry {manifest.consent_sequence} of the consent ledger, `{manifest.consent_head}`.",
    ]


def _hands(card: DatasetCard) -> list[str]:
    rows = [
        *(("written by", name, _n(count)) for name, count in card.authors.items()),
        *(("filtered by", name, _n(count)) for name, count in card.filters.items()),
        *(("approved by", name, _n(count)) for name, count in card.approvers.items()),
    ]
    said = f"Origins: {_list(card.origins) or 'none'}. `person` stands for people whose words these are."
    return [said, "", *_table(("", "who", "examples"), rows)]


def _account(card: DatasetCard) -> list[str]:
    manifest = card.manifest
    mine = f"This version's run: {_n(manifest.sealed)} sealed = {_n(manifest.accepted)} accepted"
    mine += f" + {_n(sum(manifest.rejected.values()))} refused."
    events = f" Events {card.events[0]} to {card.events[1]} of the inbox." if card.events else ""
    total = (
        f"All versions up to it: {_n(card.sealed)} sealed = {_n(card.accepted)} accepted + {_n(card.refused)} refused."
    )
    rows = [(name, _n(count)) for name, count in card.rejected.items()]
    return [mine + events, "", total, "", *(_table(("refused because", "events"), rows) if rows else [])]


def _redaction(card: DatasetCard) -> list[str]:
    names = sorted({*card.redactions, *card.recalls})
    rows = []
    for name in names:
        found = card.recalls.get(name)
        recall = f"{found.recall:.3f} ({found.low:.3f} to {found.high:.3f}, n = {found.n})" if found else "not measured"
        rows.append((name, _n(card.redactions.get(name, 0)), recall))
    rows += [(name, "", "not detected") for name in NOT_DETECTED]
    return [
        "Placeholders put in, and the share of each class that redaction finds on a labelled set (95 % interval):",
        "",
        *_table(("class", "redacted", "recall"), rows),
    ]


def _splits(card: DatasetCard) -> list[str]:
    manifest = card.manifest
    sound = "No prompt is on both sides." if not card.problems else "**Unsound**: " + "; ".join(card.problems) + "."
    slices = [(name, _n(count)) for name, count in sorted(manifest.slices.items(), key=lambda one: (-one[1], one[0]))]
    return [
        "The unit of the split is a connected component of person, conversation and near-duplicate text. Held-out is "
        f"sticky and wins. {sound}",
        "",
        *_table(("split", "examples"), [(split, _n(count)) for split, count in sorted(manifest.sizes.items())]),
        "",
        *_table(("slice", "examples"), slices),
    ]


def _licence(card: DatasetCard) -> list[str]:
    rows = [(name, _n(count)) for name, count in card.licences.items()]
    return [f"Of the version: {_cell(card.manifest.licence)}.", "", *_table(("licence", "examples"), rows)]


def _lineage(card: DatasetCard) -> list[str]:
    manifest = card.manifest
    rows = [
        ("parent", f"`{manifest.parent}`" if manifest.parent else "none: the first version"),
        ("run", f"`{manifest.run_key}`"),
        ("rubric", f"`{manifest.rubric}`"),
        ("policy text", f"`{manifest.policy_text}`" if manifest.policy_text else "not recorded"),
        ("code", f"`{manifest.code}`"),
        ("policies trained on it", ", ".join(card.policies) or "none is recorded"),
    ]
    return _table(("", ""), rows)


def _section(title: str, lines: Iterable[str]) -> list[str]:
    written = list(lines)
    if not any(line.startswith(("|", "- ")) or not line for line in written):
        written = [f"- {line}" for line in written]
    return [f"## {title}", "", *written, ""]


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join([' --- '] * len(head))}|"]
    return lines + [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows]


def _cell(text: str) -> str:
    """Text of others (a licence, a slice) that can neither break out of a table nor command a page or a terminal."""
    shown = "".join(char if char.isprintable() or char.isspace() else "\ufffd" for char in text)
    return " ".join(shown.replace("|", "\\|").replace("<", "&lt;").split())


def _list(counted: Mapping[str, int], most: int = 12) -> str:
    shown = [f"{_cell(name)} {_n(count)}" for name, count in list(counted.items())[:most]]
    return ", ".join(shown) + (f" and {len(counted) - most} more" if len(counted) > most else "")


def _n(value: int) -> str:
    return f"{value:,}"
