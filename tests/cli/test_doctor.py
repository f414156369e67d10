"""`plumb doctor --cluster` against an API server over HTTP: the kubeconfig, discovery, paging, reviews, refusals."""

import asyncio
import base64
import contextlib
import ipaddress
import json
import os
import re
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import yaml
from kmock import KubernetesEmulator, Server
from kmock._internal.k8s import KubernetesError

from plumbline.reconcile.crds import definition
from plumbline.records.resources import RESOURCES

REPO = Path(__file__).resolve().parents[2]
Doc = dict[str, Any]
TOKEN = "the-token-of-these-tests"
SECRET = "c2VjcmV0LXZhbHVl"


@attrs.define(kw_only=True)
class ApiServer(KubernetesEmulator):
    """kmock's emulator with a version, access reviews, pages, people who may not, and Secrets that must not be read."""

    version: str = "v1.36.2"
    denied: tuple[str, ...] = ()  # words of `verb resource` that reviews answer no to
    hidden: tuple[str, ...] = ()  # parts of paths that are answered 403
    asked: list[str] = attrs.field(factory=list, init=False)
    page: int = 3

    async def _handle(self, request: Any) -> Any:
        path = str(request.url.path)
        self.asked.append(f"{request.method.value} {path}")
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            raise KubernetesError(status=401, reason="Unauthorized", message="who are you?")
        if any(part in path for part in self.hidden):
            raise KubernetesError(status=403, reason="Forbidden", message="you may not")
        if "accessreviews" in path:
            return self._json({"status": {"allowed": self._allowed(request.data["spec"])}})
        assert request.method.value.upper() == "GET", "the doctor changes nothing"
        if path == "/version":
            return self._json({"gitVersion": self.version})
        if path == "/api/v1/namespaces/demo":  # which kmock takes for the list of all that is in it
            return self._json({"kind": "Namespace", "metadata": {"name": "demo"}})
        if "/secrets/" in path:
            assert "PartialObjectMetadata" in request.headers["Accept"], "a secret's values must stay where they are"
            found = self._raw(path)
            return self._json({"kind": "PartialObjectMetadata", "metadata": found["metadata"]})
        if path.endswith("/nodes"):
            return self._json(self._paged(request))
        return await super()._handle(request)

    def _allowed(self, spec: Doc) -> bool:
        about = spec["resourceAttributes"]
        whole = f"{about['verb']} {about['resource']}/{about.get('subresource', '')}".rstrip("/")
        if spec.get("user"):
            assert "system:serviceaccounts" in spec["groups"]
            return whole not in (*self.denied, "get secrets", "create approvals", "create pods/exec")
        return whole not in self.denied

    def _raw(self, path: str) -> Doc:
        name = path.rsplit("/", 1)[1]
        for (resource, _, one), item in self.objects.items():
            if resource.plural == "secrets" and one == name:
                return dict(item.raw)
        raise KubernetesError(status=404, reason="NotFound", message=name)

    def _paged(self, request: Any) -> Doc:
        every = [dict(item.raw) for (resource, _, _), item in self.objects.items() if resource.plural == "nodes"]
        start = int(request.params.get("continue", 0))
        more = {"continue": str(start + self.page)} if start + self.page < len(every) else {}
        return {"metadata": more, "items": every[start : start + self.page]}

    @staticmethod
    def _json(body: Doc) -> Any:
        from aiohttp.web import json_response

        return json_response(body)

    def put(self, resource: str, name: str, namespace: str | None = None, **body: Any) -> None:
        meta = {"name": name, **({"namespace": namespace} if namespace else {}), **body.pop("metadata", {})}
        self.objects[resource, namespace, name] = {"metadata": meta, **body}


def admission() -> list[Doc]:
    """The admission policies and bindings as they stand in the chart, without what helm fills in."""
    text = (REPO / "charts" / "plumbline-crds" / "templates" / "admission.yaml").read_text("utf-8")
    return list(yaml.safe_load_all(re.sub(r"\{\{-? .*?-?\}\}", "", text)))


