"""The legs of an experiment: where each policy is asked, under which name, with whose key; whether they compare.

A Plumbline predictor states at /v1/models/NAME what it serves: digests of policy, template and decoder defaults. Two
legs with different templates or defaults would be two treatments at once, and are refused before anything is asked. Of
an endpoint that states nothing (vLLM, anyone's server) that cannot be known, and is said as a warning.
"""

import json
import logging
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from plumbline.errors import PlumblineError
from plumbline.records import Leg
from plumbline.shadow.sampling import Experiment, sampled

STATED = ("template", "decoder")  # what must be the same on both legs, where both say


class Token:
    """A bearer token in a file, read anew when the file changes, so that it can be rotated. Never printed.

    PlumblineError when there is none at first; one that cannot be read later leaves the last in use.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._changed = -1.0
        self._token = ""
        if not self.value:
            raise PlumblineError(
                f"{file} holds no token",
                consequence="nothing was started: the endpoint would refuse every request",
                remedy="write the endpoint's key, and nothing else, into the file",
            )

    @property
    def value(self) -> str:
        try:
            changed = self._file.stat().st_mtime
            if changed != self._changed:
                self._token, self._changed = self._file.read_text("utf-8").strip() or self._token, changed
        except (OSError, ValueError):
            logging.getLogger("plumbline").warning("the token in %s cannot be read", self._file)
        return self._token


def token(file: Path | None) -> Token | None:
    return None if file is None else Token(file)


@dataclass(frozen=True)
class Upstream:
    """One leg: `url` is the base of an OpenAI-compatible endpoint, ending in /v1; requests there name `model`."""

    leg: Leg
    url: str
    model: str
    token: Token | None = None

    @property
    def key(self) -> dict[str, str]:
        """The credential of this leg as a header; none where none was given."""
        return {} if self.token is None else {"authorization": f"Bearer {self.token.value}"}


def upstream(
    experiment: Experiment, leg: Leg, url: str, key: Token | None = None, *, model: str | None = None
) -> Upstream:
    """A leg of an experiment at a URL, under the model name that the experiment has for it unless another is given."""
    named = model or (experiment.reference_model if leg == "reference" else experiment.aligned_model)
    return Upstream(leg, url.rstrip("/"), named, key)


def assigned(experiment: Experiment, session: str) -> Leg:
    """The leg whose answers a session gets, for good. Its hash has a salt of its own: knowing who is sampled tells
    nothing about who is assigned."""
    to_aligned = experiment.mode == "ab" and sampled(f"{experiment.salt}\0assigned", session, experiment.ab_share)
    return "aligned" if to_aligned else "reference"


@dataclass(frozen=True)
class Stated:
    """What an endpoint states of the model that it serves; all empty where it states nothing, `why` says why not.

    `reached` is False where nothing answered: it may state something later.
    """

    policy: str = ""
    template: str = ""
    decoder: str = ""
    why: str = ""
    reached: bool = True


def stated(leg: Upstream, *, timeout_s: float = 5.0) -> Stated:
    """What the endpoint says of itself. PlumblineError when it lists its models and the leg's is not among them."""
    try:
        one = _get(f"{leg.url}/models/{quote(leg.model, safe='')}", leg.key, timeout_s)
    except HTTPError as error:
        if error.code in (401, 403):
            return Stated(why=f"it refused the key (status {error.code})")
        _require_listed(leg, timeout_s)
        return Stated(why="it states no digests")
    except (OSError, ValueError, HTTPException) as error:
        return Stated(why=f"nothing answers there ({getattr(error, 'reason', error)})", reached=False)
    said = one.get("plumbline") if isinstance(one, dict) else None
    if not isinstance(said, dict):
        return Stated(why="it states no digests")
    policy, template, decoder = (str(said.get(name) or "") for name in ("policy", *STATED))
    return Stated(policy, template, decoder)


def require_comparable(reference: Upstream, aligned: Upstream) -> tuple[Stated, Stated, list[str]]:
    """What both legs state of themselves, and what could not be compared, in words.

    PlumblineError when they state different templates or decoder defaults, or do not serve the model named.
    """
    one, other = stated(reference), stated(aligned)
    unsaid = [
        f"{leg.leg} {leg.model!r} at {leg.url}: {said.why}; its template and decoder defaults were not compared"
        for leg, said in ((reference, one), (aligned, other))
        if said.why
    ]
    for name in STATED:
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine and theirs and mine != theirs:
            what = "decoder defaults" if name == "decoder" else "templates"
            raise PlumblineError(
                f"reference and aligned have different {what}: {mine[:19]} and {theirs[:19]}",
                consequence="nothing was started: a difference between answers would not be the policies' alone",
                remedy="serve both policies with the same template and decoder defaults"
                " (export them from objectives that agree in `template` and `samples`)",
            )
    return one, other, unsaid


def _require_listed(leg: Upstream, timeout_s: float) -> None:
    try:
        listed = [str(one["id"]) for one in _get(f"{leg.url}/models", leg.key, timeout_s)["data"]]
    except (OSError, HTTPException, ValueError, KeyError, TypeError):
        return  # it keeps no such list
    if listed and leg.model not in listed:
        raise PlumblineError(
            f"{leg.url} serves no model {leg.model!r}; it serves {', '.join(sorted(listed))}",
            consequence="nothing was started: every request would be refused",
            remedy=f"name one of these as --{leg.leg}-model, or in the experiment as {leg.leg}_model",
        )


def _get(url: str, headers: dict[str, str], timeout_s: float) -> Any:
    with urlopen(Request(url, headers=headers), timeout=timeout_s) as response:
        return json.loads(response.read())
