"""kmock's emulator, nearer to an API server: what the operator could get wrong must go wrong here too.

Added: identities and resource versions, `generation`; a status subresource that alone writes the status; our
definitions' schemas, strictly, and their CEL rules; selection by label; replacing by resource version; deletion by
identity, and of what belongs to what was deleted; admission by the chart's policies, where they are installed, for
whoever a request impersonates. And, on demand, the weather: refusals before and after the work is
done, slow answers, watches that drop or are too old, lists that are stale.
"""

import asyncio
import copy
import random
import re
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import attrs
import celpy
import jsonschema
from admission import OPERATOR, chart_policies, refusal
from kmock import KubernetesEmulator
from kmock._internal.enums import action as Action
from kmock._internal.enums import method as Method
from kmock._internal.k8s import KubernetesError
from kmock._internal.rendering import Payload, Request

from plumbline.reconcile.crds import definition
from plumbline.records.resources import RESOURCES

Doc = dict[str, Any]
OURS = {
    resource.plural: definition(resource)["spec"]["versions"][0]["schema"]["openAPIV3Schema"] for resource in RESOURCES
}
GUARDED = {
    plural
    for policy in chart_policies()
    for rule in policy["spec"].get("matchConstraints", {}).get("resourceRules", [])
    for plural in rule["resources"]
}
TESTS = "tests"  # the user agent of those whom the weather spares
WITH_STATUS = {*OURS, "jobs"}
LABEL = re.compile(r"(?=.{0,63}\Z)(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?")
NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@dataclass
class Weather:
    """Chances per request. `seed` makes one storm repeatable as far as the order of requests is."""

    refused: float = 0.0  # 429, 500 or 503 instead of an answer
    lost: float = 0.0  # the work is done, and the answer is 500
    conflict: float = 0.0  # 409 to a write that was fine
    slow_s: float = 0.0  # up to so many seconds before an answer
    stale: float = 0.0  # a list is as it was a second ago
    watch_s: float = 0.0  # a watch ends after up to so many seconds, every other time as 410 Gone
    seed: int = 0
    until: float = float("inf")
    dice: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)

    def strikes(self, chance: float) -> bool:
        return time.monotonic() < self.until and self.dice.random() < chance


def cel(rule: str, **values: Any) -> bool:
    environment = celpy.Environment()
    program = environment.program(environment.compile(rule))
    return bool(program.evaluate({name: celpy.json_to_cel(value) for name, value in values.items()}))


def strict(schema: Doc) -> Doc:
    """A structural schema as the JSON schema that also refuses unknown fields."""
    out = {key: value for key, value in schema.items() if not key.startswith("x-kubernetes-")}
    if "properties" in schema:
        out["properties"] = {name: strict(inner) for name, inner in schema["properties"].items()}
        out["additionalProperties"] = False
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            out[key] = strict(schema[key])
    return out


def broken_rules(schema: Doc, old: Any, new: Any) -> list[str]:
    """Messages of the rules that a change breaks. A transition rule is asked only where both sides are."""
    said = [
        str(rule["message"])
        for rule in schema.get("x-kubernetes-validations", [])
        if not cel(rule["rule"], self=new, oldSelf=old)
    ]
    for name, inner in schema.get("properties", {}).items():
        if isinstance(old, dict) and isinstance(new, dict) and name in old and name in new:
            said += broken_rules(inner, old[name], new[name])
    return said


def broken_shape(schema: Doc, value: Any) -> list[str]:
    """Messages of the rules that a value breaks by itself, whatever was before."""
    rules = [rule for rule in schema.get("x-kubernetes-validations", []) if "oldSelf" not in rule["rule"]]
    said = [str(rule["message"]) for rule in rules if not cel(rule["rule"], self=value)]
    for name, inner in schema.get("properties", {}).items():
        if isinstance(value, dict) and name in value:
            said += broken_shape(inner, value[name])
    return said


def broken_names(plural: str, body: Doc) -> list[str]:
    """What an API server says of names and labels. A Job's name is a label of its pods; a definition may bound one."""
    meta, longest = body["metadata"], 63 if plural == "jobs" else 253
    if plural in OURS:
        longest = OURS[plural]["properties"]["metadata"].get("properties", {}).get("name", {}).get("maxLength", longest)
    labels = meta.get("labels", {})
    said = [f"metadata.labels: {key}={value}" for key, value in labels.items() if not LABEL.fullmatch(value)]
    if NAME.fullmatch(meta["name"]) is None or len(meta["name"]) > longest:
        said.append(f"metadata.name: may not be more than {longest} bytes, in lower case: {meta['name']}")
    return said


def defaulted(schema: Doc, value: Doc) -> Doc:
    defaults = {name: inner["default"] for name, inner in schema["properties"].items() if "default" in inner}
    return {**defaults, **value}