def filled(server: ApiServer) -> None:
    """Plumbline's definitions, four eyes, a class for both volumes, the secret, the operator's account, seven nodes."""
    for item in RESOURCES:
        accepted = {"conditions": [{"type": "Established", "status": "True"}], "storedVersions": [item.version]}
        name = f"{item.plural}.{item.group}"
        spec = definition(item)["spec"]
        server.put("apiextensions.k8s.io/v1/customresourcedefinitions", name, spec=spec, status=accepted)
    for doc in admission():
        plural = {"Policy": "policies", "PolicyBinding": "policybindings"}.get(doc["kind"].partition("Admission")[2])
        if plural:
            group = f"admissionregistration.k8s.io/v1/validatingadmission{plural}"
            server.put(group, doc["metadata"]["name"], spec=doc["spec"])
    marks = {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
    server.put("storage.k8s.io/v1/storageclasses", "files", metadata=marks, provisioner="nfs.csi.k8s.io")
    server.put("v1/secrets", "plumbline-sources", "demo", data={"sources.json": SECRET})
    server.put("v1/serviceaccounts", "plumbline-operator", "demo")
    server.resources["apps/v1/deployments"] = {"namespaced": True, "kind": "Deployment"}
    for number in range(7):
        ready = {"conditions": [{"type": "Ready", "status": "True"}], "allocatable": {"nvidia.com/gpu": "8"}}
        server.put("v1/nodes", f"node-{number}", status=ready)


@contextlib.asynccontextmanager
async def cluster(folder: Path, fill: Callable[[ApiServer], None] = filled, **more: Any) -> AsyncIterator[ApiServer]:
    async with ApiServer(**more) as server, Server(server):
        fill(server)
        write_kubeconfig(folder, str(server.url).rstrip("/"))
        yield server


def write_kubeconfig(folder: Path, url: str, token: str = TOKEN) -> None:
    (folder / "kubeconfig").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [{"name": "c", "cluster": {"server": url}}],
                "users": [{"name": "u", "user": {"token": token}}],
                "contexts": [
                    {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "demo"}},
                    {"name": "elsewhere", "context": {"cluster": "c", "user": "u", "namespace": "other"}},
                ],
            }
        )
    )


async def doctor(folder: Path, *words: str) -> tuple[int, str]:
    """The command as a user runs it; exit code and standard output."""
    environment = {**os.environ, "KUBECONFIG": str(folder / "kubeconfig"), "CUDA_VISIBLE_DEVICES": ""}
    command = [str(Path(sys.executable).with_name("plumb")), "doctor", "--cluster", *words]
    process = await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    out, _ = await process.communicate()
    return process.returncode or 0, out.decode()


async def findings(folder: Path, *words: str) -> tuple[int, dict[str, list[Doc]]]:
    code, out = await doctor(folder, "--json", *words)
    by_topic: dict[str, list[Doc]] = {}
    for item in json.loads(out):
        by_topic.setdefault(item["about"], []).append(item)
    return code, by_topic


@pytest.mark.asyncio
async def test_a_healthy_cluster_is_read_over_http_and_nothing_in_it_is_changed(tmp_path: Path) -> None:
    async with cluster(tmp_path) as server:
        code, out = await doctor(tmp_path)
        assert code == 0, out
        assert f"Kubernetes v1.36.2 at {str(server.url).rstrip('/')}" in out
        assert f"all {len(RESOURCES)} definitions" in out
        assert "7 of 7 nodes ready, 56 nvidia.com/gpu allocatable" in out, "lists are read to their last page"
        assert "secret plumbline-sources" in out and "the account plumbline-operator may do" in out
        assert "rayjobs.ray.io is not installed; training needs it" in out
        assert SECRET not in out and TOKEN not in out and "no namespace" not in out
        assert (await doctor(tmp_path, "--strict"))[0] == 1, "there are warnings: no KubeRay, no KServe"
        assert all(line.startswith(("GET", "POST")) for line in map(str.upper, server.asked))
        assert {line.split()[1] for line in map(str.lower, server.asked) if line.startswith("post")} == {
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        }


