"""Seeds: examples that were written for the purpose, or imported under a licence, as a dataset's next version."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from plumbline.errors import PlumblineError
from plumbline.feedback.datasets.history import History, TextKeys
from plumbline.feedback.datasets.publish import (
    Draft,
    code_digest,
    compose,
    keys_of,
    prompt_text,
    publish_version,
    require_consent,
    salted,
    signer,
    store,
    subject_of,
)
from plumbline.feedback.datasets.reading import load_changes, load_manifest
from plumbline.feedback.datasets.removal import publish_removal
from plumbline.feedback.datasets.split import Components, drawn_split
from plumbline.feedback.ingestion.candidate import IngestionConfig
from plumbline.feedback.signatures import Signatures, near_pairs, similarity
from plumbline.records import Example, Split, digest_bytes, digest_of, merkle_root
from plumbline.stores import BlobStore, Ledger, Membership, Published
from plumbline.stores.runs import this_worker


def publish_seed_version(
    ledger: Ledger,
    blobs: BlobStore,
    dataset: str,
    examples: Sequence[Example],
    *,
    rubric: str,
    splits: Sequence[Split] | None = None,
    held_out_share: float = 0.1,
    licence: str = "unspecified",
    code: str | None = None,
    reason: str = "seed",
    holder: str = "",
    policy_text: str | None = None,
) -> Published:
    """Publish examples that were written for the purpose, as the dataset's next version.

    `splits` names each example's split; without it, components of cluster, prompt and conversation are drawn, so
    that nothing equal is on both sides. Seed authors are not users: one may have examples on both sides.

    Buckets: `duplicate` (an equal example is there already), `no_consent` (nobody's consent and no import licence
    carries it), `in_held_out` (the same prompt, or nearly the same text, is held out, so it may not be trained on),
    `in_train` (the prompt is trained on, so it may not be held out), `near_duplicate` (nearly a published text).
    Whoever is in the head and withdrew is left out. Publishing the same examples again returns the last version that
    they made. Only when something of it has left since, whose author consents again, is it published anew on today's
    head: what was there before on the side on which it was, whatever `splits` says.
    Errors: ConsentLost when a demonstrator's consent does not hold, PlumblineError when `splits` does not fit, nothing
    is left, or the line is being worked on.
    """
    if splits is not None and len(splits) != len(examples):
        raise PlumblineError(
            f"{len(splits)} splits were given for {len(examples)} examples",
            consequence="nothing is published: which example is held out would be a guess",
            remedy="give one split per example, or none",
        )
    lease = ledger.runs.acquire_lease(f"dataset-line/{dataset}", holder or this_worker())
    try:
        consent = ledger.consent.require_valid()
        code = code or code_digest()
        kept = [row for row, example in enumerate(examples) if _lawful(example)]
        lawful = [examples[row] for row in kept]
        with ledger.database.transaction():
            require_consent(
                ledger, {subject for example in lawful if (subject := subject_of(example))}, consent.sequence
            )
            drafts = [Draft.of(example) for example in lawful]
            payloads = salted(ledger, drafts)
        addresses = [digest_bytes(payload) for payload in payloads]
        leaving = _leaving(ledger, dataset)
        if {member.address for member in leaving} & set(addresses):  # no version takes away and adds the same
            publish_removal(ledger, blobs, dataset, lease=lease)
            leaving = _leaving(ledger, dataset)
        head = ledger.publications.head(dataset)
        parent = load_manifest(ledger, blobs, dataset) if head is not None else None
        facts = {"dataset": dataset, "examples": merkle_root(addresses), "rubric": rubric, "code": code}
        run_key, made = _runs(ledger, {"run": reason, **facts})
        before = _sides(ledger, blobs, made)
        known = ledger.publications.in_head(dataset, addresses).keys() - {member.address for member in leaving}
        if made and not before.keys() & set(addresses) - known:
            return made[-1]

        signing = signer(ledger)
        texts = [prompt_text(example.prompt) for example in lawful]
        keys, signatures = keys_of(signing, texts, [example.target for example in lawful], [""] * len(lawful))
        history = History(ledger, blobs, dataset, signing, [member.id for member in leaving])
        first = {address: row for row, address in reversed(list(enumerate(addresses)))}
        fresh = sorted(row for address, row in first.items() if address not in known)
        placed: list[Split] = ["train"] * len(lawful)
        if splits is not None:
            placed = [splits[row] for row in kept]
        else:
            drawn = sorted(first.values()) if made else fresh  # components as they were
            for row, split in _drawn(lawful, drawn, keys.prompt.tolist(), held_out_share).items():
                placed[row] = split
        for row in fresh:
            placed[row] = before.get(addresses[row], placed[row])
        sound, refused = _apart(fresh, placed, keys, signatures, history, IngestionConfig().near_duplicate)
        rejected = Counter(no_consent=len(examples) - len(lawful), duplicate=len(lawful) - len(fresh))
        rejected.update(refused.values())
        if made and not sound:
            return made[-1]
        if not sound:
            raise PlumblineError(
                f"none of the {len(examples)} examples can be published ({dict(+rejected)})",
                consequence="the dataset has no new version",
                remedy="give examples with a consent reference, or import them under a named licence",
            )
        with ledger.database.transaction():
            require_consent(
                ledger, {str(drafts[row].subject) for row in sound if drafts[row].subject}, consent.sequence
            )
            added = store(ledger, blobs, dataset, drafts, payloads, placed, keys, [None] * len(lawful), sound)
        version = compose(
            ledger,
            dataset,
            parent,
            added,
            leaving,
            run_key=run_key,
            rubric=rubric,
            policy_text=policy_text,
            code=code,
            consent=consent,
            reason=reason,
            licence=licence,
            sealed=len(examples),
            accepted=len(sound),
            rejected=dict(+rejected),
        )
        return publish_version(ledger, blobs, version, lease=lease)
    except PlumblineError:
        ledger.payloads.drop_unpublished(blobs, dataset)  # what was refused is not kept
        raise
    finally:
        ledger.runs.release_lease(lease)


def _leaving(ledger: Ledger, dataset: str) -> list[Membership]:
    return ledger.publications.of_subjects(dataset, sorted(ledger.publications.uncovered(dataset)))


def _runs(ledger: Ledger, facts: dict[str, str]) -> tuple[str, list[Published]]:
    """The versions that these very examples made so far, oldest first, and the key of the next that they would make."""
    key, made = digest_of(facts), []
    while (found := ledger.publications.by_run(key)) is not None:
        made.append(found)
        key = digest_of({**facts, "after": found.digest})
    return key, made


def _sides(ledger: Ledger, blobs: BlobStore, versions: Sequence[Published]) -> dict[str, Split]:
    """By address, the side of everything that these versions added."""
    found: dict[str, Split] = {}
    for one in versions:
        changes = load_changes(blobs, load_manifest(ledger, blobs, one.dataset, one.version))
        found |= {member.address: member.split for member in changes.added}
    return found


def _apart(
    rows: Sequence[int],
    placed: Sequence[Split],
    keys: TextKeys,
    signatures: Signatures,
    history: History,
    threshold: float,
) -> tuple[list[int], dict[int, str]]:
    """Rows that may be published, and why others may not: nothing equal or nearly equal is on both sides."""
    prompts, published = keys.prompt.tolist(), history.sides_of_prompts(keys)
    held_out = {prompts[row] for row in rows if placed[row] == "held_out"}
    refused: dict[int, str] = {}
    for row in rows:
        sides = published.get(row, set())
        if placed[row] == "train" and (prompts[row] in held_out or "held_out" in sides):
            refused[row] = "in_held_out"
        elif placed[row] == "held_out" and "train" in sides:
            refused[row] = "in_train"
    picked = np.array([row for row in rows if row not in refused], dtype=np.int64)
    i, j = near_pairs(keys.bands[picked])
    alike = similarity(signatures, picked[i], signatures, picked[j]) >= threshold
    for one, other in zip(picked[i[alike]].tolist(), picked[j[alike]].tolist(), strict=True):
        if placed[one] != placed[other]:
            refused[one if placed[one] == "train" else other] = "in_held_out"
    near = history.near(keys, signatures, [row for row in picked.tolist() if row not in refused], threshold)
    refused |= dict.fromkeys(near, "near_duplicate")
    return [row for row in rows if row not in refused], refused


def _lawful(example: Example) -> bool:
    """Somebody's consent carries it, or it is public data imported under a named licence."""
    if example.consent is not None:
        return True
    return example.provenance.origin == "import" and example.provenance.licence != "unspecified"


def _drawn(
    examples: Sequence[Example], rows: Sequence[int], prompts: Sequence[int], held_out_share: float
) -> dict[int, Split]:
    """A side for each row; what shares a prompt or a cluster is drawn together."""
    components: Components[str] = Components()
    nodes = {f"row:{row}": row for row in rows}
    for node, row in nodes.items():
        components.join(node, f"prompt:{prompts[row]}")
        if examples[row].cluster:
            components.join(node, "cluster:" + examples[row].cluster)
    sides: dict[int, Split] = {}
    for group in components.groups(nodes):
        drawn = drawn_split(min(_stable_key(examples[nodes[node]]) for node in group), held_out_share)
        sides |= {nodes[node]: drawn for node in group}
    return sides


def _stable_key(example: Example) -> str:
    """What a seed's split is drawn from: its content, so that two stores draw alike."""
    return example.cluster or digest_of([message.model_dump() for message in example.prompt])
