"""Groups of commands that are imported when they run, so that `--help` is quick."""

import importlib
from collections.abc import Mapping
from typing import Any

import click

Commands = Mapping[str, tuple[str, str, str]]  # name -> (module of plumbline.cli, attribute, one line for --help)


class LazyGroup(click.Group):
    """A group that knows its commands (`lazy`) by name and help text, so that listing them imports none."""

    def __init__(self, *arguments: Any, lazy: Commands, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.lazy)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.lazy:
            return None
        module, attribute, _ = self.lazy[name]
        command: click.Command = getattr(importlib.import_module(f"plumbline.cli.{module}"), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in self.lazy.items()])
