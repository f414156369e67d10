"""Looking again and again, beside an event loop that must not wait for it."""

import asyncio
import contextlib
from collections.abc import Callable


async def again_and_again(look: Callable[[], object], every_s: float, *, at_once: bool = False) -> None:
    """Call `look`, which handles its own faults, in a thread every so often until it is cancelled; first after
    `every_s` seconds, or at once. Where no thread can be started, it is called at the next time."""
    if not at_once:
        await asyncio.sleep(every_s)
    while True:
        with contextlib.suppress(RuntimeError):
            await asyncio.to_thread(look)
        await asyncio.sleep(every_s)
