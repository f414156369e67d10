"""Holding the Lease: the loop around `plumbline.reconcile.leases`.

`held` is asked before every look and every write. It ends well before the lease does, counted from before the request
that renewed it, by a clock that goes on while the process is stopped: an operator that wakes up from a pause finds
that it holds nothing. It may still be in the middle of a step then; that is what the ledger's fencing token is for.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

import aiohttp
import kopf
from api_server import ApiServer

from plumbline.reconcile.leases import Sighting, claim, lease_object

logger = logging.getLogger("plumbline.operator")


class Leadership:
    """`on_taken` is called each time the lease comes to this process; it must not wait for anything, or the lease would
    run out meanwhile."""

    def __init__(
        self,
        api: ApiServer,
        namespace: str,
        me: str,
        *,
        seconds: int = 15,
        name: str = "plumbline-operator",
        on_taken: Callable[[], None],
    ) -> None:
        self.api = api
        self.namespace = namespace
        self.me = me
        self.seconds = seconds
        self.name = name
        self.on_taken = on_taken
        self.asked = time.monotonic()
        self._until = float("-inf")
        self._seen: Sighting | None = None
        self._mine = False

    @property
    def held(self) -> bool:
        return time.monotonic() < self._until

    def again(self) -> None:
        """Have the next renewal count as taking: what `on_taken` makes is to be made anew."""
        self._mine = False

    async def run(self) -> None:
        """Take and renew, for ever."""
        while True:
            try:
                await self.once()
            except (aiohttp.ClientError, TimeoutError, kopf.TemporaryError) as error:
                logger.warning("the lease could not be asked for: %s", error)
            await asyncio.sleep(self.seconds / 5)

    async def once(self) -> None:
        began = time.monotonic()
        lease = await self.api.get("Lease", self.namespace, self.name)
        self.asked = time.monotonic()
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        wanted = claim(lease, self.me, self.seconds, self._seen, now=time.monotonic(), stamp=stamp)
        self._seen = wanted.seen
        if wanted.body is None:
            self._lose()
            return
        body = lease_object(self.name, self.namespace, wanted.body, lease)
        written = await (self.api.create(body) if lease is None else self.api.replace(body))
        if written is None:  # somebody was quicker
            self._lose()
            return
        taken = not (self._mine and self.held)
        self._mine = True
        self._until = began + self.seconds * 2 / 3
        if taken:
            logger.info("%s holds the lease %s/%s", self.me, self.namespace, self.name)
            self.on_taken()

    async def release(self) -> None:
        """Let the next one in at once."""
        self._until = float("-inf")
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, kopf.TemporaryError):
            lease = await self.api.get("Lease", self.namespace, self.name)
            if lease is not None and lease.get("spec", {}).get("holderIdentity") == self.me:
                spec = {**lease["spec"], "holderIdentity": ""}
                await self.api.replace(lease_object(self.name, self.namespace, spec, lease))

    def _lose(self) -> None:
        if self._mine:
            logger.info("%s lost the lease %s/%s", self.me, self.namespace, self.name)
        self._mine = False
        self._until = float("-inf")
