"""The preview for people: one self-contained page, or a screenful in the terminal, from a `Preview` alone.

Targets are underlined and set on a tint, so that they are told apart without colour too. Examples are foreign text:
everything is escaped, and what could hide or reorder text is made visible.
"""

from itertools import dropwhile, groupby
from typing import TYPE_CHECKING

from markupsafe import Markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from plumbline.console.pages import page_environment, resource, style_hash
from plumbline.console.svg import drawing, el
from plumbline.console.words import count, number, percent, visible
from plumbline.records import short

if TYPE_CHECKING:
    from plumbline.training.preview import Lengths, Preview, PreviewRow, SliceShare

LONGEST_SEGMENT = 600  # characters of one segment in the terminal; the page shows everything
OPEN, CLOSE = "\u27e6", "\u27e7"
BAR = 40  # columns of the longest bar in the terminal
LEDGER = (
    ("examples", "examples", "trained on"),
    ("rows", "rows", "what the loss is computed on; more than examples where some are split or expanded"),
    ("prompt_tokens", "context", "tokens that are read and are no target"),
    ("supervised_tokens", "supervised", "tokens that are targets"),
    ("ignored_tokens", "ignored", "tokens of answers that the mask leaves out"),
    ("stop_supervised", "stops", "end-of-turn tokens that are targets"),
    ("truncated", "cut left", "examples whose prompt was cut from the left"),
    ("split", "split", "examples in several rows"),
    ("expanded", "expanded", "examples with a row for each turn, because the template rewrites history"),
    ("dropped", "dropped", "examples left out whole"),
    ("truncated_tokens", "tokens cut", "tokens that are in no row"),
)


def preview_page(preview: "Preview") -> str:
    """The page as HTML: no script, nothing from outside, one style sheet allowed by its hash."""
    css = resource("report.css") + resource("preview.css")
    environment = page_environment()
    environment.filters |= {"shown": shown, "grouped": grouped}
    return environment.get_template("preview.html.j2").render(
        preview=preview,
        css=Markup(css),
        style_hash=style_hash(css),
        verdict=verdict(preview),
        columns=columns(preview),
        histogram=histogram(preview.lengths, preview.cuts.max_tokens),
        lengths=lengths_in_words(preview),
        plan=plan_in_words(preview),
        memory=memory_in_words(preview),
        notes=notes(preview),
        count=count,
        bar=share_bar,
    )


def print_preview(preview: "Preview", console: Console) -> None:
    """The same in the terminal: rows first, then the tables."""
    console.print(Text.assemble("Objective ", (short(preview.objective), "bold"), f" on {visible(preview.policy)}"))
    sign, said = ("\u2717", "bold red") if preview.cuts.refused else ("\u2713", "green")
    console.print(Text(f"{sign} {verdict(preview)}", style=said))
    for row in preview.rows:
        console.print(Text(f"\n{row_in_words(row)}", style="bold"))
        console.print(_highlighted(row, bracketed=not console.is_terminal))
    if preview.rows:
        how = ("underlined", "underline green") if console.is_terminal else (f"{OPEN}bracketed{CLOSE}", "")
        console.print(Text.assemble("\n", how, " tokens are targets; the rest is context."))
    console.print(_heading("Mask ledger"))
    console.print(_ledger(preview))
    console.print(_heading("Lengths"))
    console.print(Text(lengths_in_words(preview)))
    console.print(_bars(preview.lengths, preview.cuts.max_tokens))
    console.print(_heading("Share of each slice"))
    console.print(_shares(preview.shares))
    console.print(_heading("The run"))
    for rows in (plan_in_words(preview), memory_in_words(preview)):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(style="dim")
        for label, value, remark in rows:
            table.add_row(label, value, remark)
        console.print(table)
    for note in notes(preview):
        console.print(Text(note, style="dim"))


def verdict(preview: "Preview") -> str:
    """Whether a run would start with this data, in one sentence."""
    cuts = preview.cuts
    if cuts.refused:
        return f"A run would be refused: {cuts.refused}."
    if not cuts.touched:
        return f"Every example fits in {grouped(cuts.max_tokens)} tokens, and none is left out."
    return (
        f"{count(cuts.touched, 'example')} of {grouped(cuts.examples)} would be cut, split or dropped "
        f"({percent(cuts.share, 1)}; the objective allows {percent(cuts.max_share, 1)})."
    )


def row_in_words(row: "PreviewRow") -> str:
    return (
        f"Row {row.row} \u00b7 {visible(row.slice)} \u00b7 {count(row.tokens, 'token')}, "
        f"{grouped(row.supervised)} supervised, each of weight {row.weight:.4g}"
    )


