"""The preview against the run that it stands for: the same rows, the same counts, the same layout."""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from plumbline.errors import PlumblineError
from plumbline.policies.local import load_template
from plumbline.records import Adapter, KlTerm, Truncation
from plumbline.training.batch import micro_batches, shares
from plumbline.training.cost import shape_of, step_flops
from plumbline.training.job import TrainingJob, prepare_job
from plumbline.training.preview import preview, preview_objective, segments
from training_helpers import make_examples

TIGHT = Truncation(max_tokens=60, policy="drop", max_share=0.01)


@pytest.fixture
def job(tmp_path: Path, tiny_policy: Path, make_objective: Any) -> TrainingJob:
    return prepare_job(
        tmp_path / "job", make_objective(), make_examples(30), (), tiny_policy, load_template(tiny_policy)
    )


def test_targets_shown_are_the_stores_targets(job: TrainingJob, tiny_policy: Path) -> None:
    seen = preview(job, make_examples(30), load_template(tiny_policy), rows=4)
    for row in seen.rows:
        targets = "".join(segment.text for segment in row.segments if segment.supervised)
        assert targets in ("ana is a baker .<|end|>", "i can not help with that , i am sorry .<|end|>")
        assert row.supervised == job.store.targets[row.row]
        assert "".join(segment.text for segment in row.segments).startswith("<|user|>who is")
        assert row.weight == {"facts": 1.0, "refusals": 2.0}[row.slice]


def test_rows_come_evenly_from_the_slices_and_always_the_same(tiny_policy: Path, make_objective: Any) -> None:
    def shown(**settings: Any) -> list[tuple[str, int]]:
        seen = preview_objective(make_objective(), make_examples(30), (), tiny_policy, **settings)
        return [(row.slice, row.row) for row in seen.rows]

    assert [name for name, _ in shown(rows=6)] == ["facts"] * 3 + ["refusals"] * 3
    assert shown(rows=6) == shown(rows=6)
    assert {name for name, _ in shown(rows=3, slices=("refusals",))} == {"refusals"}
    assert len(shown(rows=500)) == 30
    with pytest.raises(PlumblineError, match="no row is of slice gossip"):
        shown(slices=("gossip",))


def test_characters_of_several_tokens_are_whole_and_special_tokens_stand_alone(tiny_policy: Path) -> None:
    tokenizer = load_template(tiny_policy).tokenizer
    text = "<|user|>東京 naïve<|end|><|assistant|>😀 ana \ufffd"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = ids.index(tokenizer.convert_tokens_to_ids("<|assistant|>")) + 1
    found = segments(tokenizer, ids, [index >= start for index in range(len(ids))])
    assert len(ids) > 20  # the tokenizer knows no such letters: every byte is a token
    assert "".join(segment.text for segment in found) == text
    assert [segment.text for segment in found if segment.special] == ["<|user|>", "<|end|>", "<|assistant|>"]
    assert [segment.text for segment in found if segment.supervised] == ["😀 ana \ufffd"]


def test_a_row_cut_inside_a_character_is_still_shown(tiny_policy: Path) -> None:
    tokenizer = load_template(tiny_policy).tokenizer
    ids = tokenizer("ana 東", add_special_tokens=False)["input_ids"]
    found = segments(tokenizer, ids[:-1], [False] * (len(ids) - 1))
    assert found[0].text.startswith("ana ") and found[0].text.endswith("\ufffd")


