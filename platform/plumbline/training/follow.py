"""Following a run from outside: TensorBoard files, an MLflow run, Prometheus gauges.

All three are fed the lines that the run reports anyway (progress.jsonl, probes.jsonl), and the run does not depend on
them: what cannot be opened is said before the training starts, what breaks later is warned of once.
Not supported here: pushing to a Prometheus gateway.
"""

import contextlib
import importlib.util
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

from plumbline.errors import PlumblineError
from plumbline.metrics import Metrics
from plumbline.records import Objective
from plumbline.sockets import listen
from plumbline.training.trackers import Line, Outcome, TensorBoard, open_mlflow, said, warn

MOST_SLICES = 50  # label values per run: slices come from data, and each is a time series

GAUGES = {
    "plumbline_train_step": "step",
    "plumbline_train_steps": "steps",
    "plumbline_train_kl": "kl",
    "plumbline_train_learning_rate": "learning_rate",
    "plumbline_train_grad_norm": "grad_norm",
    "plumbline_train_mfu": "mfu",
    "plumbline_train_eta_seconds": "eta_seconds",
}


class Follower(Protocol):
    """Somebody who watches a run. `where` says, in a line for people, where it can be seen."""

    where: str

    def progress(self, line: Line) -> None: ...

    def probed(self, line: Line) -> None: ...

    def close(self, outcome: Outcome = "FINISHED") -> None: ...


@contextlib.contextmanager
def following(
    job_folder: Path,
    *,
    run: str,
    objective: Objective,
    metrics_port: int | None = None,
    metrics_host: str = "127.0.0.1",
) -> Iterator[list[Follower]]:
    """The followers that this environment asks for; none of their calls raises. They are closed with the block.

    TensorBoard when tensorboardX is installed, into JOB/tensorboard; MLflow when MLFLOW_TRACKING_URI is set;
    Prometheus when `metrics_port` is given (0 takes any free port: see `where`), at /metrics on `metrics_host`.
    Raises PlumblineError when the port is taken, or MLflow is not installed or does not answer.
    """
    followers: list[Follower] = []
    outcome: Outcome = "KILLED"
    try:
        if metrics_port is not None:
            followers.append(_Calm(Prometheus(run, metrics_host, metrics_port)))
        if uri := os.environ.get("MLFLOW_TRACKING_URI"):
            followers.append(_Calm(open_mlflow(job_folder, run, objective, uri)))
        if importlib.util.find_spec("tensorboardX") is not None:
            followers.append(_Calm(TensorBoard(job_folder / "tensorboard")))
        yield followers
        outcome = "FINISHED"
    except Exception:
        outcome = "FAILED"
        raise
    finally:
        for follower in reversed(followers):
            follower.close(outcome)


class _Calm:
    """A follower whose failures are warned of once and stop nothing."""

    def __init__(self, follower: Follower) -> None:
        self.where = follower.where
        self._follower, self._warned = follower, False

    def progress(self, line: Line) -> None:
        with self._calmly():
            self._follower.progress(line)

    def probed(self, line: Line) -> None:
        with self._calmly():
            self._follower.probed(line)

    def close(self, outcome: Outcome = "FINISHED") -> None:
        with self._calmly():
            self._follower.close(outcome)

    @contextlib.contextmanager
    def _calmly(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if not self._warned:
                self._warned = True
                warn(f"{self.where}: {said(error)}; the training goes on without")


# --- Prometheus -----------------------------------------------------------------------------------------------------


class Prometheus:
    """Gauges of one run at http://HOST:PORT/metrics, gone with the run.

    Series per run: some fifteen, one per slice (the first MOST_SLICES seen; `all` always) and two per probe. Each run
    name is a new label value, so old runs cost what Prometheus keeps of them, and no more once it forgets them.
    """

    def __init__(self, run: str, host: str, port: int) -> None:
        self.run, self.metrics = run, Metrics()
        self._slices: set[str] = set()
        try:
            bound = listen(host, port)
        except PlumblineError as error:
            raise PlumblineError(
                error.fact,
                consequence="nothing was trained: nobody could scrape the run",
                remedy="stop what listens there, or choose another --metrics-port (0 takes any free one)",
            ) from error
        self.url = f"http://{host}:{bound.getsockname()[1]}/metrics"
        self.where = f"Prometheus metrics at {self.url}"
        self._server = ThreadingHTTPServer((host, port), _scrape_handler(self.metrics), bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = bound
        self._server.server_activate()
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="plumbline-scrape", daemon=True).start()

    def progress(self, line: Line) -> None:
        gauge = self.metrics.gauge
        for name, key in GAUGES.items():
            if line.get(key) is not None:
                gauge(name).labels(self.run).set(line[key])
        for kind, total, rate in (
            ("real", "tokens", "tokens_per_second"),
            ("supervised", "supervised_tokens", "supervised_per_second"),
        ):
            if line.get(total) is not None:
                gauge("plumbline_train_tokens").labels(self.run, kind).set(line[total])
            if line.get(rate) is not None:
                gauge("plumbline_train_tokens_per_second").labels(self.run, kind).set(line[rate])
        for name, loss in line.get("slices", {}).items():
            if name in self._slices or len(self._slices) < MOST_SLICES:
                self._slices.add(name)
                gauge("plumbline_train_loss").labels(self.run, name).set(loss)
        gauge("plumbline_train_loss").labels(self.run, "all").set(line["loss"])

    def probed(self, line: Line) -> None:
        for name, rate in line["rates"].items():
            self.metrics.gauge("plumbline_train_probe").labels(self.run, name).set(rate)
            breach = line.get("breaches", {}).get(name, 0.0)
            self.metrics.gauge("plumbline_train_probe_breach").labels(self.run, name).set(breach)

    def close(self, outcome: Outcome = "FINISHED") -> None:
        self._server.shutdown()
        self._server.server_close()


def _scrape_handler(metrics: Metrics) -> type[BaseHTTPRequestHandler]:
    class Scrape(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            found = self.path.partition("?")[0] == "/metrics"
            body = metrics.render() if found else b"see /metrics\n"
            self.send_response(200 if found else 404)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8" if found else "text/plain")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Scrapes come every few seconds and say nothing."""

    return Scrape