def columns(preview: "Preview") -> list[tuple[str, str, str]]:
    """The ledger's columns: those that every ledger has, and those in which something happened."""
    always = ("examples", "rows", "prompt_tokens", "supervised_tokens", "stop_supervised", "dropped")
    return [column for column in LEDGER if column[0] in always or getattr(preview.ledger["all"], column[0])]


def lengths_in_words(preview: "Preview") -> str:
    found, limit = preview.lengths, preview.cuts.max_tokens
    drawn = f" (drawn from {grouped(found.examples)})" if found.looked_at < found.examples else ""
    over = f"{grouped(found.over)} do not fit" if found.over else "all fit"
    return (
        f"{count(found.looked_at, 'example')}{drawn}, before anything is cut: half have up to {grouped(found.median)} "
        f"tokens, nine in ten up to {grouped(found.ninth_decile)}, the longest {grouped(found.longest)}; "
        f"{over} in the limit of {grouped(limit)}."
    )


def plan_in_words(preview: "Preview") -> list[tuple[str, str, str]]:
    """(what, figure, remark) of the run's steps and its work."""
    plan, cost = preview.plan, preview.cost
    looked = "" if plan.steps_measured == plan.steps else f"mean over {plan.steps_measured} steps, evenly spread"
    each = " a worker" if plan.workers > 1 else ""
    rows = [
        ("steps", grouped(plan.steps), f"of {count(plan.batch_examples, 'row')} each"),
        ("micro-batches a step" + each, number(plan.micro_batches, 1), looked),
        ("largest micro-batch", count(plan.largest, "token"), "padding included"),
        ("padding", percent(plan.padding, 1), f"of the tokens computed, layout {plan.layout}"),
        ("tokens", grouped(round(plan.tokens)), "real ones, over the run"),
        ("supervised tokens", grouped(round(plan.supervised)), percent(plan.supervised / (plan.tokens or 1), 1)),
        ("FLOPs", scaled(cost.flops), f"and {scaled(cost.attention)} in attention, over the run"),
        (
            "FLOPs a supervised token",
            scaled(cost.per_supervised),
            f"{number(cost.over_bound, 2)} times the least possible (no padding, no row without a label)",
        ),
    ]
    if cost.seconds is not None and cost.flops_per_second is not None:
        at = f"at the {scaled(cost.flops_per_second)}FLOP/s that you measured"
        rows.append(("time", duration(cost.seconds), at + each))
    return rows


def memory_in_words(preview: "Preview") -> list[tuple[str, str, str]]:
    """(what, figure, remark) of the bytes on one device."""
    parts, shape = preview.cost.memory, preview.cost.shape
    rows = [
        ("weights", parts.weights, f"{scaled(shape.parameters).rstrip()} parameters"),
        ("gradients", parts.gradients, f"{scaled(shape.trained).rstrip()} trained"),
        ("optimiser", parts.optimiser, "AdamW's two moments"),
        ("reference", parts.reference, "for the KL term"),
        ("activations", parts.activations, "of the largest micro-batch; an estimate"),
        ("logits", parts.logits, "a chunk of them, and the head's gradient; an estimate"),
    ]
    shown_ = [(name, in_bytes(size), remark) for name, size, remark in rows if size]
    return [*shown_, ("memory", in_bytes(parts.total), "on each device, without the runtime's own")]


def notes(preview: "Preview") -> list[str]:
    found, plan = [], preview.plan
    if plan.layout == "bucketed" and plan.micro_batches < 2 and plan.padding > 0.1:
        found.append(
            "Layout bucketed finds little to sort by length: a step is hardly more than one micro-batch. Lower "
            "micro_batch_examples, or choose layout packed; the gradient stays the same."
        )
    if preview.cost.shape.upper_bound:
        found.append("A mixture of experts whose use is not stated: all experts are counted, so FLOPs are too high.")
    if preview.cost.shape.every_row:
        found.append("This architecture caps or scales its logits: they are formed for every token, not for targets.")
    if preview.cost.seconds is None:
        found.append("No time is given: nobody measured this machine. Pass --flops-per-second once you know it.")
    return found


