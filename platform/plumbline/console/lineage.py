"""The lineage graph, left to right: what was made from what.

Layers by longest path from a source, so that every arrow points right; within a layer, nodes stand near the
average of what they came from. Edges that would close a circle are left out of the layering (a loop's feedback
does return) and drawn all the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from plumbline.console.charts import verdict_class
from plumbline.console.picture import VERDICT_SIGN, VERDICT_WORD
from plumbline.console.story import LineageEdge, LoopStory
from plumbline.console.svg import drawing, el
from plumbline.console.words import humanise, visible
from plumbline.records import short

Key = tuple[str, str]
LARGEST = 60
BOX_W, BOX_H, GAP_X, GAP_Y, PAD = 146.0, 48.0, 44.0, 18.0, 4.0
WAY_POINT, WAY_H = "", 8.0


@dataclass(frozen=True)
class Placed:
    key: Key
    x: float
    y: float


def names_of(story: LoopStory) -> dict[str, str]:
    """The name of everything in the story that has both a digest and a name people use."""
    names = {policy.digest: policy.name for policy in story.policies}
    names |= {dataset.digest: f"{dataset.dataset} v{dataset.version}" for dataset in story.datasets}
    if story.rubric is not None:
        names[story.rubric.digest] = f"{story.rubric.id} {story.rubric.version}"
    names |= {report.digest: f"on {story.policy_name(report.aligned)}" for report in story.reports}
    for decision in story.decisions:
        word = f"{VERDICT_SIGN[decision.verdict]} {VERDICT_WORD[decision.verdict]}"
        names[decision.digest] = f"{story.policy_name(decision.aligned)} {word}"
    return names


def label_of(key: Key, names: dict[str, str]) -> str:
    text = visible(names.get(key[1], short(key[1]) if key[1].startswith("sha256:") else key[1]))
    return text if len(text) <= 20 else text[:19] + "\u2026"


def layers_of(edges: Sequence[LineageEdge]) -> dict[Key, int]:
    """Layer of each node by longest path. Edges are taken in order; one that would close a circle is skipped."""
    after: dict[Key, list[Key]] = {}
    for edge in edges:
        a, b = (edge.from_kind, edge.from_id), (edge.to_kind, edge.to_id)
        after.setdefault(a, [])
        after.setdefault(b, [])
        if a != b and not _reaches(after, b, a):
            after[a].append(b)
    layer = dict.fromkeys(after, 0)
    for _ in after:
        moved = False
        for a, targets in after.items():
            for b in targets:
                if layer[b] < layer[a] + 1:
                    layer[b], moved = layer[a] + 1, True
        if not moved:
            break
    sources = {b for targets in after.values() for b in targets}
    for a, targets in after.items():  # a source stands just before the first thing made from it
        if a not in sources and targets:
            layer[a] = min(layer[b] for b in targets) - 1
    return layer


def _reaches(after: dict[Key, list[Key]], start: Key, goal: Key) -> bool:
    seen, queue = {start}, [start]
    while queue:
        node = queue.pop()
        if node == goal:
            return True
        for following in after[node]:
            if following not in seen:
                seen.add(following)
                queue.append(following)
    return False


def lineage_graph(story: LoopStory) -> Markup | None:
    """The graph, or None when there is nothing to draw. Above sixty nodes the first sixty are drawn."""
    if not story.lineage:
        return None
    names = names_of(story)
    layer = layers_of(story.lineage)
    kept = set(list(layer)[:LARGEST])
    routes = [
        route_of(index, edge, layer)
        for index, edge in enumerate(story.lineage)
        if {(edge.from_kind, edge.from_id), (edge.to_kind, edge.to_id)} <= kept
    ]
    place, width, height = _placed([key for key in layer if key in kept], layer, routes)
    arrow = el("path", d="M0 0L8 4L0 8Z", class_="head")
    marks = [
        el("defs", el("marker", arrow, id="lineage-head", viewBox="0 0 8 8", refX=7, refY=4, markerWidth=8,
                      markerHeight=8, orient="auto", markerUnits="userSpaceOnUse"))
    ]  # fmt: skip
    for route in routes:
        marks.append(
            el("path", el("title", humanise(route.relation)), d=_curve([place[key] for key in route.keys]),
               class_="flow", marker_end="url(#lineage-head)")
        )  # fmt: skip
    verdicts = {decision.digest: verdict_class(decision.verdict) for decision in story.decisions}
    boxes = [
        el(
            "g",
            el("title", f"{humanise(p.key[0])} {p.key[1]}"),
            el("rect", x=p.x, y=p.y, width=BOX_W, height=BOX_H, rx=6, class_="node"),
            el("text", humanise(p.key[0]), x=p.x + 11, y=p.y + 19, class_="kind"),
            el("text", label_of(p.key, names), x=p.x + 11, y=p.y + 37, class_="line"),
            class_=f"step {verdicts.get(p.key[1], '')}".strip(),
        )
        for p in place.values()
        if p.key in kept
    ]
    said = "; ".join(
        f"{humanise(r.keys[0][0])} {label_of(r.keys[0], names)} {humanise(r.relation)} "
        f"{humanise(r.keys[-1][0])} {label_of(r.keys[-1], names)}"
        for r in routes
    )
    return drawing(
        "Lineage: what was made from what", said, *marks, *boxes,
        width=width, height=height, class_="chart lineage", id_="lineage",
    )  # fmt: skip


@dataclass(frozen=True)
class Route:
    """An edge with the way-points it takes through the layers it crosses, so that it passes no box by accident."""

    keys: tuple[Key, ...]
    relation: str


def route_of(index: int, edge: LineageEdge, layer: dict[Key, int]) -> Route:
    a, b = (edge.from_kind, edge.from_id), (edge.to_kind, edge.to_id)
    between = tuple((WAY_POINT, f"{index}/{at}") for at in range(layer[a] + 1, layer[b]))
    return Route((a, *between, b), edge.relation)


def _placed(
    keys: Sequence[Key], layer: dict[Key, int], routes: Sequence[Route]
) -> tuple[dict[Key, Placed], float, float]:
    """Boxes and way-points in their layers, each near the mean height of what it came from; width and height."""
    columns: dict[int, list[Key]] = {}
    for key in keys:
        columns.setdefault(layer[key], []).append(key)
    for route in routes:
        for offset, key in enumerate(route.keys[1:-1], 1):
            columns.setdefault(layer[route.keys[0]] + offset, []).append(key)
    tall = {number: sum(_height(key) + GAP_Y for key in column) - GAP_Y for number, column in columns.items()}
    height = max(tall.values()) + 2 * PAD
    place: dict[Key, Placed] = {}
    for step, number in enumerate(sorted(columns)):
        column = columns[number]
        pulls = [_pull(key, routes, place) for key in column]
        y = (height - tall[number]) / 2
        for i in sorted(range(len(column)), key=lambda i, pulls=pulls: (pulls[i], i)):  # type: ignore[misc]
            place[column[i]] = Placed(column[i], PAD + step * (BOX_W + GAP_X), y)
            y += _height(column[i]) + GAP_Y
    return place, 2 * PAD + len(columns) * (BOX_W + GAP_X) - GAP_X, height


def _height(key: Key) -> float:
    return WAY_H if key[0] == WAY_POINT else BOX_H


def _curve(stops: Sequence[Placed]) -> str:
    """Curves between layers, straight through the way-points, ending just before the last box."""
    first = stops[0]
    x, y = first.x + BOX_W, first.y + _height(first.key) / 2
    path = f"M{x:.2f} {y:.2f}"
    for stop in stops[1:]:
        x2, y2 = stop.x - (0 if stop.key[0] == WAY_POINT else 2), stop.y + _height(stop.key) / 2
        bend = max(18.0, abs(x2 - x) * 0.45)
        path += f"C{x + bend:.2f} {y:.2f} {x2 - bend:.2f} {y2:.2f} {x2:.2f} {y2:.2f}"
        x, y = x2, y2
        if stop.key[0] == WAY_POINT:
            x = stop.x + BOX_W
            path += f"H{x:.2f}"
    return path


def _pull(key: Key, routes: Sequence[Route], place: dict[Key, Placed]) -> float:
    """Mean height of what a node came from; nodes with no placed source keep their order at the end."""
    before = [route.keys[route.keys.index(key) - 1] for route in routes if key in route.keys[1:]]
    heights = [place[source].y + _height(source) / 2 for source in before if source in place]
    return sum(heights) / len(heights) if heights else 1e9
