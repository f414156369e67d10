"""Releases: each request answered once, in the ledger; and the list that admission reads, kept as the ledger says.

What a request becomes is decided by plumbline.reconcile.release and written under the fencing token; the status that
people read is a projection of it. Killed between the two, the next look finds the request answered and writes the
status. Nothing here needs a finalizer: a Release that is deleted moves nothing, and users keep what they have.
"""

import asyncio
import dataclasses
import logging
from datetime import UTC, datetime

from controllers import Controller, FencedController, LookAgain

from plumbline.errors import PlumblineError
from plumbline.reconcile import release_objects, resources
from plumbline.reconcile.release import reconcile_release
from plumbline.reconcile.release_guard import LIST, RULES, release_guard_problem

logger = logging.getLogger("plumbline.operator")


class ReleaseController(FencedController):
    """People's requests to move a release: checked once more, and answered in the ledger under a fencing token."""

    async def look(self, namespace: str, name: str) -> bool:
        release = await self.api.get("Release", namespace, name)
        if release is None or release["metadata"].get("deletionTimestamp"):
            return False
        asked, ledger = release_objects.release_request(release), self.observer.releases
        seen = await asyncio.to_thread(ledger.look, asked)
        if seen.decided is None:
            seen = dataclasses.replace(seen, guarded=await self.guarded())
        decision = reconcile_release(asked.policy, seen)
        if decision.answer is not None:
            try:
                done = await self.write(ledger.answer, asked, decision.answer, decision.why)
            except PlumblineError as error:  # it was so when it was looked at, and is not any more
                raise LookAgain(error.fact) from error
            logger.info("%s/%s: %s", namespace, name, done.outcome)
            seen = await asyncio.to_thread(ledger.look, asked)
            decision = reconcile_release(asked.policy, seen)
        now = resources.stamp(datetime.now(UTC))
        told = resources.news(release, decision.conditions, ("Passed", "Released"))
        await self.report(release, release_objects.release_status(release, seen, decision, now=now), told, now)
        return True

    async def guard(self) -> str:
        found = [release_guard_problem(name, *await self.api.admission(name)) for name in RULES]
        return next((one for one in found if one), "")


class PassingController(Controller):
    """The list that admission reads: one object of one name, made anew when it is gone, put right when it is not so."""

    async def look(self, namespace: str, name: str) -> bool:
        if name != LIST:
            return False
        spec = await asyncio.to_thread(self.observer.releases.passing)
        wanted = release_objects.passing_object(namespace, spec)
        there = await self.api.get("PassingDecisions", namespace, name)
        if there is None:
            self.check()
            there = await self.api.create(wanted)
        elif there["spec"] != wanted["spec"]:
            self.check()
            there = await self.api.replace({**there, "spec": wanted["spec"]})
        if there is None:
            raise LookAgain(f"{name} was written by another just now")
        about = {**there, "kind": "PassingDecisions"}
        now = resources.stamp(datetime.now(UTC))
        condition = release_objects.passing_condition(spec)
        told = resources.news(about, [condition], ("Current",))
        await self.report(about, release_objects.passing_status(about, condition, now=now), told, now)
        return True
