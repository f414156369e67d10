"""Seeds: examples that were written for the purpose, or imported under a licence, as a dataset's next version."""

from collections import Counter
from collections.abc import Sequence

from plumbline.errors import PlumblineError
from plumbline.feedback.history import History
from plumbline.feedback.publish import (
    Draft,
    code_digest,
    compose,
    keys_of,
    prompt_text,
    publish_version,
    salted,
    signer,
    store,
)
from plumbline.feedback.reading import load_manifest
from plumbline.feedback.split import Components, drawn_split
from plumbline.records import Example, Split, digest_bytes, digest_of, merkle_root
from plumbline.stores import BlobStore, Ledger, Published
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

    Buckets: `duplicate` (an equal example is there already), `no_consent` (nobody's consent and no import
    licence carries it), `in_held_out` (the same prompt is held out, so it may not be trained on). Publishing the
    same examples again returns the version they made. Errors: ConsentLost when a demonstrator's consent does not
    hold, PlumblineError when `splits` does not fit, nothing is left, or the line is being worked on.
    """
    if splits is not None and len(splits) != len(examples):
        raise PlumblineError(
            f"{len(splits)} splits were given for {len(examples)} examples",
            consequence="nothing is published: which example is held out would be a guess",
            remedy="give one split per example, or none",
        )
    lease = ledger.runs.acquire_lease(f"dataset-line/{dataset}", holder or this_worker())
    consent = ledger.consent.require_valid()
    head = ledger.publications.head(dataset)
    parent = load_manifest(ledger, blobs, dataset) if head is not None else None
    kept = [index for index, example in enumerate(examples) if _lawful(example)]
    rejected = Counter(no_consent=len(examples) - len(kept))
    lawful = [examples[index] for index in kept]
    drafts = [Draft.of(example) for example in lawful]
    payloads = salted(ledger, drafts)
    addresses = [digest_bytes(payload) for payload in payloads]
    code = code or code_digest()
    run_key = digest_of(
        {"run": reason, "dataset": dataset, "examples": merkle_root(addresses), "rubric": rubric, "code": code}
    )
    existing = ledger.publications.by_run(run_key)
    if existing is not None:
        return existing

    known = ledger.publications.in_head(dataset, addresses)
    first = {address: row for row, address in reversed(list(enumerate(addresses)))}
    fresh = sorted(row for address, row in first.items() if address not in known)
    rejected["duplicate"] = len(lawful) - len(fresh)
    texts = [prompt_text(example.prompt) for example in lawful]
    signing = signer(ledger)
    keys, _ = keys_of(signing, texts, [example.target for example in lawful], [""] * len(lawful))
    prompts = keys.prompt.tolist()
    placed: list[Split] = ["train"] * len(lawful)
    if splits is None:
        for row, split in _drawn(lawful, fresh, prompts, held_out_share).items():
            placed[row] = split
    else:
        placed = [splits[index] for index in kept]
    published = History(ledger, blobs, dataset, signing).sides_of_prompts(keys)
    held_out = {prompts[row] for row in fresh if placed[row] == "held_out"}
    sound = [
        row
        for row in fresh
        if placed[row] == "held_out" or (prompts[row] not in held_out and "held_out" not in published.get(row, ()))
    ]
    rejected["in_held_out"] = len(fresh) - len(sound)
    if not sound:
        raise PlumblineError(
            f"none of the {len(examples)} examples can be published ({dict(+rejected)})",
            consequence="the dataset has no new version",
            remedy="give examples with a consent reference, or import them under a named licence",
        )
    version = compose(
        ledger,
        dataset,
        parent,
        store(ledger, blobs, dataset, drafts, payloads, placed, keys, [None] * len(lawful), sound),
        (),
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
    done = publish_version(ledger, blobs, version, lease=lease)
    ledger.runs.release_lease(lease)
    return done


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
