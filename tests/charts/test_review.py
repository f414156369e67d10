"""The review page as the chart renders it: what it can reach, who reaches it, and that the toolbox's links open it."""

import copy
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from backends import Backend, backend  # noqa: F401  (a fixture)
from chart_tools import Doc, pods
from test_installation import KEY, PLUMB, Here

from console.review_visitor import Visitor, opened_desk
from plumbline.feedback.pseudonyms import Pseudonyms
from plumbline.stores import Ledger
from plumbline.stores.database import utc_now

Render = Callable[..., list[Doc]]
NAME = "rel-plumbline-review"
GATEWAYS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}
ON_DISK = ("review.enabled=true", "review.publicUrl=http://localhost:8091")


def of(docs: list[Doc], kind: str, name: str = NAME) -> Doc:
    (found,) = [doc for doc in docs if doc["kind"] == kind and doc["metadata"]["name"] == name]
    return found


def test_the_page_is_given_the_ledger_and_nothing_else(render: Render) -> None:
    for docs, where in ((render("review"), set()), (render("default", *ON_DISK), {"/data"})):
        pod = of(docs, "Deployment")["spec"]["template"]["spec"]
        (page,) = pod["containers"]
        for one in (page, *pod["initContainers"]):
            assert [variable["name"] for variable in one["env"]] == ["PLUMBLINE_LEDGER"], (
                "no tenant key, no credentials"
            )
            assert {mount["mountPath"] for mount in one["volumeMounts"]} - {"/tmp"} == where
        assert {volume["name"] for volume in pod["volumes"]} - {"tmp"} == ({"data"} if where else set())
        assert ("affinity" in pod) == bool(where), "a ledger on a server ties nobody to a node"
    assert pod["affinity"]["podAffinity"], "beside the collector, where the ledger's file is"
    assert not [doc for doc in render("default") if "review" in doc["metadata"]["name"]], "off unless asked for"


def test_a_gateway_leads_to_the_page_by_its_public_url_and_only_what_stands_in_front_reaches_it(render: Render) -> None:
    docs = render("review")
    route = of(docs, "HTTPRoute")["spec"]
    assert route["parentRefs"] == [{"name": "public", "namespace": "gateways", "sectionName": "https"}], (
        "not without TLS"
    )
    assert route["hostnames"] == ["review.example.org"]
    (rule,) = route["rules"]
    assert rule["matches"] == [{"path": {"type": "PathPrefix", "value": "/desk"}}]
    assert rule["backendRefs"] == [{"name": of(docs, "Service")["metadata"]["name"], "port": 80}]
    policy = of(docs, "NetworkPolicy")["spec"]
    assert policy["ingress"] == [
        {"from": [{"podSelector": {}}, GATEWAYS], "ports": [{"port": 8080, "protocol": "TCP"}]}
    ]
    stores = of(docs, "NetworkPolicy", "rel-plumbline-stores")["spec"]["podSelector"]["matchExpressions"][0]
    assert "review" in stores["values"], "it reaches the ledger's server"
    at_root = render(
        "review",
        "review.publicUrl=https://Review.Example.org:8443/",
        "review.gateway.namespace=",
        "review.gateway.sectionName=",
    )
    route = of(at_root, "HTTPRoute")["spec"]
    assert route["hostnames"] == ["review.example.org"] and route["parentRefs"] == [{"name": "public"}]
    assert route["rules"][0]["matches"][0]["path"]["value"] == "/"
    assert not [doc for doc in render("default", *ON_DISK) if doc["kind"] == "HTTPRoute"]


def test_the_start_up_check_asks_the_page_too_and_may(render: Render) -> None:
    docs = render("review")
    (check,) = [pod for doc in docs for name, pod in pods(doc) if doc["kind"] == "Job" and "-check-" in name]
    assert f"--healthy=http://{NAME}.demo.svc.cluster.local/healthz" in check["containers"][0]["args"]
    (rule,) = of(docs, "NetworkPolicy", "rel-plumbline-check")["spec"]["egress"]
    assert "review" in rule["to"][0]["podSelector"]["matchExpressions"][0]["values"]
    page = of(render("review", "priorityClasses.enabled=true"), "Deployment")["spec"]["template"]["spec"]
    assert page["priorityClassName"] == "rel-plumbline-users", "people wait for it"


def test_a_link_made_in_the_toolbox_opens_the_page(render: Render, tmp_path: Path, backend: Backend) -> None:  # noqa: F811
    """Both containers' commands and environments, as processes of this machine, over one ledger."""
    opened_desk(backend.ledger, utc_now).ledger.close()
    here = Here(copy.deepcopy(render("review")), tmp_path, backend)
    here.secrets["url"] = str(backend.ledger)
    here.containers["Deployment/rel-plumbline-toolbox/toolbox"]["args"] = []
    with here.stack:
        page = here.start(f"Deployment/{NAME}/review", at=NAME)
        assert page.stdout is not None
        assert "reviewing at https://review.example.org/desk" in page.stdout.readline()
        _, environment = here.command("Deployment/rel-plumbline-toolbox/toolbox")
        done = subprocess.run(
            [PLUMB, "review", "invite", "rita"], env=environment, capture_output=True, text=True, check=True
        )
        url, _, token = done.stdout.strip().partition("/enter?token=")
        bound = here.places[f"http://{NAME}.demo.svc.cluster.local"]
        rita = Visitor(SimpleNamespace(url=url, bound=bound))  # type: ignore[arg-type]
        assert rita.ask("/healthz", host="10.0.0.7:8080")[0] == 200, "the kubelet asks by address"
        assert rita.ask("/desk/enter", token=token)[0] == 303
        assert "Does this answer follow the rubric?" in rita.ask("/desk/")[1]
        page.send_signal(signal.SIGTERM)
        assert page.wait(30) == 0
    with Ledger(backend.ledger) as ledger:
        who = ledger.database.value("SELECT person FROM review_invitation")
    assert who == Pseudonyms(bytes.fromhex(KEY)).of("rita")
