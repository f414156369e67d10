"""The KServe predictor: policies behind KServe's own server, with OpenAI-compatible routes that need no vLLM.

    python -m plumbline.serving.predictor --policy DIR --name reference --port 8080
    python -m plumbline.serving.predictor --policy reference=DIR --policy aligned=DIR --port 8080

Routes, each under both `/openai/v1` (KServe's prefix) and `/v1` (vLLM's):

    POST chat/completions   JSON, or server-sent events with stream=true
    POST completions        raw text, no template
    GET  models, models/NAME   KServe's and OpenAI's shapes merged: {"models": [..], "object": "list", "data": [..]}

KServe's remain: /v1/models/NAME:predict, /v2/health/{live,ready}, /v2/models, /metrics. Its `/v1/models` would clash
with OpenAI's, so ours comes first and answers both kinds of client. The socket listens only after every policy has
loaded, so a probe of /v2/health/ready can never see a server without weights. `/metrics` is KServe's, over the
process-wide Prometheus registry; ours are registered into it.

Not supported: n > 1, tools, penalties, another template; each is refused by name. Guardrails are loaded by whoever
knows them: `python -m plumbline.cli.serve` is this command with `--guardrail FILE`.
"""

import argparse
import gc
import logging
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from prometheus_client import REGISTRY

from plumbline.errors import PlumblineError
from plumbline.metrics import Metrics
from plumbline.processes import leave_with_parent
from plumbline.serving import openai_api as wire
from plumbline.serving.api import Api, on_api_error
from plumbline.serving.batcher import Batcher
from plumbline.serving.guards import LoadGuards
from plumbline.serving.kserve_sdk import FASTAPI_APP_IMPORT_STRING, ModelServer, RESTServer, app
from plumbline.serving.models import PolicyModel
from plumbline.serving.schema import document
from plumbline.sockets import listen

MAX_WAITING = 1024


def serve(
    policies: Mapping[str, Path],
    bound: socket.socket,
    *,
    leg: str | None = None,
    load_guards: LoadGuards | None = None,
    max_waiting: int = MAX_WAITING,
) -> None:
    """Load, then serve until SIGTERM on a socket that is bound but does not listen yet."""
    metrics = Metrics(registry=REGISTRY)
    models: dict[str, PolicyModel] = {}
    server = ModelServer(http_port=bound.getsockname()[1], enable_grpc=False, enable_latency_logging=False)
    _quiet_request_logs()
    for name, directory in policies.items():
        model = PolicyModel(name, directory, metrics, leg, load_guards, max_waiting)
        model.load()
        server.register_model(model)
        models[name] = model
    _watch_load(models, metrics)
    gc.collect()
    gc.freeze()  # what is loaded stays: no request waits for a look through it
    app.include_router(Api(models).router())
    app.add_exception_handler(wire.ApiError, on_api_error)
    described = document(list(models), min(model.policy.context for model in models.values()))
    app.openapi = lambda: described
    rest = RESTServer(
        FASTAPI_APP_IMPORT_STRING, server.dataplane, server.model_repository_extension, server.http_port, grace_period=5
    )
    try:
        rest.run(sockets=[bound])
    finally:
        for model in models.values():
            model.batcher.close()


def _watch_load(models: Mapping[str, PolicyModel], metrics: Metrics) -> None:
    """Slots and queues are looked at when somebody scrapes."""
    for leg in {model.leg for model in models.values()}:
        mine = [model.batcher for model in models.values() if model.leg == leg]
        for name, part in (("plumbline_slots_busy", 0), ("plumbline_requests_waiting", 1)):
            metrics.gauge(name).labels(leg).set_function(partial(_sum, mine, part))


def _sum(batchers: Sequence[Batcher], part: int) -> float:
    return float(sum(batcher.load[part] for batcher in batchers))


def _quiet_request_logs() -> None:
    """KServe writes three lines per request; they say nothing that the metrics do not, and cost throughput."""
    access = logging.getLogger("uvicorn.access")
    access.handlers.clear()
    access.propagate = False
    logging.getLogger("kserve.trace").setLevel(logging.WARNING)


def read_policies(given: Sequence[str], name: str | None) -> dict[str, Path]:
    """`DIR` (named by --name), or `NAME=DIR` any number of times."""
    policies: dict[str, Path] = {}
    for text in given:
        label, _, directory = text.rpartition("=")
        label = label or name or Path(directory).name
        if label in policies:
            raise PlumblineError(
                f"two policies are named {label!r}",
                consequence="nothing was served, since a request could not say which it means",
                remedy="give each its own name: --policy NAME=DIR",
            )
        policies[label] = Path(directory)
    return policies


def main(argv: Sequence[str] | None = None, guards_from: Callable[[Sequence[Path]], LoadGuards] | None = None) -> None:
    """Parse, bind, load, serve. Exits 2 with a remedy on anything a user can put right. `guards_from` reads guardrail
    files; without it there is no --guardrail."""
    parser = argparse.ArgumentParser(prog="python -m plumbline.serving.predictor", allow_abbrev=False)
    parser.add_argument("--policy", action="append", required=True, metavar="[NAME=]DIR")
    parser.add_argument("--name", help="name of a single policy (default: its directory's)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 in a container (default: loopback only)")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--leg", choices=["reference", "aligned"], help="metrics label (default: the manifest's role)")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's choice)")
    parser.add_argument(
        "--max-waiting", type=int, default=MAX_WAITING, help="requests beyond it are told to come again"
    )
    parser.add_argument("--fd", type=int, help="inherited socket to serve on, instead of --host and --port")
    parser.add_argument("--leave-with-parent", action="store_true", help="end when standard input closes")
    if guards_from is not None:
        parser.add_argument("--guardrail", action="append", default=[], type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    try:
        policies = read_policies(options.policy, options.name)
        load_guards = None if guards_from is None else guards_from(options.guardrail)
        bound = listen(options.host, options.port) if options.fd is None else socket.socket(fileno=options.fd)
        if options.leave_with_parent:
            leave_with_parent()
        if options.threads:
            import torch

            torch.set_num_threads(options.threads)
        serve(policies, bound, leg=options.leg, load_guards=load_guards, max_waiting=options.max_waiting)
    except PlumblineError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
