"""`plumb --help` is quick and whole."""

import subprocess
import sys

import pytest

from plumbline.cli.main import COMMANDS

LIST_HEAVY = """
import sys
from plumbline.cli.main import main
main(['--help'])
heavy = {'torch', 'transformers', 'ray', 'kserve', 'kopf', 'numpy', 'scipy', 'pydantic', 'yaml', 'rich', 'aiohttp'}
print('IMPORTED', sorted(heavy & set(sys.modules)))
"""


def test_help_imports_nothing_heavy_and_so_answers_at_once():
    done = subprocess.run([sys.executable, "-c", LIST_HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "IMPORTED []"


def test_help_names_every_command(plumb):
    said = plumb("--help")
    assert said.code == 0
    assert all(f"\n  {name} " in said.out for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(plumb, name):
    said = plumb(name, "--help")
    assert said.code == 0 and said.out.startswith(f"Usage: plumb {name}")


def test_without_a_command_it_shows_what_there_is(plumb):
    assert "train" in plumb().err


def test_an_unknown_command_or_option_is_a_fault_like_any_other(plumb):
    assert plumb("nope").faulted("No such command 'nope'", "see `plumb --help`")
    assert plumb("dataset", "list", "--nope").faulted("see `plumb dataset list --help`")
    assert plumb("train", "absent.yaml", "--out", "x").faulted("absent.yaml", "does not exist")
