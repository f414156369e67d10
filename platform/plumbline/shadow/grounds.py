"""What an A/B experiment rests on, looked at again and again, far from any request.

Users may be given the aligned policy while both ends state the very policies about which a shadow verdict has passed,
alike in template and decoder defaults. A router that comes up in the users' path does not wait for that: it begins by
itself once all of it is there. And it stops by itself:

    a verdict is taken back, an end states something else     at the look that finds it, at most `LOOK_S` seconds later
    an end or the ledger cannot be asked                      after `UNCONFIRMED_S` seconds; it may be the network

Begun with one policy it goes on with no other, though that may have passed too: pairs of two candidates are no
experiment. One look at a time, in a thread, each question under a time limit.
"""

import logging
import time
from collections.abc import Callable

from plumbline.errors import PlumblineError
from plumbline.shadow.legs import Stated, Upstream, require_comparable
from plumbline.shadow.looking import again_and_again

LOOK_S = 30.0
UNCONFIRMED_S = 300.0
# Digests of reference and aligned policy -> that of the verdict that passed; None, or NotPassed, where none holds.
Passed = Callable[[str, str], str | None]


class NotPassed(PlumblineError):
    """The aligned policy may not answer users: nothing says that it may, or something that it may not."""


class Grounds:
    """`policy` is the digest of the aligned policy that may answer users, empty until one may. `look` and `judge` ask
    and wait; `lets` and `why_not` do not."""

    def __init__(self, reference: Upstream, aligned: Upstream, passed: Passed | None) -> None:
        self.reference = reference
        self.aligned = aligned
        self.passed = passed
        self.policy = ""
        self._refused = "nobody has looked yet whether the aligned policy has passed"
        self._confirmed = float("-inf")

    @property
    def lets(self) -> bool:
        """Whether users may be given the aligned policy, as far as this goes."""
        return not self._refused and time.monotonic() - self._confirmed < UNCONFIRMED_S

    @property
    def why_not(self) -> str:
        """Why they may not; empty while they may."""
        if self._refused or self.lets:
            return self._refused
        return f"for {UNCONFIRMED_S:g} s nobody could see whether it still may: an endpoint or the ledger is away"

    def look(self) -> None:
        """See whether it holds now. Never raises."""
        try:
            one, other, _ = require_comparable(self.reference, self.aligned)
        except PlumblineError as error:
            self.refuse(error)
        except Exception as error:
            logging.getLogger("plumbline").warning("%s", _unasked(error).fact)
        else:
            self.judge(one, other)

    def judge(self, one: Stated, other: Stated) -> PlumblineError | None:
        """Whether it holds for what both ends state; what is wrong where it does not. An end or a ledger that does not
        answer proves nothing, and leaves for a while what was so."""
        try:
            self._require(one, other)
        except NotPassed as error:
            return self.refuse(error)
        except PlumblineError as error:
            return self.refuse(error) if self._refused else error
        except Exception as error:  # whatever a ledger's driver raises must not end the looking
            return self.refuse(_unasked(error)) if self._refused else _unasked(error)
        self.policy, self._refused, self._confirmed = other.policy, "", time.monotonic()
        return None

    def refuse(self, error: PlumblineError) -> PlumblineError:
        self._refused = error.fact
        return error

    async def follow(self) -> None:
        """Look again and again, until it is cancelled."""
        await again_and_again(self.look, LOOK_S)

    def _require(self, one: Stated, other: Stated) -> None:
        if self.policy and not (one.reached and other.reached):
            raise _unasked(one.why or other.why)
        if self.policy and other.policy != self.policy:
            raise NotPassed(
                f"{self.aligned.url} serves policy {other.policy[:19] or 'unknown'}, and the experiment began with"
                f" {self.policy[:19]}",
                consequence="users get the reference",
                remedy="serve that policy there again, or begin another experiment",
            )
        both = one.policy and other.policy
        verdict = self.passed(one.policy, other.policy) if both and self.passed is not None else None
        if verdict is None:
            raise no_verdict(one, other)


def no_verdict(one: Stated, other: Stated) -> NotPassed:
    both = one.policy and other.policy
    which = f"{one.policy[:19]} and {other.policy[:19]}" if both else "these two: an endpoint states none"
    return NotPassed(
        f"no shadow verdict has passed for the policies {which}",
        consequence="the A/B experiment was not started; no user was given the aligned policy",
        remedy="run it in mode aa, then shadow, until `plumb shadow verdict` says PASS for these very policies",
    )


def _unasked(why: object) -> PlumblineError:
    return PlumblineError(
        f"whether the aligned policy may answer users could not be asked: {why}",
        consequence=f"users get the reference, at the latest after {UNCONFIRMED_S:g} s",
        remedy="nothing: it is asked again",
    )
