"""The pages say what is so: tables are the code's, links lead somewhere, commands parse, named files exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from pydantic.fields import FieldInfo

from plumbline.cli.main import cli
from plumbline.metrics import CATALOGUE

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([*(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("README.md")])
NAMES = [str(page.relative_to(REPOSITORY)) for page in PAGES]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEREDOC = re.compile(r"<<'?(\w+)'?[^\n]*\n.*?^\1$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text("utf-8"))


def blocks(page: Path, *languages: str) -> Iterator[str]:
    for language, body in FENCE.findall(page.read_text("utf-8")):
        if language in languages:
            yield body


def table(page: str, header: str) -> list[list[str]]:
    """Cells of the rows under a header line, without back-ticks."""
    text = (REPOSITORY / "docs" / page).read_text("utf-8")
    rows = text.split(header + "\n", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    return [[cell.strip().replace("`", "") for cell in row.strip("|").split("|")] for row in rows]


# --- commands -------------------------------------------------------------------------------------------------------


def commands(page: Path) -> Iterator[list[str]]:
    """Arguments of every `plumb` command in the page's shell blocks, also after `kubectl exec ... --`."""
    for body in blocks(page, "sh", "bash", "console"):
        for line in HEREDOC.sub("", body).replace("\\\n", " ").splitlines():
            if not re.search(r"\bplumb ", line):
                continue
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
            lexer.whitespace_split = True
            command: list[str] = []
            for token in [*lexer, ";"]:
                if token.strip("|&;<>()"):
                    command.append(token)
                else:
                    if "plumb" in command:
                        yield command[command.index("plumb") + 1 :]
                    command = []


def parse(arguments: list[str]) -> None:
    """Parse with the real click commands, run nothing. Raises click.UsageError as the command line would."""
    command: click.Command = cli
    rest, path = arguments, "plumb"
    while True:
        context = click.Context(command, info_name=path)
        values, rest, _ = command.make_parser(context).parse_args(list(rest))
        if "help" in values or "version" in values:
            return
        if not isinstance(command, click.Group) or (command.invoke_without_command and not rest):
            break
        name = rest[0] if rest else ""
        found = command.get_command(context, name)
        if found is None:
            raise click.UsageError(f"{path} has no command {name!r}")
        command, rest, path = found, rest[1:], f"{path} {name}"
    if rest:
        raise click.UsageError(f"{path} takes no {rest}")
    for parameter in command.params:
        value = values.get(parameter.name or "")
        given = isinstance(value, str | tuple | list) and bool(value)
        if parameter.required and not given:
            raise click.UsageError(f"{path} needs {parameter.name}")
        if given and isinstance(parameter.type, click.Choice | click.types.IntParamType):
            parameter.type_cast_value(context, value)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_plumb_command_in_a_page_parses(page: Path) -> None:
    for arguments in commands(page):
        try:
            parse(arguments)
        except click.UsageError as error:
            pytest.fail(f"{page.name}: plumb {shlex.join(arguments)}: {error.format_message()}")


def test_pages_do_show_commands() -> None:
    assert sum(len(list(commands(page))) for page in PAGES) > 30


@pytest.mark.parametrize("line", ["gate report.json --marginz 3", "train", "loop --adapter qlora", "datasets list"])
def test_a_command_that_does_not_exist_is_found_out(line: str) -> None:
    with pytest.raises(click.UsageError):
        parse(shlex.split(line))


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_named_in_prose_exists(page: Path) -> None:
    for span in re.findall(r"`plumb ([^`]*)`", prose(page)):
        command: click.Command = cli
        for word in span.split():
            if not isinstance(command, click.Group) or not re.fullmatch(r"[a-z-]+", word) or word.startswith("-"):
                break
            found = command.get_command(click.Context(command), word)
            assert found is not None, f"{page.name}: `plumb {span}`"
            command = found


# --- links and files ------------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(found), f"{page.name} links to {target}"


def test_every_page_is_linked_from_another() -> None:
    linked = {Path(t.partition("#")[0]).name for page in PAGES for t in LINK.findall(prose(page))}
    assert {page.name for page in PAGES} - {"README.md"} <= linked


def test_the_tour_of_the_house_names_every_room_and_only_files_that_exist() -> None:
    source = REPOSITORY / "platform" / "plumbline"
    house = (REPOSITORY / "docs" / "house.md").read_text("utf-8")
    tree = next(blocks(REPOSITORY / "docs" / "house.md", ""))
    rooms = {folder.name for folder in source.iterdir() if folder.is_dir() and not folder.name.startswith("__")}
    assert set(re.findall(r"^  (\w+)/ ", tree, re.MULTILINE)) == rooms
    room = source
    for line in tree.splitlines():
        if start := re.match(r"  (\w+)/ ", line):
            room = source / start.group(1)
        if start or not line.startswith("    "):
            continue
        for name in re.findall(r"[\w.]+\.(?:py|yaml|sql|j2)\b", line):
            assert list(room.rglob(name)), f"{room.name} has no {name}"
    for path in re.findall(r"`((?:[\w-]+/)+[\w.-]+\.(?:py|yaml))`", house):
        assert (source / path).exists() or (REPOSITORY / path).exists(), path


