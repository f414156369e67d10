"""Running a shadow experiment: router, worker and monitor, each with an event loop of its own, over one spool.

`start_shadow` runs all in threads of this process, for a laptop and for tests. `plumb shadow` runs the router, and
`plumb shadow replay --follow` (`replay`) as a process of its own for worker and monitor: in one process they take turns
with the router, and users wait for that. Without an aligned policy, or with `worker=False`, only the router runs; a
worker elsewhere, or later, drains the spool.

An A/B experiment does not start without a passed shadow verdict about the very two policies that both ends state; where
users come first its router does, and begins it once there is one.
"""

import asyncio
import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn

from plumbline.errors import PlumblineError
from plumbline.metrics import Metrics
from plumbline.records import Pair, ShadowCounts
from plumbline.shadow.accounting import Accounting
from plumbline.shadow.aligned_leg import AlignedLeg
from plumbline.shadow.grounds import LOOK_S, Grounds, Passed, no_verdict
from plumbline.shadow.legs import Stated, Token, Upstream, require_comparable, token, upstream
from plumbline.shadow.recorder import Consent, Head, Recorder, nobody
from plumbline.shadow.router import Router
from plumbline.shadow.sampling import Experiment
from plumbline.shadow.spool import Spool
from plumbline.shadow.sweeping import Leaving, Sweeper
from plumbline.shadow.switch import Switch
from plumbline.shadow.worker import Judge, Worker
from plumbline.sockets import listen


