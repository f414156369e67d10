"""A share as an option: more than none, less than all, and a number."""

import math
from typing import Any

import click


class Share(click.FloatRange):
    """Strictly between 0 and 1. `click.FloatRange` alone lets NaN through, which no comparison holds back."""

    def __init__(self) -> None:
        super().__init__(0, 1, min_open=True, max_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        given = float(super().convert(value, param, ctx))
        if math.isnan(given):
            self.fail(f"{value!r} is no share: give a number between 0 and 1", param, ctx)
        return given


SHARE = Share()
