"""Asking a cluster what `plumb doctor --cluster` wants to know: reads, and reviews of rights. Nothing is written.

The kubeconfig is read by the Kubernetes client (contexts, certificates, tokens, exec plugins of cloud providers), so
whoever can use kubectl can use this; in a pod, the service account's token is. The requests themselves are made here,
side by side: the generated API objects of that client would say no more than the JSON does.

A Secret is asked for as PartialObjectMetadata: the API server leaves its data out of the answer.
"""

import asyncio
import os
import ssl
from collections.abc import Iterable
from typing import Any, cast

import aiohttp

from plumbline.errors import PlumblineError
from plumbline.reconcile.cluster_questions import FORBIDDEN, GUARDS, Facts, Json, Questions, Right, Seen

PATIENCE_S = 15.0
AT_ONCE = 8
PAGE = 500
METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
ADMISSION = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolic"
REVIEWS = "/apis/authorization.k8s.io/v1"


class Unreachable(PlumblineError):
    """No cluster to ask: no kubeconfig, no such context, nobody answers, or not to us."""


def configuration(context: str | None) -> tuple[Any, str | None]:
    """How to reach the cluster (`kubernetes.client.Configuration`), and the namespace that the context names."""
    import kubernetes.client
    import kubernetes.config

    config: Any = kubernetes.config  # which has no types
    found = kubernetes.client.Configuration()
    try:
        if context is None and "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ:
            config.load_incluster_config(client_configuration=found)
            return found, None
        config.load_kube_config(context=context, client_configuration=found)
        contexts, current = config.list_kube_config_contexts()
        chosen = next((item for item in contexts if item["name"] == context), current)
        return found, cast("str | None", chosen.get("context", {}).get("namespace"))
    except (config.ConfigException, OSError, ValueError, TypeError, KeyError) as error:
        raise Unreachable(
            f"no kubeconfig to reach a cluster by: {error}",
            consequence="the cluster was not looked at",
            remedy="set KUBECONFIG to a kubeconfig file and --context to one of its contexts"
            " (`kubectl config get-contexts` lists them)",
        ) from error


def look(reach: Any, asked: Questions) -> Facts:
    """All answers. Unreachable when the API server does not answer at all, or does not know who asks."""
    return asyncio.run(_look(reach, asked))


