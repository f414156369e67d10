"""The few requests that the operator makes to the API server itself; watching is kopf's.

Written against kopf's public `ConnectionInfo`, so that there is one way to log in. Answers that mean "it is as
you want it" are no errors: 409 to a create (somebody was quicker), 404 to a delete (it is gone).
"""

from typing import Any

import aiohttp
import kopf

from plumbline.reconcile.kubernetes import GROUP, PLURAL, VERSION

Json = dict[str, Any]


class ApiServer:
    """One session to one API server. `connect` again after each login: tokens of service accounts rotate."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def connect(self, info: kopf.ConnectionInfo) -> None:
        await self.close()
        secure = info.server.startswith("https:")
        self._session = aiohttp.ClientSession(
            base_url=info.server,
            headers=info.as_http_headers(),
            connector=aiohttp.TCPConnector(ssl=info.as_ssl_context() if secure else False),
            timeout=aiohttp.ClientTimeout(total=30),
        )

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def line(self, namespace: str, name: str) -> Json | None:
        """The DatasetLine as it is now; None when there is none."""
        return await self._ask("GET", _line(namespace, name), missing=True)

    async def jobs(self, namespace: str, selector: str) -> list[Json]:
        found = await self._ask(
            "GET", f"/apis/batch/v1/namespaces/{namespace}/jobs", params={"labelSelector": selector}
        )
        return list((found or {}).get("items", []))

    async def create_job(self, job: Json) -> bool:
        """False when a Job of that name is there already."""
        path = f"/apis/batch/v1/namespaces/{job['metadata']['namespace']}/jobs"
        return await self._ask("POST", path, body=job, exists=True) is not None

    async def delete_job(self, namespace: str, name: str) -> None:
        """Foreground, so that the Job is seen until its last pod is gone: a line never has two runs at once."""
        path = f"/apis/batch/v1/namespaces/{namespace}/jobs/{name}"
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        await self._ask("DELETE", path, body=body, missing=True)

    async def patch_status(self, namespace: str, name: str, status: Json) -> None:
        """Replace the status's fields (a merge patch; null removes). A line that is gone needs none."""
        await self._ask("PATCH", f"{_line(namespace, name)}/status", body={"status": status}, missing=True)

    async def create_event(self, event: Json) -> None:
        path = f"/api/v1/namespaces/{event['metadata']['namespace']}/events"
        await self._ask("POST", path, body=event, exists=True)

    async def _ask(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        params: dict[str, str] | None = None,
        missing: bool = False,
        exists: bool = False,
    ) -> Json | None:
        """The answer, or None for a tolerated 404 (`missing`) or 409 (`exists`). Anything else above 399 raises."""
        if self._session is None:
            raise kopf.TemporaryError("not logged in to the API server yet", delay=1)
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Content-Type": content} if body is not None else None
        async with self._session.request(method, path, json=body, params=params, headers=headers) as answer:
            if (answer.status == 404 and missing) or (answer.status == 409 and exists):
                return None
            answer.raise_for_status()
            found: Json = await answer.json()
            return found


def _line(namespace: str, name: str) -> str:
    return f"/apis/{GROUP}/{VERSION}/namespaces/{namespace}/{PLURAL}/{name}"
