"""A clean process to fork from: one that imported the code and did nothing else.

A test session has threads of many libraries; a fork of it could wait for a lock that none of them holds any more.
"""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

Result = TypeVar("Result")


def apart(do: Callable[..., Result], *arguments: Any, **options: Any) -> Result:
    """Call a function of an importable module in a process of its own, and return what it returns."""
    with ProcessPoolExecutor(1, get_context("forkserver")) as one:
        return one.submit(do, *arguments, **options).result()