@pytest.mark.asyncio
async def test_what_is_missing_makes_it_exit_2_and_says_what_to_do(tmp_path: Path) -> None:
    def empty(server: ApiServer) -> None:
        server.put("v1/nodes", "only", status={"allocatable": {}})
        server.resources["apps/v1/deployments"] = {"namespaced": True, "kind": "Deployment"}

    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"serving": {"enabled": True}, "karpenter": {"enabled": True}}))
    async with cluster(tmp_path, empty, version="v1.27.9", denied=("create deployments",)):
        code, found = await findings(tmp_path, "--context", "elsewhere", "--values", str(values))
    assert code == 2
    errors = {(topic, item["what"]) for topic, items in found.items() for item in items if item["level"] == "error"}
    for topic, what in (
        ("kubernetes", "v1.27.9"),
        ("definitions", "not installed: datasetlines.plumbline.dev"),
        ("admission", "is not installed"),
        ("KServe", "serving needs it"),
        ("Karpenter", "karpenter.sh/v1 is not served"),
        ("secrets", "no secret plumbline-sources"),
        ("permissions", "in namespace other you may not create deployments.apps"),
    ):
        assert any(topic == one and what in text for one, text in errors), (topic, what, errors)
    assert all(item["remedy"] for items in found.values() for item in items if item["level"] == "error")


@pytest.mark.asyncio
async def test_what_may_not_be_seen_is_said_to_be_unseen(tmp_path: Path) -> None:
    hidden = ("/nodes", "/deployments", "/storageclasses", "/secrets/", "customresourcedefinitions", "/subjectaccess")
    async with cluster(tmp_path, hidden=hidden):
        code, found = await findings(tmp_path)
    assert code == 0, found
    told = " | ".join(item["what"] for items in found.values() for item in items if item["level"] == "warning")
    for word in ("list nodes", "list storage classes", "the secret plumbline-sources", "rayjobs.ray.io", "datasetlines",
                 "may not ask what the account"):  # fmt: skip
        assert word in told


@pytest.mark.asyncio
async def test_karpenters_node_class_is_found_through_discovery(tmp_path: Path) -> None:
    def with_karpenter(server: ApiServer) -> None:
        filled(server)
        server.resources["karpenter.sh/v1/nodepools"] = {"namespaced": False, "kind": "NodePool"}
        server.resources["karpenter.k8s.aws/v1/ec2nodeclasses"] = {"namespaced": False, "kind": "EC2NodeClass"}
        server.put("karpenter.k8s.aws/v1/ec2nodeclasses", "gpus")

    values = tmp_path / "values.yaml"
    async with cluster(tmp_path, with_karpenter):
        for name, missing in (("gpus", False), ("default", True)):
            values.write_text(yaml.safe_dump({"karpenter": {"enabled": True, "nodeClassRef": {"name": name}}}))
            _, found = await findings(tmp_path, "--values", str(values))
            text = f"there is no EC2NodeClass {name}"
            assert any(text in item["what"] for item in found["Karpenter"]) is missing


