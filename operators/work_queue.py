"""One look per object at a time, as many as are asked for meanwhile melted into one, failures tried again later.

The habit of every controller: an event says only *look again*. It never waits for the look, so a slow API server or
a long ledger query holds up nobody else; and one object whose look keeps failing backs off without starving others.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable

Key = tuple[str, str, str]  # kind, namespace, name
Look = Callable[[Key], Awaitable[None]]
logger = logging.getLogger("plumbline.operator")


class WorkQueue:
    """`look` is called for each key that was asked for; what it raises is logged and tried again."""

    def __init__(self, look: Look, *, at_once: int = 4, most_seconds: float = 30.0) -> None:
        self._look = look
        self._slots = asyncio.Semaphore(at_once)
        self._most = most_seconds
        self._dirty: set[Key] = set()
        self._tasks: dict[Key, asyncio.Task[None]] = {}

    def ask(self, key: Key) -> None:
        """Have a key looked at soon. A look under way is followed by another: what it saw may be old."""
        self._dirty.add(key)
        if key not in self._tasks:
            self._tasks[key] = asyncio.create_task(self._work(key))

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, key: Key) -> None:
        failures = 0
        while key in self._dirty:
            self._dirty.discard(key)
            try:
                async with self._slots:
                    await self._look(key)
                failures = 0
            except Exception as error:  # whatever it is, the others must go on and this one is looked at again
                failures += 1
                pause = min(self._most, 0.5 * 2 ** min(failures, 10)) * random.uniform(0.7, 1.3)
                logger.warning("%s: looked at in vain, again in %.1f s: %s: %s", "/".join(key), pause,
                               type(error).__name__, error)  # fmt: skip
                self._dirty.add(key)
                await asyncio.sleep(pause)
        del self._tasks[key]  # in the same step as the question: whoever asks next finds no task, and starts one