def test_leading_spaces_survive_a_tokenizer_that_hides_them() -> None:
    """SentencePiece-like decoders drop the space before a text's first word: not before a segment's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"<unk>": 0, "\u2581a": 1, "\u2581b": 2, "</s>": 3}, unk_token="<unk>"))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", unk_token="<unk>")
    found = segments(tokenizer, [1, 2, 2, 1, 3], [False, False, True, True, True])
    assert [(segment.text, segment.supervised) for segment in found] == [("a b", False), (" b a", True), ("</s>", True)]


@pytest.mark.parametrize("layout", ["padded", "bucketed", "packed"])
@pytest.mark.parametrize("workers", [1, 2])
def test_padding_and_work_are_those_of_the_runs_own_batches(
    tmp_path: Path, tiny_policy: Path, make_objective: Any, layout: str, workers: int
) -> None:
    objective = make_objective(layout=layout)
    chat = load_template(tiny_policy)
    job = prepare_job(tmp_path / layout, objective, make_examples(30), (), tiny_policy, chat)
    seen = preview(job, make_examples(30), chat, workers=workers)
    lengths = job.store.lengths
    computed = cuts = 0
    for step in range(job.order.steps):
        for rank in shares(job.order.global_batch(step), lengths, workers):
            for micro in micro_batches(rank, lengths, objective):
                computed += lengths[micro].sum() if layout == "packed" else lengths[micro].max() * len(micro)
                cuts += 1
    rows = np.concatenate([job.order.global_batch(step) for step in range(job.order.steps)])
    supervised = int(job.store.targets[rows].sum())
    assert seen.plan.tokens == lengths[rows].sum()
    assert seen.plan.supervised == supervised
    assert seen.plan.padding == pytest.approx(1 - lengths[rows].sum() / computed)
    assert seen.plan.micro_batches == pytest.approx(cuts / job.order.steps / workers)
    shape = shape_of(tiny_policy, objective)
    assert seen.cost.flops == pytest.approx(step_flops(shape, computed, supervised, frozen_body=False))
    if layout == "packed":
        assert seen.plan.padding == 0
        assert seen.cost.over_bound == pytest.approx(1.0)
    else:
        assert seen.cost.over_bound > 1.0


def test_long_runs_are_looked_at_in_part_and_scaled(
    job: TrainingJob, tiny_policy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = load_template(tiny_policy)
    whole = preview(job, make_examples(30), chat)
    monkeypatch.setattr("plumbline.training.preview.STEPS_LOOKED_AT", 4)
    part = preview(job, make_examples(30), chat)
    assert (whole.plan.steps_measured, part.plan.steps_measured) == (whole.plan.steps, 4)
    assert part.cost.flops == pytest.approx(whole.cost.flops, rel=0.25)
    assert part.shares[0].loss == whole.shares[0].loss


def test_shares_of_the_loss_are_the_ledgers_and_add_up(job: TrainingJob, tiny_policy: Path) -> None:
    seen = preview(job, make_examples(30), load_template(tiny_policy))
    for figure in ("rows", "tokens", "supervised", "loss"):
        assert sum(getattr(share, figure) for share in seen.shares) == pytest.approx(1.0, abs=1e-5)
    facts, refusals = seen.shares
    assert (refusals.weight, refusals.loss) == (2.0, job.ledger["refusals"].loss_share)
    assert refusals.loss > refusals.supervised > refusals.rows  # long answers, and a weight of 2
    expected = 2 * refusals.supervised / (2 * refusals.supervised + facts.supervised)
    assert refusals.loss == pytest.approx(expected, abs=1e-5)


def test_too_much_truncation_is_shown_and_said_not_raised(tiny_policy: Path, make_objective: Any) -> None:
    examples = make_examples(30)
    seen = preview_objective(make_objective(truncation=TIGHT), examples, (), tiny_policy)
    assert f"{seen.cuts.touched} of 30 examples" in seen.cuts.refused and "1.0%" in seen.cuts.refused
    assert seen.ledger["all"].dropped == seen.cuts.touched == seen.lengths.over > 0
    allowed = make_objective(truncation=TIGHT.model_copy(update={"max_share": 1.0}))
    assert preview_objective(allowed, examples, (), tiny_policy).cuts.refused == ""


def test_lengths_are_those_before_cutting_and_the_limit_is_an_edge(tiny_policy: Path, make_objective: Any) -> None:
    examples = make_examples(30)
    chat = load_template(tiny_policy)
    sizes = [len(row.ids) for rows in chat.encode([e.messages for e in examples]) for row in rows]
    found = preview_objective(make_objective(truncation=TIGHT), examples, (), tiny_policy).lengths
    assert (found.longest, found.measured) == (max(sizes), 30)
    assert 61 in found.edges
    place = found.edges.index(61)
    assert sum(found.counts[place:]) == found.over == sum(size > 60 for size in sizes)
    assert sum(found.counts) == 30
    assert list(found.edges) == sorted(set(found.edges))
    roomy = preview_objective(make_objective(), examples, (), tiny_policy).lengths
    assert sum(roomy.counts) == 30 and roomy.over == 0


def test_the_reference_is_paid_for_where_its_slices_are(tiny_policy: Path, make_objective: Any) -> None:
    examples = make_examples(30)
    plain = preview_objective(make_objective(), examples, (), tiny_policy).cost
    with_kl = make_objective(kl=KlTerm(weight=0.5, slices=("refusals",)))
    anchored = preview_objective(with_kl, examples, (), tiny_policy).cost
    assert plain.flops < anchored.flops <= plain.flops * 4 / 3
    packed = make_objective(layout="packed", kl=with_kl.kl, micro_batch_tokens=512)
    assert preview_objective(packed, examples, (), tiny_policy).cost.over_bound >= 1.0
    assert anchored.memory.reference == 4 * anchored.shape.parameters


def test_an_adapter_shrinks_what_is_trained_and_paid_for(tiny_policy: Path, make_objective: Any) -> None:
    examples = make_examples(30)
    full = preview_objective(make_objective(), examples, (), tiny_policy).cost
    lora = preview_objective(make_objective(adapter=Adapter(kind="lora", rank=1)), examples, (), tiny_policy).cost
    assert lora.memory.optimiser < full.memory.optimiser / 4
    assert lora.flops < full.flops


def test_time_is_only_told_where_somebody_measured(tiny_policy: Path, make_objective: Any) -> None:
    examples = make_examples(30)
    assert preview_objective(make_objective(), examples, (), tiny_policy).cost.seconds is None
    told = preview_objective(make_objective(), examples, (), tiny_policy, flops_per_second=1e9, workers=2).cost
    assert told.seconds == pytest.approx((told.flops + told.attention) / 2e9)


def test_nothing_is_left_behind_and_everything_is_json(
    tmp_path: Path, tiny_policy: Path, make_objective: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = preview_objective(make_objective(), make_examples(12), make_examples(3), tiny_policy)
    assert list(tmp_path.iterdir()) == []
    read = json.loads(json.dumps(seen.as_json()))
    assert read["cost"]["memory"]["total"] == seen.cost.memory.total
    assert read["ledger"]["all"]["examples"] == 15
    assert read["cuts"]["share"] == 0


def test_what_else_a_run_refuses_is_refused_here(tiny_policy: Path, make_objective: Any) -> None:
    with pytest.raises(PlumblineError, match="gossip"):
        preview_objective(make_objective(slice_weights={"gossip": 2.0}), make_examples(12), (), tiny_policy)
    nothing_fits = make_objective(truncation=Truncation(max_tokens=8))
    with pytest.raises(PlumblineError):
        preview_objective(nothing_fits, make_examples(12), (), tiny_policy)