def histogram(lengths: "Lengths", limit: int) -> Markup:
    """Lengths as bars of equal width; what does not fit is drawn hollow, beyond a line at the limit."""
    width, height, left, top = 660.0, 150.0, 8.0, 26.0
    step = width / len(lengths.counts)
    most = max(lengths.counts)
    marks: list[Markup] = []
    for place, size in enumerate(lengths.counts):
        tall = size / most * height
        over = lengths.edges[place] > limit
        marks.append(
            el("rect", el("title", f"{lengths.edges[place]} to {lengths.edges[place + 1] - 1} tokens: {size}"),
               x=left + place * step + 1, y=top + height - tall, width=step - 2, height=tall,
               class_="hist over" if over else "hist")
        )  # fmt: skip
    marks.append(el("line", x1=left, x2=left + width, y1=top + height, y2=top + height, class_="axis"))
    ticks = range(0, len(lengths.edges), max(1, len(lengths.edges) // 8))
    for place in ticks:
        marks.append(
            el("text", grouped(lengths.edges[place]), x=left + place * step, y=top + height + 16, class_="tick",
               text_anchor="start" if not place else "end" if place == len(lengths.counts) else "middle")
        )  # fmt: skip
    if limit + 1 in lengths.edges:
        x = left + lengths.edges.index(limit + 1) * step
        marks.append(el("line", x1=x, x2=x, y1=top - 8, y2=top + height, class_="limit"))
        marks.append(el("text", f"limit {grouped(limit)}", x=x + 5, y=top - 1, class_="limit-name"))
    marks.append(
        el("text", "tokens", x=left + width, y=top + height + 32, class_="tick", text_anchor="end")
    )  # fmt: skip
    said = "; ".join(
        f"{a} to {b - 1}: {n}" for a, b, n in zip(lengths.edges[:-1], lengths.edges[1:], lengths.counts, strict=True)
    )
    return drawing(
        "Tokens of the conversations, before anything is cut", said, *marks,
        width=left * 2 + width, height=top + height + 38, class_="chart lengths", id_="lengths",
    )  # fmt: skip


def share_bar(share: float) -> Markup:
    """A share as a bar as long as it; the figure stands beside it."""
    return el(
        "svg", el("rect", x=0, y=0, width=f"{100 * share:.2f}%", height=8, class_="share-bar"),
        width="100%", height=8, aria_hidden="true",
    )  # fmt: skip


def shown(text: str) -> str:
    """Foreign text with its line ends and invisible characters in sight."""
    return visible(text).replace("\n", "\u21b5\n")


def grouped(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f")


def scaled(value: float) -> str:
    """Three digits and an SI prefix: "1.23 T"; a unit may follow at once."""
    for prefix in ("", "k", "M", "G", "T", "P", "E"):
        if abs(value) < 999.5 or prefix == "E":
            return f"{value:.3g} {prefix}" if prefix else f"{value:.3g} "
        value /= 1000
    return ""


def in_bytes(value: float) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.3g} {unit}" if value < 999.5 else f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.3g} TiB"


def duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} seconds"
    if seconds < 7200:
        return f"{seconds / 60:.3g} minutes"
    return f"{seconds / 3600:.3g} hours" if seconds < 172_800 else f"{seconds / 86_400:.3g} days"


def _highlighted(row: "PreviewRow", *, bracketed: bool) -> Text:
    """The row with targets underlined; in brackets where the output cannot underline (a file, a pipe)."""
    text = Text()
    for target, group in groupby(row.segments, key=lambda segment: segment.supervised):
        text.append(OPEN if bracketed and target else "")
        for segment in group:
            said = segment.text
            if len(said) > LONGEST_SEGMENT:
                half = LONGEST_SEGMENT // 2
                said = f"{said[:half]} [\u2026 {len(said) - 2 * half} characters \u2026] {said[-half:]}"
            text.append(shown(said), style="underline green" if target else "dim italic" if segment.special else "dim")
        text.append(CLOSE if bracketed and target else "")
    text.rstrip()
    return text


def _heading(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    return table


def _ledger(preview: "Preview") -> Table:
    found = columns(preview)
    table = _table("slice", *(name for _, name, _ in found))
    for name, totals in preview.ledger.items():
        table.add_row(Text(visible(name)), *(grouped(getattr(totals, field)) for field, _, _ in found))
    return table


def _shares(shares: tuple["SliceShare", ...]) -> Table:
    table = _table("slice", "weight", "of rows", "of tokens", "of supervised", "of the loss")
    for share in shares:
        figures = (share.rows, share.tokens, share.supervised, share.loss)
        table.add_row(Text(visible(share.name)), f"{share.weight:g}", *(percent(figure, 1) for figure in figures))
    return table


def _bars(lengths: "Lengths", limit: int) -> Table:
    """A line a bin, and a rule where the limit is."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    most = max(lengths.counts)
    bins = zip(lengths.edges[:-1], lengths.edges[1:], lengths.counts, strict=True)
    for start, end, size in dropwhile(lambda found: not found[2], bins):
        if start == limit + 1:
            table.add_row("limit", "", Text("\u2500" * BAR, style="red"))
        bar = "\u2588" * round(size / most * BAR) or ("\u258f" if size else "")
        table.add_row(f"{start}\u2013{end - 1}", grouped(size), Text(bar, style="red" if start > limit else "green"))
    return table
