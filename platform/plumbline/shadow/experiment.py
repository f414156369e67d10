"""Running a shadow experiment: router and worker, each with an event loop of its own, over one spool.

`start_shadow` runs both in threads of this process, for a laptop. Standing alone (a router pod):

    python -m plumbline.shadow.experiment --experiment FILE.json --spool DIR \\
        --reference http://reference/openai/v1 [--aligned http://aligned/openai/v1] --port 8080

Without `--aligned` only the router runs; a worker elsewhere, or later, drains the spool. FILE.json is an `Experiment`.
"""

import asyncio
import signal
import threading
import time
from pathlib import Path
from types import TracebackType

import uvicorn

from plumbline.errors import PlumblineError
from plumbline.metrics import Metrics
from plumbline.records import Pair, ShadowCounts
from plumbline.shadow.recorder import Consent, Recorder, nobody
from plumbline.shadow.router import Router
from plumbline.shadow.sampling import Experiment
from plumbline.shadow.spool import Accounting, Spool
from plumbline.shadow.worker import Judge, Worker
from plumbline.sockets import listen


class ShadowRun:
    """A running experiment. `url` is the router's root, `openai_url` the base for an OpenAI client."""

    def __init__(
        self,
        experiment: Experiment,
        reference_url: str,
        aligned_url: str | None,
        spool_dir: Path,
        *,
        consent: Consent = nobody,
        judge: Judge | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        concurrency: int = 8,
        deadline_s: float = 30.0,
    ) -> None:
        self.metrics = Metrics()
        self.spool = Spool(spool_dir, experiment)
        self.recorder = Recorder(self.spool, consent)
        self.router = Router(experiment, reference_url, self.recorder, self.metrics)
        self.worker = None
        if aligned_url is not None:
            self.worker = Worker(
                self.spool,
                aligned_url,
                consent=consent,
                metrics=self.metrics,
                judge=judge,
                concurrency=concurrency,
                deadline_s=deadline_s,
            )
        self.metrics.registry.register(Accounting(self.spool))
        self._bound = listen(host, port)
        self.host, self.port = host, int(self._bound.getsockname()[1])
        config = uvicorn.Config(
            self.router,
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            log_level="warning",
            timeout_keep_alive=65,
            timeout_graceful_shutdown=5,
        )
        self.server = uvicorn.Server(config)
        self._stop: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        self._worker_thread: threading.Thread | None = None
        self._router_thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/openai/v1"

    def start(self) -> "ShadowRun":
        """Start router and worker in threads; returns once the router takes requests."""
        self.start_worker()
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

        uvicorn raises the signal again once it has shut down, which would end us before that: so it is caught here.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        self.start_worker()
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
        self.spool.close()

    def __enter__(self) -> "ShadowRun":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def start_shadow(
    reference_url: str,
    aligned_url: str | None,
    spool_dir: Path,
    experiment: Experiment,
    *,
    consent: Consent = nobody,
    judge: Judge | None = None,
    port: int = 0,
    concurrency: int = 8,
    deadline_s: float = 30.0,
) -> ShadowRun:
    """Start router and worker in this process. URLs are bases of OpenAI-compatible endpoints (ending in /v1).

    `consent(subject)` decides, by default against everyone. Raises PlumblineError for a port in use or a spool that
    belongs to another experiment. Close the run, or use it as a context manager.
    """
    return ShadowRun(
        experiment,
        reference_url,
        aligned_url,
        spool_dir,
        consent=consent,
        judge=judge,
        port=port,
        concurrency=concurrency,
        deadline_s=deadline_s,
    ).start()


def replay(
    spool: Spool,
    aligned_url: str,
    *,
    consent: Consent,
    concurrency: int = 8,
    deadline_s: float = 30.0,
    follow: bool = False,
    unreachable_s: float = 60.0,
) -> None:
    """Ask the aligned policy everything that waits in a spool: offline shadow, by the same code.

    Returns when nothing waits any more; with `follow`, on SIGTERM or SIGINT, for a worker that runs beside a router
    and for which an aligned policy that is down is no error. Without it, PlumblineError after `unreachable_s`.
    """
    worker = Worker(spool, aligned_url, consent=consent, concurrency=concurrency, deadline_s=deadline_s)

    async def work() -> None:
        stop = asyncio.Event()
        if follow:
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            await worker.run(stop)
        else:
            await worker.run(stop, until_empty=True, unreachable_s=unreachable_s)

    asyncio.run(work())
