"""An endpoint's address and identity: what serves there, and how far that is known.

    http://127.0.0.1:8080/v1#aligned       the base of an OpenAI-compatible API, and a model that it serves

A Plumbline predictor states the policy's digest in its list of models and in a header of every answer: the same digest
that the policy has as a directory. Of any other server only URL, model and a declared revision are known; a digest made
of these names the policy in the report, where it says `declared`, not verified.
"""

import json
import os
from dataclasses import dataclass
from typing import Any, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urldefrag, urlsplit
from urllib.request import Request, urlopen

from plumbline.errors import PlumblineError
from plumbline.records import Digest, PolicyManifest, digest_of

POLICY_HEADER = "x-plumbline-policy"


class ServedPolicy(PolicyManifest):
    """The manifest of a policy that a Plumbline predictor serves: its `digest` is the one stated there, which covers
    weights and tokenizer (whose own digests are not known here)."""

    schema_id = "plumbline.dev/served-policy/v1"

    stated: Digest

    @property
    def digest(self) -> str:
        return self.stated


@dataclass(frozen=True)
class Endpoint:
    """`url` ends before `/chat/completions`; `model` is what requests name. The key is never printed."""

    url: str
    model: str

    @classmethod
    def read(cls, text: str) -> "Endpoint | None":
        """From `URL#MODEL`; None for anything that is no URL. PlumblineError for a URL without a model, or with a
        password in it."""
        if not text.startswith(("http://", "https://")):
            return None
        url, model = urldefrag(text)
        if not model or urlsplit(url).username is not None:
            raise PlumblineError(
                "an endpoint's address names no model" if not model else "an endpoint's address holds a user name",
                consequence="nothing was asked",
                remedy="write it as http://HOST:PORT/v1#MODEL; a key comes from the environment (--api-key-env)",
            )
        return cls(url.rstrip("/"), model)


def key_from(variable: str | None) -> str | None:
    """The API key in an environment variable. PlumblineError, without a value, where it is unset."""
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise PlumblineError(
            f"the environment variable {variable} is not set",
            consequence="nothing was asked: the endpoint would refuse a request without its key",
            remedy=f"set {variable} to the key, or leave --api-key-env out",
        )
    return key


def identify_served(
    endpoint: Endpoint,
    role: Literal["reference", "aligned"],
    *,
    revision: str = "",
    api_key: str | None = None,
    timeout_s: float = 10.0,
) -> PolicyManifest:
    """Who serves there. Raises PlumblineError when nothing answers, the key is refused, or the model is not listed; an
    endpoint that lists no models at all is taken at its word."""
    listed = _models(endpoint, api_key, timeout_s)
    known = {str(one.get("id") or one.get("name")): one for one in listed or [] if isinstance(one, dict)}
    if listed is not None and known and endpoint.model not in known:
        raise PlumblineError(
            f"{endpoint.url} serves no model {endpoint.model!r}; it serves {', '.join(sorted(known))}",
            consequence="nothing was asked",
            remedy=f"name one of these behind the #: {endpoint.url}#{min(known)}",
        )
    stated = known.get(endpoint.model, {}).get("plumbline") or {}
    if "policy" in stated and "template" in stated:
        given = {name: digest for name in ("dataset", "rubric") if (digest := stated.get(name)) not in (None, "none")}
        digests = {"weights": stated["policy"], "tokenizer": stated["policy"], "template": stated["template"], **given}
        return ServedPolicy(name=endpoint.model, role=role, stated=stated["policy"], source=endpoint.url, **digests)
    declared = digest_of(["declared", endpoint.url, endpoint.model, revision])
    return PolicyManifest(
        name=endpoint.model,
        role=role,
        weights=declared,
        tokenizer=declared,
        template=declared,
        source=f"{endpoint.url}#{endpoint.model}" + (f"@{revision}" if revision else ""),
    )


def _models(endpoint: Endpoint, api_key: str | None, timeout_s: float) -> list[Any] | None:
    """The models that the endpoint lists; None where it keeps no such list."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        with urlopen(Request(f"{endpoint.url}/models", headers=headers), timeout=timeout_s) as response:
            body = json.loads(response.read())
        return list(body["data"])
    except HTTPError as error:
        if error.code in (401, 403):
            raise PlumblineError(
                f"{endpoint.url} refuses the key (status {error.code})",
                consequence="nothing was asked",
                remedy="name the environment variable that holds its key with --api-key-env",
            ) from error
        return None
    except (URLError, OSError) as error:
        raise PlumblineError(
            f"nothing answers at {endpoint.url} ({getattr(error, 'reason', error)})",
            consequence="nothing was asked; answers of earlier runs are kept",
            remedy="start the endpoint, or correct the address (it ends in /v1 before the #)",
        ) from error
    except (ValueError, KeyError, TypeError):
        return None
