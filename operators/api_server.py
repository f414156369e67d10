"""The few requests that the operator makes to the API server itself; watching is kopf's.

Written against kopf's public `ConnectionInfo`, so that there is one way to log in. Answers that mean "it is as
you want it" are no errors: 409 to a create (somebody was quicker), 404 to a delete (it is gone). Answers that mean
"not now" (429, 5xx, a connection that broke) are asked again, soon and a few times; after that the look as a whole is
left to the work queue. Every request here may be repeated: names say what is made, and replacing names what it saw.
An answer 401 means that the token has run out: there is a newer one where the first came from, which kopf would read
only when a watch of its own ends, minutes later.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import aiohttp
import kopf

from plumbline.records.resources import RESOURCES

Json = dict[str, Any]
Login = Callable[[], kopf.ConnectionInfo | None]
TRIES = 4
PATHS = {resource.kind: (f"/apis/{resource.api_version}", resource.plural) for resource in RESOURCES} | {
    "Job": ("/apis/batch/v1", "jobs"),
    "Lease": ("/apis/coordination.k8s.io/v1", "leases"),
    "Event": ("/api/v1", "events"),
}
ADMISSION = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"


class ApiServer:
    """One session to one API server. `connect` again after each login: tokens of service accounts rotate. `login` reads
    the credentials that there are now, for a session whose token is refused."""

    def __init__(self, login: Login | None = None) -> None:
        self._login = login
        self._session: aiohttp.ClientSession | None = None

    async def connect(self, info: kopf.ConnectionInfo) -> None:
        before = self._session
        secure = info.server.startswith("https:")
        self._session = aiohttp.ClientSession(
            base_url=info.server,
            headers=info.as_http_headers(),
            connector=aiohttp.TCPConnector(ssl=info.as_ssl_context() if secure else False),
            timeout=aiohttp.ClientTimeout(total=30),
        )
        if before is not None:
            await before.close()  # after it was replaced: a request that begins now finds an open one

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, kind: str, namespace: str, name: str) -> Json | None:
        """The object as it is now; None when there is none."""
        return await self._ask("GET", _path(kind, namespace, name), missing=True)

    async def find(self, kind: str, namespace: str, selector: str) -> list[Json]:
        """Objects by label, each with its kind (which items of a list lack)."""
        found = await self._ask("GET", _path(kind, namespace), params={"labelSelector": selector}) or {}
        version = PATHS[kind][0].split("/", 2)[2]
        return [{"apiVersion": version, "kind": kind, **item} for item in found.get("items", [])]

    async def create(self, body: Json) -> Json | None:
        """The object made; None when one of that name is there already."""
        return await self._ask("POST", _path(body["kind"], body["metadata"]["namespace"]), body=body, exists=True)

    async def replace(self, body: Json) -> Json | None:
        """The object written; None when it changed since it was read, or is gone."""
        meta = body["metadata"]
        path = _path(body["kind"], meta["namespace"], meta["name"])
        return await self._ask("PUT", path, body=body, exists=True, missing=True)

    async def delete(self, item: Json, *, foreground: bool = False) -> None:
        """Delete this very object, not one of the same name made since. A Job goes in the foreground, so that it is
        seen until its last pod is gone: a line never has two runs at once."""
        meta = item["metadata"]
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": meta["uid"]}}
        body["propagationPolicy"] = "Foreground" if foreground else "Background"
        path = _path(item["kind"], meta["namespace"], meta["name"])
        await self._ask("DELETE", path, body=body, missing=True, exists=True)

    async def patch_status(self, item: Json, status: Json) -> None:
        """Write fields of the status (a merge patch; null removes). An object that is gone needs none."""
        meta = item["metadata"]
        path = _path(item["kind"], meta["namespace"], meta["name"])
        await self._ask("PATCH", f"{path}/status", body={"status": status}, missing=True)

    async def admission(self, name: str) -> tuple[Json | None, Json | None]:
        """The ValidatingAdmissionPolicy of this name and its binding; None for one that is not there, or not shown."""
        policy = await self._ask("GET", f"{ADMISSION}ies/{name}", missing=True, hidden=True)
        binding = await self._ask("GET", f"{ADMISSION}ybindings/{name}", missing=True, hidden=True)
        return policy, binding

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        params: dict[str, str] | None = None,
        missing: bool = False,
        exists: bool = False,
        hidden: bool = False,
    ) -> Json | None:
        """The answer, or None for a tolerated 404 (`missing`), 409 (`exists`) or 403 (`hidden`). Anything else above
        399 raises, after a few tries where trying again may help."""
        renewed = False
        for attempt in range(TRIES):
            session = self._session
            try:
                return await self._once(method, path, body, params, missing, exists, hidden)
            except aiohttp.ClientResponseError as error:
                if error.status == 401 and not renewed and attempt < TRIES - 1:
                    renewed = await self._renewed(session)
                    if renewed:
                        continue
                if attempt == TRIES - 1 or (error.status != 429 and error.status < 500):
                    raise
                asked = error.headers.get("Retry-After", "") if error.headers else ""
                await asyncio.sleep(min(float(asked), 10.0) if asked.isdigit() else _pause(attempt))
            except (aiohttp.ClientConnectionError, TimeoutError):
                if attempt == TRIES - 1:
                    raise
                await asyncio.sleep(_pause(attempt))
        raise AssertionError("unreachable")

    async def _renewed(self, refused: aiohttp.ClientSession | None) -> bool:
        """Whether there is now another session than the one that was refused: made by whoever noticed first."""
        if self._session is refused and self._login is not None and (info := self._login()) is not None:
            await self.connect(info)
        return self._session is not refused

    async def _once(
        self,
        method: str,
        path: str,
        body: Json | None,
        params: dict[str, str] | None,
        missing: bool,
        exists: bool,
        hidden: bool,
    ) -> Json | None:
        if self._session is None:
            raise kopf.TemporaryError("not logged in to the API server yet", delay=1)
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Content-Type": content} if body is not None else None
        async with self._session.request(method, path, json=body, params=params, headers=headers) as answer:
            tolerated = {404: missing, 409: exists, 403: hidden}
            if tolerated.get(answer.status):
                return None
            answer.raise_for_status()
            found: Json = await answer.json()
            return found


def _path(kind: str, namespace: str, name: str = "") -> str:
    version, plural = PATHS[kind]
    return f"{version}/namespaces/{namespace}/{plural}" + (f"/{name}" if name else "")


def _pause(attempt: int) -> float:
    """0.1, 0.2, 0.4 ... seconds, give or take a half, so that several operators do not knock in step."""
    return float(0.1 * 2**attempt * random.uniform(0.5, 1.5))
