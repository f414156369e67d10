"""The model card of an exported policy: what made it, in words and digests, and how true the export is to it."""

from dataclasses import asdict, dataclass

from plumbline.records import MaskTotals, Objective, PolicyManifest, TrainingRecord


@dataclass(frozen=True)
class Drift:
    """Largest differences of logits on random ids. `drift_reload`: reloaded from disk against the same weights in
    memory, at most `tolerance`. `drift_from_trained`: against the network as it trained; more than that under QLoRA
    merged, whose 4-bit base weights are replaced by the base policy's own."""

    form: str
    tolerance: float
    largest_logit: float
    drift_reload: float
    drift_from_trained: float

    def as_record(self) -> dict[str, str | float]:
        return asdict(self)


def model_card(objective: Objective, manifest: PolicyManifest, record: TrainingRecord, drift: Drift, base: str) -> str:
    """Markdown with the Hub's front matter. It states what is recorded and nothing else: no licence is invented."""
    o, adapter, decoder = objective, objective.adapter, objective.samples
    rows = "\n".join(_row(name, totals) for name, totals in record.mask_ledger.items())
    weights = ", ".join(f"{name} {weight:g}" for name, weight in sorted(o.slice_weights.items())) or "all 1"
    replay = f"{o.replay_share:.1%} of {o.replay}" if o.replay else "none"
    kl = f"{o.kl.weight:g} on {', '.join(o.kl.slices)}" if o.kl.weight else "none"
    adapted = (
        f"{adapter.kind}, rank {adapter.rank}, alpha {adapter.alpha:g}, dropout {adapter.dropout:g}, on "
        + ", ".join(adapter.targets)
        if adapter.kind != "none"
        else "none"
    )
    limit = o.truncation
    cut = f"{limit.policy} beyond {limit.max_tokens} tokens; more than {limit.max_share:.1%} is refused"
    sampling = "greedy" if decoder.greedy else f"temperature {decoder.temperature:g}, top_p {decoder.top_p:g}"
    return f"""---
library_name: {"peft" if drift.form == "adapter" else "transformers"}
pipeline_tag: text-generation
tags: [plumbline, sft]
---

# {manifest.name}

An aligned policy. What made it is in `plumbline.json`; in words:

| what | value |
| --- | --- |
| policy | {manifest.digest} |
| base policy | {base if base == manifest.base_policy else f"{base} ({manifest.base_policy})"} |
| objective | {manifest.objective} |
| dataset version | {manifest.dataset} |
| rubric | {manifest.rubric} |
| prompt template | {manifest.template} |
| added tokens | {" ".join(f"`{token}`" for token in o.added_tokens) or "none"} |
| mask | {o.mask.turns} assistant turns, each with its end-of-turn token |
| truncation | {cut} |
| batches | {o.batch_examples} examples, {o.layout} |
| normaliser | {o.normaliser} |
| slice weights | {weights} |
| replay | {replay} |
| KL to the base policy | {kl} |
| adapter | {adapted} |
| frozen | {", ".join(o.frozen) or "nothing"} |
| optimiser | AdamW, peak rate {o.optimiser.learning_rate:g}, {o.optimiser.schedule}, {o.precision} |
| checkpoint | {o.checkpoint.rule}: step {record.chosen_step} of {record.steps} |
| seed | {o.seed} |
| decoder settings | {sampling}, at most {decoder.max_tokens} tokens, seed {decoder.seed} |

{record.steps} steps over {record.examples_seen} examples, {record.supervised_tokens} supervised tokens; loss \
{record.first_loss:.3f} to {record.last_loss:.3f} nats per supervised token.

## What the loss saw

| slice | examples | rows | supervised tokens | cut | split | dropped | tokens cut away | share of loss |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

## How true this export is

{_truth(drift, objective)}

## Licence

None is stated here: the licences of the base policy and of the data hold.

Whether this policy may serve users is the gate's decision, not this card's.
"""


def _row(name: str, t: MaskTotals) -> str:
    cells = (name, t.examples, t.rows, t.supervised_tokens, t.truncated, t.split, t.dropped, t.truncated_tokens)
    return "| " + " | ".join(map(str, cells)) + f" | {t.loss_share:.1%} |"


def _truth(drift: Drift, objective: Objective) -> str:
    text = (
        f"Form {drift.form}. Reloaded from disk, its logits differ from the weights in memory by at most "
        f"{drift.drift_reload:.2e} (largest logit {drift.largest_logit:.2e}, tolerance {drift.tolerance:.2e})."
    )
    if drift.form == "merged" and objective.adapter.kind == "qlora":
        text += (
            f" It was trained over 4-bit base weights and merged into the base policy's own float32 weights: from the "
            f"network as it trained, the largest logit difference is {drift.drift_from_trained:.2e}."
        )
    if drift.form == "adapter":
        four = ", in 4 bits (NF4, double quantisation) as it was trained" if objective.adapter.kind == "qlora" else ""
        grown = "; grow its embeddings to this tokenizer's length first" if objective.added_tokens else ""
        text += f" It was compared over its base policy{four}. Load it with peft.PeftModel over that base{grown}."
    return text
