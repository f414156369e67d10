"""The loop's picture with its live numbers, drawn twice: lanes for a wide page, a column for a narrow one.

One turn of the loop is one lane: dataset, train, evaluate and shadow, gate, release. Between lanes runs the way
back, from what users said to the next dataset version. A step that the story does not hold is drawn empty, with
"not reached", because a gap in the record is part of what happened.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from plumbline.console.story import LoopStory
from plumbline.console.svg import drawing, el
from plumbline.console.words import NBSP, count, humanise, number
from plumbline.records import (
    DatasetManifest,
    GateDecision,
    PolicyManifest,
    ShadowSummary,
    TrainingRecord,
    Verdict,
    short,
)

VERDICT_WORD = {
    Verdict.PASS: "passed",
    Verdict.REGRESSED: "refused",
    Verdict.INCONCLUSIVE: "undecided",
    Verdict.ERROR: "not judged",
}
VERDICT_SIGN = {Verdict.PASS: "\u2713", Verdict.REGRESSED: "\u2715", Verdict.INCONCLUSIVE: "?", Verdict.ERROR: "!"}


@dataclass(frozen=True)
class Turn:
    """One turn of the loop, as far as the story holds it."""

    dataset: DatasetManifest | None
    policy: PolicyManifest | None
    training: TrainingRecord | None
    items: int
    shadow: ShadowSummary | None
    decision: GateDecision | None
    serves: str | None


def turns(story: LoopStory) -> tuple[Turn, ...]:
    """Turns in order: one for each aligned policy, or for each dataset version where policies are fewer."""
    aligned = [policy for policy in story.policies if policy.role == "aligned"]
    serving = {entry.decision: story.policy_name(entry.policy) for entry in story.releases if entry.decision}
    held = next((story.policy_name(e.policy) for e in story.releases if e.decision is None), None)
    made: list[Turn] = []
    for index in range(max(len(aligned), len(story.datasets), 1)):
        policy = aligned[index] if index < len(aligned) else None
        dataset = story.datasets[index] if index < len(story.datasets) else None
        if policy is not None:
            dataset = next((d for d in story.datasets if d.digest == policy.dataset), dataset)
        decision = story.decision_on(policy.digest) if policy else None
        report = story.report_on(policy.digest) if policy else None
        if decision is not None:
            held = serving.get(decision.digest, held)
        made.append(
            Turn(
                dataset=dataset,
                policy=policy,
                training=training_of(story, policy),
                items=sum(estimate.n for estimate in report.estimates) if report else 0,
                shadow=shadow_of(story, policy, index, len(aligned)),
                decision=decision,
                serves=held if decision is not None else None,
            )
        )
    return tuple(made)


def training_of(story: LoopStory, policy: PolicyManifest | None) -> TrainingRecord | None:
    if policy is None or policy.objective is None:
        return None
    return next((record for record in story.training if record.objective == policy.objective), None)


def shadow_of(story: LoopStory, policy: PolicyManifest | None, index: int, turns_: int) -> ShadowSummary | None:
    """The shadow whose experiment names the policy; else, when there is one shadow for each turn, the same in order."""
    if policy is None:
        return None
    named = [shadow for shadow in story.shadows if policy.name in shadow.counts.experiment]
    if named:
        return named[-1]
    return story.shadows[index] if len(story.shadows) == turns_ else None


@dataclass(frozen=True)
class Node:
    """A box: heading, up to two lines, and the classes that colour it."""

    heading: str
    lines: tuple[str, ...]
    class_: str = ""
    digest: str | None = None


def _nodes(turn: Turn) -> tuple[Node, ...]:
    missing = ("not reached",)
    dataset = (
        Node(
            f"Dataset v{turn.dataset.version}",
            (count(turn.dataset.size, "example"), short(turn.dataset.digest)),
            digest=turn.dataset.digest,
        )
        if turn.dataset
        else Node("Dataset", missing, "absent")
    )
    train = Node("Train", missing, "absent")
    if turn.policy is not None:
        lines: tuple[str, ...] = (short(turn.policy.digest),)
        if turn.training is not None:
            loss = f"loss {number(turn.training.first_loss, 2)} \u2192 {number(turn.training.last_loss, 2)}"
            lines = (count(turn.training.steps, "step"), loss)
        train = Node(turn.policy.name, lines, digest=turn.policy.digest)
    evaluate = Node("Evaluate", missing, "absent")
    if turn.items or turn.shadow:
        first = count(turn.items, "paired answer") if turn.items else "no report"
        second = f"shadow: {count(turn.shadow.counts.paired, 'pair')}" if turn.shadow else "no shadow"
        evaluate = Node("Evaluate", (first, second))
    gate, release = Node("Gate", missing, "absent"), Node("Release", missing, "absent")
    if turn.decision is not None:
        verdict = turn.decision.verdict
        bad = sum(area.verdict is not Verdict.PASS for area in turn.decision.areas)
        of = f"{bad} of {len(turn.decision.areas)} not passed" if bad else f"all {len(turn.decision.areas)} metrics"
        gate = Node(
            f"Gate {VERDICT_SIGN[verdict]}", (VERDICT_WORD[verdict], of), f"v-{verdict.lower()}", turn.decision.digest
        )
        moved = turn.policy is not None and turn.serves == turn.policy.name
        if turn.serves:
            release = Node(
                "Release",
                (turn.serves, "now serves users" if moved else "keeps serving users"),
                "v-pass" if moved else "",
            )
    return dataset, train, evaluate, gate, release


def _feedback(dataset: DatasetManifest | None) -> str:
    if dataset is None:
        return "what users say becomes the next version"
    if not dataset.sealed:
        return "feedback"
    refused = sum(dataset.rejected.values())
    return f"feedback: {count(dataset.sealed, 'event')}, {dataset.accepted}{NBSP}accepted, {refused}{NBSP}refused"


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "\u2026"


def _box(node: Node, x: float, y: float, width: float, height: float) -> Markup:
    lines = node.lines[:2]
    top = y + height / 2 - 9 * len(lines) + 4
    parts = [el("rect", x=x, y=y, width=width, height=height, rx=7, class_="node")]
    if node.digest:
        parts.append(el("title", node.digest))
    parts.append(
        el("text", _clip(node.heading, 20), x=x + width / 2, y=top, class_="heading", text_anchor="middle")
    )  # fmt: skip
    for i, line in enumerate(lines):
        parts.append(
            el("text", _clip(line, 27), x=x + width / 2, y=top + 18 * (i + 1), class_="line", text_anchor="middle")
        )
    return el("g", *parts, class_=f"step {node.class_}".strip())


def _arrow(path: str, id_: str, class_: str = "flow") -> Markup:
    return el("path", d=path, class_=class_, marker_end=f"url(#{id_}-{'no' if 'blocked' in class_ else 'head'})")


def _heads(id_: str) -> Markup:
    arrow = el("path", d="M0 0L8 4L0 8Z", class_="head")
    cross = el("path", d="M1 1L9 9M9 1L1 9", class_="cross")
    return el(
        "defs",
        el("marker", arrow, id=f"{id_}-head", viewBox="0 0 8 8", refX=7, refY=4, markerWidth=9, markerHeight=9,
           orient="auto", markerUnits="userSpaceOnUse"),
        el("marker", cross, id=f"{id_}-no", viewBox="0 0 10 10", refX=12, refY=5, markerWidth=11, markerHeight=11,
           orient="auto", markerUnits="userSpaceOnUse"),
    )  # fmt: skip


def _between_gate_and_release(turn: Turn) -> str:
    if turn.decision is None:
        return "flow faint"
    return {Verdict.PASS: "flow passed"}.get(turn.decision.verdict, "flow blocked")


def _rubric_node(story: LoopStory) -> Node:
    if story.rubric is None:
        return Node("Rubric", ("not recorded",), "absent")
    rubric = story.rubric
    rules = f"{len(rubric.rules)}{NBSP}areas, {sum(len(rule.margins) for rule in rubric.rules)}{NBSP}margins"
    return Node(f"Rubric {humanise(rubric.version)}", (rules,), digest=rubric.digest)


def describe(made: Sequence[Turn]) -> str:
    """The picture in words, for those who do not see it."""
    said: list[str] = []
    for index, turn in enumerate(made, 1):
        steps = [" ".join((node.heading, *node.lines)) for node in _nodes(turn)]
        said.append(f"Turn {index}: " + ", then ".join(steps))
    return ". ".join(said)


def loop_wide(story: LoopStory) -> Markup:
    made, id_ = turns(story), "loop-wide"
    width, box_w, box_h, gap, left, first = 1040.0, 166.0, 78.0, 46.0, 13.0, 92.0
    pitch = box_h + 84
    columns = [left + i * (box_w + gap) for i in range(5)]
    rubric = _rubric_node(story)
    marks = [
        _heads(id_),
        _arrow(f"M{columns[0] + box_w:g} 31H{columns[3] + box_w / 2:g}V{first - 2:g}", id_, "flow faint"),
        _arrow(f"M{columns[0] + box_w / 2:g} 52V{first - 2:g}", id_, "flow faint"),
        el("text", "what people can be held to, and the margins of the gate", x=columns[1] - 20, y=24, class_="along"),
        _box(replace(rubric, lines=rubric.lines[:1]), columns[0], 10, box_w, 42),
    ]
    for index, turn in enumerate(made):
        y = first + index * pitch
        middle = y + box_h / 2
        for column in range(4):
            kind = _between_gate_and_release(turn) if column == 3 else "flow"
            x1, x2 = columns[column] + box_w, columns[column + 1] - 3
            marks.append(_arrow(f"M{x1 + 3:g} {middle:g}H{x2:g}", id_, kind))
        marks += [_box(node, x, y, box_w, box_h) for node, x in zip(_nodes(turn), columns, strict=True)]
        last = index == len(made) - 1
        down = y + box_h + 46
        start, end = columns[4] + box_w / 2, columns[0] + box_w / 2
        tail = f"H{end + 10:g}Q{end:g} {down:g} {end:g} {down + 10:g}V{y + pitch - 3:g}" if not last else f"H{end:g}"
        marks.append(
            _arrow(
                f"M{start:g} {y + box_h:g}V{down - 10:g}Q{start:g} {down:g} {start - 10:g} {down:g}{tail}",
                id_,
                "flow back faint" if last else "flow back",
            )
        )
        text = _feedback(None if last else made[index + 1].dataset)
        marks.append(
            el("text", text, x=(start + end) / 2, y=down - 8, class_="along", text_anchor="middle")
        )  # fmt: skip
    return drawing(
        "The loop, turn by turn", describe(made), *marks,
        width=width, height=first + len(made) * pitch - 24, class_="chart loop wide", id_=id_,
    )  # fmt: skip


def loop_tall(story: LoopStory) -> Markup:
    made, id_ = turns(story), "loop-tall"
    width, box_w, box_h, gap = 340.0, 250.0, 66.0, 24.0
    x, centre = (width - box_w) / 2, width / 2
    marks = [_heads(id_), _box(_rubric_node(story), x, 6, box_w, 46)]
    y = 52.0
    marks.append(_arrow(f"M{centre:g} {y:g}V{y + gap - 2:g}", id_, "flow faint"))
    for index, turn in enumerate(made):
        nodes = _nodes(turn)
        for step, node in enumerate(nodes):
            y += gap
            marks.append(_box(node, x, y, box_w, box_h))
            y += box_h
            if step < 4:
                kind = _between_gate_and_release(turn) if step == 3 else "flow"
                marks.append(_arrow(f"M{centre:g} {y + 2:g}V{y + gap - 2:g}", id_, kind))
        last = index == len(made) - 1
        text = _feedback(None if last else made[index + 1].dataset)
        marks.append(_arrow(f"M{centre:g} {y:g}V{y + 16:g}", id_, "flow back faint" if last else "flow back"))
        marks.append(el("text", text, x=centre, y=y + 34, class_="along", text_anchor="middle"))
        y += 42
        if not last:
            marks.append(_arrow(f"M{centre:g} {y:g}V{y + gap - 2:g}", id_, "flow back"))
    return drawing(
        "The loop, turn by turn", describe(made), *marks, width=width, height=y + 6, class_="chart loop tall", id_=id_
    )