@pytest.mark.asyncio
async def test_a_cluster_that_cannot_be_reached_is_a_finding_with_a_remedy(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    write_kubeconfig(tmp_path, url)
    code, found = await findings(tmp_path)
    (only,) = found["kubernetes"]
    assert code == 2 and f"no cluster answers at {url}" in only["what"] and "kubectl version" in only["remedy"]
    assert set(found) == {"this machine", "kubernetes"}

    code, found = await findings(tmp_path, "--context", "nowhere")
    assert code == 2 and "nowhere" in found["kubernetes"][0]["what"]
    assert "get-contexts" in found["kubernetes"][0]["remedy"]

    (tmp_path / "kubeconfig").unlink()
    assert "no kubeconfig" in (await findings(tmp_path))[1]["kubernetes"][0]["what"]


def certificate(folder: Path, name: str, issuer: Any = None) -> Any:
    """A key and a certificate for 127.0.0.1 in `folder`, signed by `issuer` or by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer[0] if issuer else subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(hours=1))
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signing = issuer[1] if issuer else key
    builder = builder.add_extension(here, False).add_extension(x509.BasicConstraints(issuer is None, None), True)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    if issuer is None:  # Python 3.13 is strict about what a signer must be allowed to do
        no = dict.fromkeys(("content_commitment", "key_encipherment", "data_encipherment", "key_agreement"), False)
        may = {"digital_signature": True, "key_cert_sign": True, "crl_sign": True}
        usage = x509.KeyUsage(**no, **may, encipher_only=False, decipher_only=False)
        builder = builder.add_extension(usage, True)
    found = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), False).sign(
        signing, hashes.SHA256()
    )
    pem = serialization.Encoding.PEM
    (folder / f"{name}.crt").write_bytes(found.public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / f"{name}.key").write_bytes(key.private_bytes(pem, *plain))
    return subject, key


@pytest.mark.asyncio
async def test_certificates_of_the_kubeconfig_are_shown_and_checked(tmp_path: Path) -> None:
    """An API server behind TLS that knows people by their certificates, as most do for administrators."""
    from aiohttp import web

    authority = certificate(tmp_path, "authority")
    certificate(tmp_path, "server", authority)
    certificate(tmp_path, "olga", authority)
    certificate(tmp_path, "stranger")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "authority.crt"))
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    app = web.Application()
    app.router.add_get("/version", lambda _: asyncio.sleep(0, web.json_response({"gitVersion": "v1.36.2"})))
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        url = f"https://127.0.0.1:{runner.addresses[0][1]}"
        write_kubeconfig(tmp_path, url)
        config = yaml.safe_load((tmp_path / "kubeconfig").read_text())
        config["users"][0]["user"] = {
            "client-certificate": str(tmp_path / "olga.crt"),
            "client-key-data": base64.b64encode((tmp_path / "olga.key").read_bytes()).decode(),
        }
        for trusted, words in (
            ("authority", f"Kubernetes v1.36.2 at {url}"),
            ("stranger", "certificate verify failed"),
        ):
            config["clusters"][0]["cluster"] = {
                "server": url,
                "certificate-authority": str(tmp_path / f"{trusted}.crt"),
            }
            (tmp_path / "kubeconfig").write_text(yaml.safe_dump(config))
            _, found = await findings(tmp_path)
            assert words in found["kubernetes"][0]["what"]
    finally:
        await runner.cleanup()


@pytest.mark.asyncio
async def test_a_login_that_expired_is_told_from_a_cluster_that_is_down(tmp_path: Path) -> None:
    async with cluster(tmp_path) as server:
        write_kubeconfig(tmp_path, str(server.url).rstrip("/"), token="an old one")
        code, found = await findings(tmp_path)
    assert code == 2 and "does not let you in" in found["kubernetes"][0]["what"]


@pytest.mark.asyncio
async def test_a_wrong_values_file_is_an_error_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "values.yaml").write_text("storage: big\n")
    async with cluster(tmp_path) as server:
        code, out = await doctor(tmp_path, "--values", "values.yaml")
        assert code == 2 and "'storage' is a str, and the chart takes a dict" in out and not server.asked


def test_options_about_a_cluster_want_one(plumb: Any) -> None:
    said = plumb("doctor", "--context", "here")
    assert said.code == 2 and "add --cluster" in said.err


def test_the_exit_codes_are_documented(plumb: Any) -> None:
    out = plumb("doctor", "--help").out
    assert all(f"{code}  " in out for code in (0, 1, 2)) and "--strict" in out