@attrs.define(kw_only=True)
class ApiServerEmulator(KubernetesEmulator):
    """See the module. `created` and `patched` tell what was asked for and done, in order; `step` is called before and
    after each write that is not a test's, and what it raises before one keeps it from being done."""

    weather: Weather = attrs.field(factory=Weather)
    step: Callable[[str, str, str], None] = attrs.field(
        default=lambda moment, method, plural: None
    )  # of others' writes
    created: list[Doc] = attrs.field(factory=list, init=False)
    patched: list[tuple[str, str]] = attrs.field(factory=list, init=False)
    _versions: int = attrs.field(default=0, init=False)
    _one_writer: asyncio.Lock = attrs.field(factory=asyncio.Lock, init=False)
    _past: deque[tuple[float, str, list[Doc]]] = attrs.field(factory=lambda: deque(maxlen=400), init=False)

    async def _handle(self, request: Request) -> Any:
        try:
            return await self._answer(request)
        finally:  # kmock keeps every request and walks through them all for each new one
            self._requests.remove(request)

    async def _answer(self, request: Request) -> Any:
        if request.resource is None or request.action is Action.WATCH:
            return await super()._handle(request)
        calm = request.headers.get("User-Agent") == TESTS
        if not calm:
            await self._storm(request)
        if request.action in (Action.LIST, Action.FETCH):
            return await super()._handle(request)
        if not calm:
            self.step("before", request.method.value, request.resource.plural)
        async with self._one_writer:
            prepared = self._prepare(request)
            answer = await super()._handle(prepared)
            if request.action is Action.DELETE:
                await self._collect(request)
            self._remember(request.resource.plural)
        if not calm:
            self.step("after", request.method.value, request.resource.plural)
        if not calm and self.weather.strikes(self.weather.lost):
            raise KubernetesError(status=500, reason="InternalError", message="the answer was lost")
        return answer

    async def _storm(self, request: Request) -> None:
        weather = self.weather
        if weather.slow_s:
            await asyncio.sleep(weather.dice.uniform(0, weather.slow_s))
        if weather.strikes(weather.refused):
            raise KubernetesError(status=weather.dice.choice([429, 500, 503]), reason="Weather", message="not now")
        if request.method is Method.PATCH and weather.strikes(weather.conflict):
            raise KubernetesError(status=409, reason="Conflict", message="the object has been modified")

    def _prepare(self, request: Request) -> Request:
        """The request that kmock's plain merge carries out as an API server would carry out this one."""
        resource, plural = request.resource, request.resource.plural
        if request.action is Action.CREATE:
            body = copy.deepcopy(request.data)
            meta = body.setdefault("metadata", {})
            meta.setdefault("namespace", request.namespace)
            key = (resource, request.namespace or meta["namespace"], meta["name"])
            if key in self._objects and not self._objects[key].deleted:
                raise KubernetesError(status=409, reason="AlreadyExists", message=meta["name"])
            meta |= {"uid": str(uuid.uuid4()), "generation": 1, "resourceVersion": self._next()}
            meta["creationTimestamp"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            if plural in WITH_STATUS:
                body.pop("status", None)
            if plural in OURS:
                body["spec"] = defaulted(OURS[plural]["properties"]["spec"], body["spec"])
            self._validate(plural, body)
            self._admit(request, "CREATE", body, None)
            self.created.append(body)
            return _with(request, data=body)
        old = self._there(request)
        if request.action is Action.DELETE:
            wanted = ((request.data or {}).get("preconditions") or {}).get("uid")
            if wanted not in (None, old["metadata"]["uid"]):
                raise KubernetesError(status=409, reason="Conflict", message="the UID in the precondition is another")
            return request
        change = copy.deepcopy(request.data)
        if request.method is Method.PUT:
            if change["metadata"].get("resourceVersion") not in (None, old["metadata"]["resourceVersion"]):
                raise KubernetesError(status=409, reason="Conflict", message="the object has been modified")
            change = {key: {**dict.fromkeys(old.get(key, {})), **change[key]} for key in ("spec",) if key in change}
        change = {"status": change.get("status")} if request.subresource == "status" else _without(change, "status")
        new = _merge(old, change)
        if plural in OURS and request.subresource is None and (said := broken_rules(OURS[plural], old, new)):
            raise KubernetesError(status=422, reason="Invalid", message="; ".join(said))
        self._validate(plural, new)
        if request.subresource is None:
            self._admit(request, "UPDATE", new, old)
        self.patched.append((plural, request.name or ""))
        grown = old["metadata"].get("generation", 1) + (new.get("spec") != old.get("spec"))
        change.setdefault("metadata", {})
        change["metadata"] |= {"resourceVersion": self._next(), "generation": grown}
        return _with(request, data=change, action=Action.UPDATE, subresource=None)

    def _there(self, request: Request) -> Doc:
        key = (request.resource, request.namespace, request.name)
        if key not in self._objects or self._objects[key].deleted:
            raise KubernetesError(status=404, reason="NotFound", message=str(request.name))
        found: Doc = copy.deepcopy(dict(self._objects[key].raw))
        return found

    def _admit(self, request: Request, operation: str, new: Doc, old: Doc | None) -> None:
        plural = request.resource.plural
        if plural not in GUARDED:
            return
        there = [dict(item.raw) for item in self._objects.values() if not item.deleted]
        said = refusal(
            [doc for doc in there if doc["kind"] == "ValidatingAdmissionPolicy"],
            [doc for doc in there if doc["kind"] == "ValidatingAdmissionPolicyBinding"],
            plural=plural,
            operation=operation,
            user=request.headers.get("Impersonate-User") or OPERATOR,
            new=new,
            old=old,
            find=lambda kind, name: next(
                (
                    doc
                    for doc in there
                    if (doc["kind"], doc["metadata"]["name"]) == (kind, name)
                    and doc["metadata"]["namespace"] == new["metadata"]["namespace"]
                ),
                None,
            ),
        )
        if said:
            raise KubernetesError(status=403, reason="Forbidden", message=said)

    def _validate(self, plural: str, body: Doc) -> None:
        if said := broken_names(plural, body):
            raise KubernetesError(status=422, reason="Invalid", message="; ".join(said))
        if plural not in OURS:
            return
        checked = {**body, "metadata": {}}
        schema = strict(OURS[plural])
        schema["properties"]["metadata"] = {"type": "object"}
        for error in jsonschema.Draft202012Validator(schema).iter_errors(checked):
            where = ".".join(map(str, error.absolute_path))
            raise KubernetesError(status=422, reason="Invalid", message=f"{where}: {error.message[:300]}")
        if said := broken_shape(OURS[plural]["properties"]["spec"], body.get("spec")):
            raise KubernetesError(status=422, reason="Invalid", message="; ".join(said))

    async def _collect(self, request: Request) -> None:
        """Delete what belonged to what is gone, and what belonged to that."""
        gone = [dict(self._objects[(request.resource, request.namespace, request.name)].last.raw)["metadata"]["uid"]]
        while gone:
            uid = gone.pop()
            for (resource, _, _), item in list(self._objects.items()):
                if item.deleted:
                    continue
                raw = dict(item.raw)
                if any(owner["uid"] == uid for owner in raw["metadata"].get("ownerReferences", [])):
                    gone.append(raw["metadata"]["uid"])
                    item.delete()
                    await self._buses[resource].put({"type": "DELETED", "object": raw})
                    self._remember(resource.plural)

    def _next(self) -> str:
        self._versions += 1
        return str(self._versions)

    def _remember(self, plural: str) -> None:
        items = [
            copy.deepcopy(dict(item.raw))
            for (resource, _, _), item in self._objects.items()
            if resource.plural == plural and not item.deleted
        ]
        self._past.append((time.monotonic(), plural, items))

    async def _serve_list(self, request: Request) -> Payload:
        found: Any = await super()._serve_list(request)
        items = list(found["items"])
        if self.weather.strikes(self.weather.stale):
            moments = [old for at, plural, old in self._past
                       if plural == request.resource.plural and at < time.monotonic() - 1]  # fmt: skip
            items = [
                item
                for item in (moments[-1] if moments else [])
                if request.namespace in (None, item["metadata"]["namespace"])
            ]
        selector = request.params.get("labelSelector", "")
        wanted = dict(part.split("=", 1) for part in selector.split(",") if "=" in part)
        if any(LABEL.fullmatch(value) is None for value in wanted.values()):
            raise KubernetesError(status=400, reason="BadRequest", message=f"unable to parse requirement: {selector}")
        items = [item for item in items if wanted.items() <= item["metadata"].get("labels", {}).items()]
        return {"metadata": {"resourceVersion": str(self._versions)}, "items": items}

    async def _serve_watch(self, request: Request) -> AsyncIterator[Payload]:
        if not self.weather.watch_s:
            async for event in super()._serve_watch(request):
                yield event
            return
        stop = time.monotonic() + self.weather.dice.uniform(0.2, 1.0) * self.weather.watch_s
        source = aiter(super()._serve_watch(request))
        while (left := stop - time.monotonic()) > 0:
            try:
                yield await asyncio.wait_for(asyncio.shield(task := asyncio.ensure_future(anext(source))), left)
            except TimeoutError:
                task.cancel()
                break
        if self.weather.dice.random() < 0.5:
            yield {
                "type": "ERROR",
                "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"},
            }


def _with(request: Request, **changes: Any) -> Request:
    """The same request with some fields changed, in place: kmock knows its requests by identity."""
    for name, value in changes.items():
        object.__setattr__(request, name, value)
    return request


def _merge(old: Any, change: Any) -> Any:
    """RFC 7396."""
    if not isinstance(change, dict):
        return change
    merged = dict(old) if isinstance(old, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merge(merged.get(key), value)
    return merged


def _without(value: Doc, key: str) -> Doc:
    return {name: inner for name, inner in value.items() if name != key}