def test_the_table_of_imports_is_what_the_rooms_import() -> None:
    source = REPOSITORY / "platform" / "plumbline"
    for rooms, said in table("house.md", "| room | imports |"):
        for room in rooms.split(", "):
            text = "\n".join(file.read_text("utf-8") for file in (source / room).rglob("*.py"))
            found = set(re.findall(r"^\s*(?:from|import) plumbline\.(\w+)", text, re.MULTILINE))
            found = {name for name in found if (source / name).is_dir()} - {room, "records"}
            if room not in ("reconcile", "cli"):
                assert found == (set() if said == "nothing more" else set(said.split(", "))), room


# --- tables ---------------------------------------------------------------------------------------------------------


def test_the_table_of_metrics_is_the_catalogue() -> None:
    written = table("metrics.md", "| metric | kind | labels | what it says |")
    assert written == [[n, kind, ", ".join(labels) or "none", text] for n, (kind, text, labels) in CATALOGUE.items()]


def test_the_table_of_areas_is_the_code_and_the_default_rubric() -> None:
    from plumbline.evaluation import BEHAVIORS
    from plumbline.microworld import microworld_rubric

    rubric = microworld_rubric()
    written = table("gate.md", "| area | gated metric | better | margin | what would prove that it became worse |")
    assert [(area, metric, better, float(margin)) for area, metric, better, margin, _ in written] == [
        (b.area, m.name, m.direction, rubric.margins_of(b.area)[m.name])
        for b in BEHAVIORS
        for m in b.metrics
        if m.gated
    ]
    limits = [f"{m.name}" for b in BEHAVIORS for m in b.metrics if m.limit is not None]
    withheld = table("gate.md", "| metric | limit | because |")
    assert sorted(row[0].split()[-1] for row in withheld) == sorted(limits)


def test_the_table_of_pressures_names_the_five() -> None:
    from plumbline.records import PRESSURES

    assert [row[0] for row in table("gate.md", "| pressure | statistic | alarm |")] == list(PRESSURES)


def test_the_price_of_a_margin_in_clusters_is_tangos() -> None:
    from plumbline.statistics.intervals import tango

    header = "| margin | 1 point | 2 points | 3 points | 5 points |"
    (_, *fewest), *_ = table("gate.md", header)
    for margin, n in zip((0.01, 0.02, 0.03, 0.05), map(int, fewest), strict=True):
        assert tango(0, 0, n).low > -margin >= tango(0, 0, n - 1).low


def test_what_training_is_said_to_refuse_is_what_the_code_says() -> None:
    source = "\n".join(file.read_text("utf-8") for file in (REPOSITORY / "platform").rglob("*.py"))
    rows = table("training.md", "| you bring | it says | do |")
    assert len(rows) > 10
    for _, said, _ in rows:
        assert said in source, f"nothing says {said!r}"


def test_the_table_of_promises_names_tests_that_are_there() -> None:
    rows = table("training.md", "| promise | tested in |")
    assert len(rows) > 10
    for promise, where in rows:
        for file in where.split(", "):
            assert "def test_" in (REPOSITORY / file).read_text("utf-8"), promise


def test_the_table_of_probes_is_the_code() -> None:
    from plumbline.evaluation.probes import HIGHER_IS_BETTER

    rows = table("training.md", "| probe | items: area, scorer | rate: the share that | better |")
    assert {name: better == "up" for name, _, _, better in rows} == HIGHER_IS_BETTER


def test_the_table_of_the_objective_has_every_field_with_its_default() -> None:
    from plumbline.records import DecoderSettings, Objective, Record

    fields: dict[str, FieldInfo] = {}
    for name, field in Objective.model_fields.items():
        kind = field.annotation
        nested = isinstance(kind, type) and issubclass(kind, Record) and kind is not DecoderSettings
        inner = kind.model_fields.items() if nested else []  # type: ignore[union-attr]
        fields |= {f"{name}.{sub}": found for sub, found in inner} or {name: field}
    written = table("your-own.md", "| field | default | meaning |")
    assert [row[0] for row in written] == list(fields)
    for name, default, _ in written:
        value = fields[name].get_default(call_default_factory=True)
        assert (default == "needed") == (fields[name].is_required() and name not in ("template", "rubric")), name
        if isinstance(value, bool):
            assert default == str(value).lower(), name
        elif isinstance(value, int | float):
            assert float(default) == value, name
        elif isinstance(value, str):
            assert default == value, name
