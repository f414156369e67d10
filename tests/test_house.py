"""The house keeps its floors: a room imports only from floors below it, and heavy things only where they work."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SOURCE = REPOSITORY / "platform" / "plumbline"
FLOORS = {
    "records": 1,
    "stores": 2,
    "statistics": 2,
    "policies": 3,
    "microworld": 4,
    "feedback": 4,
    "training": 4,
    "evaluation": 4,
    "guardrail": 5,
    "serving": 5,
    "shadow": 5,
    "reconcile": 6,
    "console": 7,
    "cli": 8,
}
OPEN_TO_ALL = {"discreet_log", "errors", "metrics", "processes", "sockets"}
HEAVY = {"torch", "transformers", "ray", "kserve", "kopf", "peft", "scipy"}


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def imports(tree: ast.AST) -> list[str]:
    found = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    return found + [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level]


def room_of(path: Path) -> str | None:
    parts = path.relative_to(SOURCE).parts
    return parts[0] if len(parts) > 1 else None


def test_the_source_root_never_becomes_a_package() -> None:
    assert not (REPOSITORY / "platform" / "__init__.py").exists()
    import platform

    assert platform.python_version()


def test_every_room_has_a_floor_and_every_floor_a_room() -> None:
    rooms = {p.name for p in SOURCE.iterdir() if p.is_dir() and not p.name.startswith("__")}
    assert rooms == set(FLOORS)


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(SOURCE)))
def test_a_room_imports_only_from_below(path: Path) -> None:
    room = room_of(path)
    if room is None:
        return
    for name in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "plumbline" or len(parts) < 2 or parts[1] in OPEN_TO_ALL or parts[1] == room:
            continue
        assert FLOORS[parts[1]] < FLOORS[room], f"{path.relative_to(SOURCE)} imports {name}, which is not below it"


@pytest.mark.parametrize(
    "room", ["records", "stores", "training", "reconcile", "console", "cli", "evaluation", "feedback"]
)
def test_importing_a_light_room_brings_nothing_heavy(room: str) -> None:
    heavy = HEAVY - ({"scipy"} if room == "evaluation" else set())
    code = f"import sys, plumbline.{room}; print(sorted(set(sys.modules) & {heavy!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_answers_without_importing_the_platform() -> None:
    code = (
        "import sys; sys.argv=['plumb','--help']\n"
        "from plumbline.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted(m for m in sys.modules if m.split('.')[0] in "
        "{'torch','ray','pydantic','rich','numpy','kserve','transformers'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_nothing_pickles() -> None:
    for path in [*files(), *REPOSITORY.glob("jobs/*.py"), *REPOSITORY.glob("operators/*.py")]:
        names = set(imports(ast.parse(path.read_text())))
        assert not names & {"pickle", "cloudpickle", "dill", "joblib"}, path


def test_files_stay_short_enough_to_read() -> None:
    long = {str(p.relative_to(SOURCE)): n for p in files() if (n := len(p.read_text().splitlines())) > 450}
    assert not long