class ShadowRun:
    """A running experiment. `url` is the router's root, `openai_url` the base for an OpenAI client.

    `monitor` makes the ASGI application that watches (`Monitor`), served at `monitor_port`. `passed` looks up a passed
    shadow verdict, which mode `ab` needs. `leaving` is who withdrew, whose words the worker erases; `head` the consent
    ledger's last entry. Files with tokens are the legs' own keys: the worker's, and, towards the
    aligned policy, the router's. `unsaid` tells what of the two endpoints could not be compared. With `users_first`
    what is wrong with the aligned policy is said there too, and the run starts: a router that comes up again in the
    users' path must not wait for a candidate.
    """

    def __init__(
        self,
        experiment: Experiment,
        reference_url: str,
        aligned_url: str | None,
        spool_dir: Path,
        *,
        consent: Consent = nobody,
        head: Head | None = None,
        leaving: Leaving | None = None,
        judge: Judge | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        worker: bool = True,
        concurrency: int = 8,
        deadline_s: float = 30.0,
        aligned_token: Path | None = None,
        reference_token: Path | None = None,
        passed: Passed | None = None,
        monitor: Callable[[Spool, Metrics], Any] | None = None,
        monitor_port: int = 0,
        users_first: bool = False,
    ) -> None:
        if experiment.mode == "aa":
            aligned_url, aligned_token = aligned_url or reference_url, aligned_token or reference_token
        reference_key, aligned_key = token(reference_token), token(aligned_token)
        asked = upstream(experiment, "reference", reference_url, reference_key)
        grounds = None
        if experiment.mode == "ab" and aligned_url is not None:
            grounds = Grounds(asked, upstream(experiment, "aligned", aligned_url, aligned_key), passed)
        try:
            self.unsaid = _sound(experiment, asked, aligned_url, aligned_key, grounds)
        except PlumblineError as error:
            if not users_first:
                raise
            self.unsaid = [f"{error.fact}; users get the reference, all of them, whatever the mode"]
            if grounds is not None:
                grounds.refuse(error)
                self.unsaid[0] += f", until a look finds it mended (one every {LOOK_S:g} s)"
        self._bound = listen(host, port)
        watched = None if monitor is None else listen(host, monitor_port)
        self.metrics = Metrics()
        self.spool = Spool(spool_dir, experiment)
        self.recorder = Recorder(self.spool, consent, head)
        answering = None
        if grounds is not None:
            name, switch = experiment.reference_model, Switch(self.spool)
            answering = AlignedLeg(name, grounds, switch, self.spool, patience_s=deadline_s)
        self.router = Router(experiment, reference_url, self.recorder, self.metrics, aligned=answering)
        self.worker = None
        if aligned_url is not None and worker:
            self.worker = Worker(
                self.spool,
                aligned_url,
                reference_url=reference_url,
                aligned_token=aligned_key,
                reference_token=reference_key,
                consent=consent,
                sweeper=None if leaving is None else Sweeper(self.spool, leaving),
                metrics=self.metrics,
                judge=judge,
                concurrency=concurrency,
                deadline_s=deadline_s,
            )
        self.metrics.registry.register(Accounting(self.spool, answering))
        self.monitor = None if monitor is None else monitor(self.spool, self.metrics)
        self._monitoring = None if watched is None else Served(self.monitor, watched)
        self.host, self.port = host, int(self._bound.getsockname()[1])
        self._bound.listen(2048)  # who asks from now on waits for the start, and is not turned away
        self.server = _server(self.router)
        self._stop: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._worker_thread: threading.Thread | None = None
        self._router_thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/openai/v1"

    @property
    def monitor_url(self) -> str | None:
        return None if self._monitoring is None else self._monitoring.url

    def start(self) -> "ShadowRun":
        """Start router, worker and monitor in threads; returns once the router takes requests."""
        self.start_worker()
        if self._monitoring is not None:
            self._monitoring.start()
        self.recorder.start()
        self._router_thread = threading.Thread(target=self.server.run, args=([self._bound],), name="plumbline-router")
        self._router_thread.daemon = True
        self._router_thread.start()
        while not self.server.started:
            if not self._router_thread.is_alive():
                raise PlumblineError(
                    "the shadow router ended while it started",
                    consequence="no request was served",
                    remedy="read the log above; the port may have been taken",
                )
            time.sleep(0.005)
        return self

    def serve(self) -> None:
        """Run the router here, until SIGTERM or SIGINT, with the worker beside it; what was served is then recorded.

        uvicorn raises the signal again once it has shut down, which would end us before that: so it is caught here. One
        that comes before uvicorn listens for it ends the server as soon as it has started.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self.server, "should_exit", True))
        self.start_worker()
        if self._monitoring is not None:
            self._monitoring.start()
        self.recorder.start()
        self.server.run([self._bound])
        self.close()

    def start_worker(self) -> None:
        if self.worker is None:
            return
        started = threading.Event()

        async def work(worker: Worker) -> None:
            stop = asyncio.Event()
            self._stop = (asyncio.get_running_loop(), stop)
            started.set()
            await worker.run(stop)

        self._worker_thread = threading.Thread(target=asyncio.run, args=(work(self.worker),), name="plumbline-worker")
        self._worker_thread.daemon = True
        self._worker_thread.start()
        started.wait()

    def counts(self) -> ShadowCounts:
        return self.spool.counts()

    def pairs(self) -> list[Pair]:
        return list(self.spool.pairs())

    def drain(self, timeout_s: float = 60.0) -> bool:
        """Wait until every request served so far is paired or shed; False when the time is up first."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            settled = self.router.active == 0 and self.recorder.flush(max(0.01, until - time.monotonic()))
            if settled and (self.worker is None or self.spool.waiting() == 0):
                return True
            time.sleep(0.02)
        return False

    def close(self) -> None:
        """Stop the router, record what it served, stop the worker. What still waits stays in the spool."""
        self.server.should_exit = True
        if self._router_thread is not None:
            self._router_thread.join(timeout=15)
        self.recorder.close()
        if self._stop is not None and self._worker_thread is not None:
            loop, stop = self._stop
            if self._worker_thread.is_alive():
                loop.call_soon_threadsafe(stop.set)
            self._worker_thread.join(timeout=15)
        if self._monitoring is not None:
            self._monitoring.stop()
        self.spool.close()

    def __enter__(self) -> "ShadowRun":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def start_shadow(
    reference_url: str, aligned_url: str | None, spool_dir: Path, experiment: Experiment, **options: Any
) -> ShadowRun:
    """Start router and worker in this process. URLs are bases of OpenAI-compatible endpoints (ending in /v1).

    `options` are those of `ShadowRun`; `consent(subject)` decides, by default against everyone. Raises PlumblineError
    for a port in use, endpoints that do not compare, or a spool that belongs to another experiment. Close the run, or
    use it as a context manager.
    """
    return ShadowRun(experiment, reference_url, aligned_url, spool_dir, **options).start()


