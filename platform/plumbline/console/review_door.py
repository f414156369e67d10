"""The door of the review page: the address it answers to, links and sessions.

A link and the cookie that it is changed for are secrets of 256 bits, which nobody guesses. They are kept in the ledger
(stores/review_access.py), so a link made by `plumb review invite` elsewhere opens this door, and a restart signs nobody
out. Wrong ones are not counted: behind a proxy all come from one address, and with a count any stranger could keep
everybody out, where refusing one costs no more than a look into an index.

The page knows by its public address which Host to answer to (a site that resolves to this machine gets nothing), which
path stands before its own, and whether its cookie may travel without encryption. Without one it answers to this
machine's names if it is bound to the loopback, and otherwise to addresses: to no name that somebody else could own.
"""

import asyncio
import functools
import hmac
import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta
from urllib.parse import urlsplit

from aiohttp import web

from plumbline.errors import PlumblineError
from plumbline.stores.review_access import Guest, ReviewAccess

SESSION = timedelta(hours=8)
_COOKIE = "plumb_review"
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")


@dataclass(frozen=True)
class Address:
    """Where people find the page. `prefix` is the path of `url`, which ends in no slash; `host` has no default port."""

    url: str
    host: str
    prefix: str
    secure: bool

    def link(self, secret: str) -> str:
        return f"{self.url}/enter?token={secret}"


def public_address(url: str) -> Address:
    """The address in a URL such as https://review.example.org/desk. PlumblineError for what would not do or not be
    safe."""
    try:
        parts = urlsplit(url)
        host = canonical_host(parts.netloc, secure=parts.scheme == "https")
    except ValueError:
        parts, host = urlsplit(""), ""
    prefix = parts.path.rstrip("/")
    if not host or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise _unfit("is no address of a page", "give https://HOST or https://HOST/PATH")
    if not _PREFIX.fullmatch(prefix):
        raise _unfit("has a path that no page should have", "use letters, digits, dashes, dots and underscores")
    if parts.scheme == "http" and not is_loopback(host):
        raise _unfit(
            "is not encrypted: link and cookie could be read on their way",
            "give an https:// URL of what ends TLS in front of the page; http:// is for localhost alone",
        )
    return Address(f"{parts.scheme}://{host}{prefix}", host, prefix, parts.scheme == "https")


def canonical_host(netloc: str, *, secure: bool) -> str:
    """Host and port as they are compared: in lower case, without the scheme's own port. ValueError when it is none."""
    if not _HOST.fullmatch(netloc):
        raise ValueError(netloc)
    parts = urlsplit(f"//{netloc.lower()}")
    name = f"[{parts.hostname}]" if netloc.startswith("[") else parts.hostname or ""
    return name if parts.port in (None, 443 if secure else 80) else f"{name}:{parts.port}"


class Door:
    """Who comes in, over one ledger. `host` is what the server is bound to, `public` where people find it."""

    def __init__(self, access: ReviewAccess, *, host: str, public: Address | None = None) -> None:
        self.access = access
        self.public = public
        self.prefix = public.prefix if public else ""
        self._local = is_loopback(public.host if public else host)

    def answers_to(self, host: str) -> bool:
        """Whether a request that names this Host is for this page."""
        try:
            named = canonical_host(host, secure=bool(self.public and self.public.secure))
        except ValueError:
            return False
        if self._local:
            return is_loopback(named)
        return named == self.public.host if self.public else is_loopback(named) or _address(named) is not None

    # --- links and sessions ---------------------------------------------------------------------------------------

    async def invited(self, link: str) -> bool:
        return await asyncio.to_thread(self.access.invited, link) is not None

    async def enter(self, link: str) -> str | None:
        return await asyncio.to_thread(functools.partial(self.access.enter, link, lasting=SESSION))

    async def present(self, request: web.Request) -> Guest | None:
        """Whose session the request's cookie is. Asked at every request: a session that was ended elsewhere is over."""
        secret = request.cookies.get(self._cookie(request), "")
        return await asyncio.to_thread(self.access.present, secret) if secret else None

    async def leave(self, request: web.Request, answer: web.StreamResponse) -> None:
        """End the session, and have the browser forget its cookie."""
        name = self._cookie(request)
        await asyncio.to_thread(self.access.leave, request.cookies.get(name, ""))
        answer.del_cookie(name, path=self.prefix or "/", secure=self._secure(request), httponly=True, samesite="Strict")

    def give_cookie(self, request: web.Request, answer: web.StreamResponse, session: str) -> None:
        answer.set_cookie(
            self._cookie(request),
            session,
            max_age=int(SESSION.total_seconds()),
            httponly=True,
            samesite="Strict",
            secure=self._secure(request),
            path=self.prefix or "/",
        )

    def form_key(self, request: web.Request) -> str:
        """What a form of this session carries: made from its cookie, which no other site can read or send."""
        secret = request.cookies.get(self._cookie(request), "")
        return hmac.digest(secret.encode("utf-8", "replace"), b"a form of the review page", "sha256").hex()

    def _secure(self, request: web.Request) -> bool:
        return self.public.secure if self.public else request.secure

    def _cookie(self, request: web.Request) -> str:
        """By these prefixes a browser refuses the cookie from a neighbouring host, and over a plain connection."""
        if not self._secure(request):
            return _COOKIE
        return f"__Secure-{_COOKIE}" if self.prefix else f"__Host-{_COOKIE}"


def is_loopback(host: str) -> bool:
    """Whether a name or address, with or without a port, is this machine's alone."""
    address = _address(host)
    return address.is_loopback if address else _hostname(host) == "localhost"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(_hostname(host))
    except ValueError:
        return None


def _hostname(host: str) -> str:
    bare = host.count(":") > 1 and not host.startswith("[")  # an IPv6 address as it is bound to
    return host if bare else urlsplit(f"//{host}").hostname or ""


def _unfit(fact: str, remedy: str) -> PlumblineError:
    return PlumblineError(
        f"the page's public URL {fact}", consequence="nobody was invited and nothing was started", remedy=remedy
    )