async def _look(reach: Any, asked: Questions) -> Facts:
    async with _Asking(reach) as api:
        version = await api.first()
        space = f"/api/v1/namespaces/{asked.namespace}"
        groups = await api.get("/apis")
        crds, claims, named = await asyncio.gather(
            api.each(asked.crds, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{}"),
            api.each(asked.claims.values(), f"{space}/persistentvolumeclaims/{{}}"),
            api.each(asked.secrets, f"{space}/secrets/{{}}", accept=METADATA),
        )
        policies, bindings = await asyncio.gather(
            api.each(GUARDS, f"{ADMISSION}ies/{{}}"), api.each(GUARDS, f"{ADMISSION}ybindings/{{}}")
        )
        deployments, classes, nodes = await asyncio.gather(
            api.all("/apis/apps/v1/deployments"),
            api.all("/apis/storage.k8s.io/v1/storageclasses"),
            api.all("/api/v1/nodes"),
        )
        account = await api.get(f"{space}/serviceaccounts/{asked.operator_account}") if asked.operator_account else None
        return Facts(
            server=reach.host,
            version=str(version.get("gitVersion", "")),
            groups=_groups(groups),
            namespace=await api.get(space),
            crds=crds,
            deployments=deployments,
            storage_classes=classes,
            nodes=nodes,
            claims=claims,
            secrets=named,
            guards={name: (policies[name], bindings[name]) for name in GUARDS},
            node_class=await api.node_class(*asked.node_class) if asked.node_class else None,
            may=await api.may(asked.rights, asked.namespace) or {},
            operator=account,
            operator_may=await api.may(
                (*asked.operator_rights, *FORBIDDEN),
                asked.namespace,
                f"system:serviceaccount:{asked.namespace}:{asked.operator_account}",
            )
            if isinstance(account, dict)
            else None,
        )


class _Asking:
    """A session to one API server."""

    def __init__(self, reach: Any) -> None:
        self._reach = reach
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def __aenter__(self) -> "_Asking":
        reach = self._reach
        headers = {"Accept": "application/json", "User-Agent": "plumb-doctor"}
        for setting in reach.auth_settings().values():
            if setting["in"] == "header" and setting["value"]:
                headers[_header(setting["key"])] = setting["value"]
        secure = reach.host.startswith("https:")
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(ssl=_ssl_context(reach) if secure else False),
            timeout=aiohttp.ClientTimeout(total=PATIENCE_S),
            trust_env=True,
        )
        self._more: Json = {"proxy": reach.proxy} if reach.proxy else {}
        if secure and getattr(reach, "tls_server_name", None):
            self._more["server_hostname"] = reach.tls_server_name
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def first(self) -> Json:
        """The version: the one request that must succeed, since everything else rests on being let in."""
        try:
            found = await self._ask("GET", "/version")
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            said = str(error) or f"nobody answered within {PATIENCE_S:g} s"
            if isinstance(error, aiohttp.ClientResponseError):
                said = f"it answers {error.status} {error.message}"
            raise Unreachable(
                f"no cluster answers at {self._reach.host}: {said}",
                consequence="nothing in it was looked at",
                remedy="see whether `kubectl version` reaches it (VPN, expired login, another --context)",
            ) from error
        if not isinstance(found, dict):
            raise Unreachable(
                f"the cluster at {self._reach.host} does not let you in",
                consequence="nothing in it was looked at",
                remedy="log in again with your provider's command, or choose another --context",
            )
        return found

    async def get(self, path: str, accept: str | None = None) -> Seen:
        """An object; None when it is not there, "hidden" when it may not be seen."""
        try:
            return await self._ask("GET", path, accept=accept)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return "hidden"  # said to be unseen, which it is; the first request found the server well

    async def each(self, names: Iterable[str], path: str, accept: str | None = None) -> dict[str, Seen]:
        wanted = list(dict.fromkeys(names))
        found = await asyncio.gather(*(self.get(path.format(name), accept) for name in wanted))
        return dict(zip(wanted, found, strict=True))

    async def all(self, path: str) -> list[Json] | None:
        """Every item of a list, page by page; None when it may not be listed."""
        items: list[Json] = []
        token = ""
        while True:
            page = await self.get(f"{path}?limit={PAGE}" + (f"&continue={token}" if token else ""))
            if not isinstance(page, dict):
                return None if page == "hidden" else items
            items += page.get("items") or []
            token = page.get("metadata", {}).get("continue") or ""
            if not token:
                return items

    async def node_class(self, group: str, kind: str, name: str) -> Seen:
        """A provider's node class: discovery says under which version and plural its kind is served."""
        served = await self.get(f"/apis/{group}")
        if not isinstance(served, dict):
            return served
        version = served["preferredVersion"]["groupVersion"]
        kinds = await self.get(f"/apis/{version}")
        named = kinds.get("resources", []) if isinstance(kinds, dict) else []
        plural = next((item["name"] for item in named if item["kind"] == kind and "/" not in item["name"]), None)
        return await self.get(f"/apis/{version}/{plural}/{name}") if plural else None

    async def may(self, rights: Iterable[Right], namespace: str, user: str = "") -> dict[Right, bool] | None:
        """Who may do what: whoever asks, or `user`. None when that may not be asked."""
        wanted = list(rights)
        found = await asyncio.gather(*(self._review(right, namespace, user) for right in wanted))
        if any(not isinstance(item, dict) for item in found):
            return None
        allowed = [bool(cast(Json, item).get("status", {}).get("allowed")) for item in found]
        return dict(zip(wanted, allowed, strict=True))

    async def _review(self, right: Right, namespace: str, user: str) -> Seen:
        about = {"verb": right.verb, "group": right.group, "resource": right.resource}
        about |= {"subresource": right.subresource} if right.subresource else {}
        about |= {} if right.cluster else {"namespace": namespace}
        kind = "SubjectAccessReview" if user else "SelfSubjectAccessReview"
        spec = {"resourceAttributes": about} | ({"user": user, "groups": _groups_of(user)} if user else {})
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        try:
            return await self._ask("POST", f"{REVIEWS}/{kind.lower()}s", body=body)
        except (aiohttp.ClientError, OSError, TimeoutError):
            return "hidden"

    async def _ask(self, method: str, path: str, *, accept: str | None = None, body: Json | None = None) -> Seen:
        headers = {"Accept": accept} if accept else None
        url = f"{self._reach.host}{path}"
        async with (
            self._turn,
            self._session.request(method, url, json=body, headers=headers, **self._more) as answer,
        ):
            if answer.status == 404:
                return None
            if answer.status in (401, 403):
                return "hidden"
            answer.raise_for_status()
            found: Json = await answer.json()
            return found


def _ssl_context(reach: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=reach.ssl_ca_cert or None)
    if reach.cert_file:
        context.load_cert_chain(reach.cert_file, reach.key_file or None)
    if not reach.verify_ssl:  # insecure-skip-tls-verify in the kubeconfig: the user's own word
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _header(key: str) -> str:
    return "Authorization" if key.lower() == "authorization" else key


def _groups(found: Seen) -> dict[str, frozenset[str]]:
    listed = found.get("groups", []) if isinstance(found, dict) else []
    return {item["name"]: frozenset(each["version"] for each in item["versions"]) for item in listed}


def _groups_of(account: str) -> list[str]:
    """The groups that a service account is in: a review of a user name alone would leave them out."""
    namespace = account.split(":")[2]
    return ["system:serviceaccounts", f"system:serviceaccounts:{namespace}", "system:authenticated"]