def worker_for(
    spool: Spool,
    aligned_url: str | None,
    *,
    reference_url: str | None = None,
    aligned_token: Path | None = None,
    reference_token: Path | None = None,
    **options: Any,
) -> Worker:
    """The worker of a spool's experiment. In an A/A experiment it asks the reference, wherever that is named; an A/B
    experiment needs both. PlumblineError where the one to ask is not named; `options` are those of `Worker`."""
    mode = spool.experiment.mode
    if mode == "aa":
        aligned_url, aligned_token = aligned_url or reference_url, aligned_token or reference_token
    missing = "reference" if mode == "ab" and reference_url is None else "aligned" if aligned_url is None else None
    if aligned_url is None or missing:
        raise PlumblineError(
            f"{spool.experiment.name!r} is an experiment of mode {mode}, and its worker is not told whom to ask",
            consequence="nobody was asked",
            remedy=f"name the {'reference' if mode == 'aa' else missing} too, with --{missing} URL",
        )
    keys: dict[str, Any] = {"aligned_token": token(aligned_token), "reference_token": token(reference_token)}
    return Worker(spool, aligned_url, reference_url=reference_url, **keys, **options)


def replay(
    spool: Spool,
    aligned_url: str | None,
    *,
    follow: bool = False,
    unreachable_s: float = 60.0,
    monitor: tuple[Any, socket.socket] | None = None,
    **options: Any,
) -> None:
    """Ask the other policy everything that waits in a spool: offline shadow, by the same code.

    `options` are those of `worker_for`. Returns when nothing waits any more; with `follow`, on SIGTERM or SIGINT, for a
    worker that runs beside a router and for which a policy that is down is no error. Without it, PlumblineError after
    `unreachable_s`, or while the kill switch is thrown. `monitor`, an application and the socket it is asked at, is
    served meanwhile.
    """
    worker = worker_for(spool, aligned_url, **options)

    async def work() -> None:
        stop = asyncio.Event()
        if follow:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            await worker.run(stop)
        else:
            ending = asyncio.Event()
            ending.set()
            await worker.run(stop, ending=ending, unreachable_s=unreachable_s)

    with contextlib.nullcontext() if monitor is None else Served(*monitor):
        asyncio.run(work())


class Served:
    """An ASGI application, served from a thread between `start` and `stop`."""

    def __init__(self, app: Any, bound: socket.socket) -> None:
        bound.listen(2048)
        self.bound = bound
        self.server = _server(app)
        self.thread = threading.Thread(target=self.server.run, args=([bound],), name="plumbline-monitor", daemon=True)

    @property
    def url(self) -> str:
        host, port = self.bound.getsockname()[:2]
        return f"http://{host}:{port}"

    def start(self) -> "Served":
        self.thread.start()
        return self

    def stop(self) -> None:
        self.server.should_exit = True
        if self.thread.ident is not None:
            self.thread.join(timeout=15)

    def __enter__(self) -> "Served":
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.stop()


def _server(app: Any) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            log_level="warning",
            timeout_keep_alive=65,
            timeout_graceful_shutdown=5,
        )
    )


def comparable(
    experiment: Experiment, reference: Upstream, aligned_url: str | None, aligned_key: Token | None
) -> tuple[Stated, Stated, list[str]]:
    """What both ends state, once it is sure that they may be compared, and what is not sure, in words.

    PlumblineError for different templates or decoder defaults, for a model that is not served, and for an A/A
    experiment of two policies.
    """
    if aligned_url is None:
        return Stated(), Stated(), []
    again = experiment.reference_model if experiment.mode == "aa" else None
    found = require_comparable(reference, upstream(experiment, "aligned", aligned_url, aligned_key, model=again))
    if experiment.mode == "aa" and found[0].policy != found[1].policy:
        raise PlumblineError(
            f"an A/A experiment asks one policy twice, these are {found[0].policy[:19]} and {found[1].policy[:19]}",
            consequence="nothing was started: a difference would not be noise",
            remedy="leave --aligned out, or name the reference's URL there too",
        )
    return found


def _sound(
    experiment: Experiment,
    reference: Upstream,
    aligned_url: str | None,
    aligned_key: Token | None,
    grounds: Grounds | None,
) -> list[str]:
    """What could not be compared, in words. PlumblineError for what must not begin."""
    one, other, unsaid = comparable(experiment, reference, aligned_url, aligned_key)
    if experiment.mode == "ab" and grounds is None:
        raise no_verdict(one, other)
    if grounds is not None and (wrong := grounds.judge(one, other)) is not None:
        raise wrong
    return unsaid
