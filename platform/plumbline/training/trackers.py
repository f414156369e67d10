"""What keeps a run's curves after it has ended: TensorBoard event files, and an MLflow run.

Whoever resumes a run sees every step once: TensorBoard is told to forget what is done again, MLflow is sent only the
steps that it does not have, also those that were reported while it could not be reached. Both show the same scalars:

    loss/all          loss                                    loss/SLICE          slices[SLICE]
    train/...         epoch, kl, learning_rate, grad_norm, workers
    tokens/...        real, supervised (since the run began)
    speed/...         real_tokens_per_second, supervised_tokens_per_second, flops_per_second, mfu
    probe/NAME        rates[NAME]                             probe_breach/NAME   breaches[NAME], else 0

Texts (prompts, answers) go to neither: samples stay in probes.jsonl. Not supported here: uploading artifacts.
"""

import contextlib
import json
import logging
import os
import queue
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from plumbline.errors import PlumblineError
from plumbline.policies.files import write_durably
from plumbline.records import Objective

Line = Mapping[str, Any]
Outcome = Literal["FINISHED", "FAILED", "KILLED"]

CLOSING_SECONDS = 20.0  # how long the end of a run waits for MLflow
KEPT_POINTS = 100_000  # unsent MLflow points kept while its server is away
BATCH_POINTS = 500  # MLflow refuses more than 1000 in a request

SCALARS = {
    "train/epoch": "epoch",
    "train/kl": "kl",
    "train/learning_rate": "learning_rate",
    "train/grad_norm": "grad_norm",
    "train/workers": "workers",
    "tokens/real": "tokens",
    "tokens/supervised": "supervised_tokens",
    "speed/real_tokens_per_second": "tokens_per_second",
    "speed/supervised_tokens_per_second": "supervised_per_second",
    "speed/flops_per_second": "flops_per_second",
    "speed/mfu": "mfu",
    "loss/all": "loss",
}


# --- TensorBoard ----------------------------------------------------------------------------------------------------


class TensorBoard:
    """Event files, each line flushed as it comes.

    Written with tensorboardX's EventsWriter, not its SummaryWriter: that hands events to a thread through a queue of
    ten; when the disk is full the thread dies, and the eleventh event then blocks the training for good. A session
    that repeats steps begins a new file with a START event at the first of them, upon which TensorBoard forgets what
    it had read from there on (`purge_step`).
    """

    def __init__(self, folder: Path) -> None:
        self.where = f"TensorBoard files in {folder}"
        self._folder = folder
        self._writer: Any = None
        self._last_step = -1
        self._early: list[Line] = []  # probes that came before the first progress line told where the session begins

    def progress(self, line: Line) -> None:
        if self._writer is None or line["step"] <= self._last_step:
            self._begin(line["step"])
        self._last_step = line["step"]
        self._write(line, _progress_scalars(line))
        early, self._early = self._early, []
        for probe in early:
            self.probed(probe)

    def probed(self, line: Line) -> None:
        if self._writer is None:
            self._early.append(line)
        else:
            self._write(line, _probe_scalars(line))

    def close(self, outcome: Outcome = "FINISHED") -> None:
        if self._writer is None and self._early:
            self._begin(self._early[0]["step"])
            for probe in self._early:
                self.probed(probe)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _begin(self, step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        if self._writer is not None:
            self._writer.close()
        folder = self._folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        earlier = sum(1 for _ in folder.glob("events.out.tfevents.*"))
        # Files are named to the second, and a second one of that name would empty the first: hence the count.
        self._writer = EventsWriter(str(folder / "events"), f".{earlier:05d}")
        if earlier:
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(wall_time=time.time(), step=step, session_log=start))

    def _write(self, line: Line, scalars: Mapping[str, float]) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._writer.write_event(Event(wall_time=time.time(), step=line["step"], summary=Summary(value=values)))
        self._writer.flush()


# --- MLflow ---------------------------------------------------------------------------------------------------------


class MLflow:
    """An MLflow run, fed by a thread of its own: a slow server must not slow the training.

    `known` and `probed` are the steps that the server has. Points that could not be sent are kept and sent with the
    next ones; those that a killed process took with it are sent when the run is resumed.
    """

    def __init__(self, client: Any, run_id: str, where: str, known: set[int], probed: set[int]) -> None:
        self.where, self.run_id = where, run_id
        self._client, self._known, self._probed = client, known, probed
        self._outcome: Outcome = "FINISHED"
        self._inbox: queue.SimpleQueue[list[tuple[str, float, int, int]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._deliver, name="plumbline-mlflow", daemon=True)
        self._thread.start()

    def progress(self, line: Line) -> None:
        self._post(line, _progress_scalars(line), self._known)

    def probed(self, line: Line) -> None:
        self._post(line, _probe_scalars(line), self._probed)

    def close(self, outcome: Outcome = "FINISHED") -> None:
        self._outcome = outcome
        self._inbox.put(None)
        self._thread.join(CLOSING_SECONDS)
        if self._thread.is_alive():
            warn(f"{self.where}: no answer for {CLOSING_SECONDS:g} s; the end of the run is in progress.jsonl only")

    def _post(self, line: Line, scalars: Mapping[str, float], known: set[int]) -> None:
        if line["step"] not in known:
            known.add(line["step"])
            now = int(time.time() * 1000)
            self._inbox.put([(name, value, now, line["step"]) for name, value in scalars.items()])

    def _deliver(self) -> None:
        from mlflow.entities import Metric

        waiting: list[Any] = []
        ending = warned = False
        while not ending:
            posted = [self._inbox.get()]
            while not self._inbox.empty():
                posted.append(self._inbox.get())
            ending = None in posted
            waiting += [Metric(*point) for points in posted for point in points or ()]
            try:
                while waiting:
                    self._client.log_batch(self.run_id, metrics=waiting[:BATCH_POINTS], synchronous=True)
                    del waiting[:BATCH_POINTS]
                if ending:
                    self._client.set_terminated(self.run_id, status=self._outcome)
            except Exception as error:
                if not warned:
                    warn(f"{self.where}: {said(error)}; the training goes on, and sending is tried again")
                warned = True
            del waiting[:-KEPT_POINTS]
        if waiting:
            warn(f"{self.where}: {len(waiting)} points were not delivered; progress.jsonl has them")


def open_mlflow(job_folder: Path, run: str, objective: Objective, uri: str) -> MLflow:
    """The job's MLflow run, begun or gone on with: its id is kept in JOB/mlflow-run.

    Raises PlumblineError when MLflow is not installed or the server does not take the run: better before the GPUs
    are asked for than after. Nothing is sent anywhere but to `uri`.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"  # read while mlflow is imported
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # stdout is the command's, and may be JSON
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # its own 7, of 120 s each, take over four minutes
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    place = _redacted(uri)
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise PlumblineError(
            f"MLFLOW_TRACKING_URI is set to {place}, and MLflow is not installed",
            consequence="nothing was trained: the run would not be where you look for it",
            remedy="pip install 'plumbline[tracking]', or unset MLFLOW_TRACKING_URI",
        ) from error
    try:
        client = MlflowClient(tracking_uri=uri)
        run_id = _mlflow_run(client, job_folder, run, objective)
        known, probed = (_mlflow_steps(client, run_id, prefix) for prefix in ("loss/all", "probe/"))
    except Exception as error:
        raise PlumblineError(
            f"MLflow at {place} does not take the run: {said(error)}",
            consequence="nothing was trained: the run would not be where you look for it",
            remedy="start the tracking server, or put MLFLOW_TRACKING_URI right (a folder or a database needs the full "
            "mlflow package, an http(s) server does not), or unset it",
        ) from error
    follower = MLflow(client, run_id, f"MLflow run {run_id} at {place}", known, probed)
    for name, hand_over in (("progress.jsonl", follower.progress), ("probes.jsonl", follower.probed)):
        for line in _lines(job_folder / name):
            hand_over(line)
    return follower


def _mlflow_run(client: Any, job_folder: Path, run: str, objective: Objective) -> str:
    """The id of the run in JOB/mlflow-run if this server has it, else of a new one."""
    from mlflow.entities import Param
    from mlflow.exceptions import MlflowException

    remembered = job_folder / "mlflow-run"
    if remembered.is_file():
        run_id = remembered.read_text().strip()
        try:
            if client.get_run(run_id).info.lifecycle_stage == "active":
                client.update_run(run_id, status="RUNNING")
                return run_id
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
    tags = {
        "plumbline.objective": objective.digest,
        "plumbline.dataset": objective.dataset,
        "plumbline.base_policy": objective.base_policy,
        "plumbline.template": objective.template,
        "plumbline.rubric": objective.rubric,
    }
    made: str = client.create_run(_mlflow_experiment(client), run_name=run, tags=tags).info.run_id
    fields = [Param(key, value) for key, value in flat(objective.model_dump(mode="json")).items()]
    for begin in range(0, len(fields), 100):
        client.log_batch(made, params=fields[begin : begin + 100], synchronous=True)
    job_folder.mkdir(parents=True, exist_ok=True)
    write_durably(remembered, made.encode())
    return made


def _mlflow_experiment(client: Any) -> str:
    """MLflow's own variables name the experiment; without them it is `plumbline`, made when it is not there."""
    if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
        return given
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "plumbline"
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found is not None else client.create_experiment(name))


def _mlflow_steps(client: Any, run_id: str, prefix: str) -> set[int]:
    """The steps for which the server has a metric whose name begins so."""
    names = [name for name in client.get_run(run_id).data.metrics if name.startswith(prefix)]
    return {point.step for name in names for point in client.get_metric_history(run_id, name)}


# --- lines, names, texts --------------------------------------------------------------------------------------------


def _progress_scalars(line: Line) -> dict[str, float]:
    scalars = {f"loss/{_name(key)}": value for key, value in line.get("slices", {}).items()}
    scalars |= {name: line.get(key) for name, key in SCALARS.items()}
    return {name: float(value) for name, value in scalars.items() if value is not None}


def _probe_scalars(line: Line) -> dict[str, float]:
    breaches = line.get("breaches", {})
    return {
        **{f"probe/{_name(key)}": float(rate) for key, rate in line["rates"].items()},
        **{f"probe_breach/{_name(key)}": float(breaches.get(key, 0.0)) for key in line["rates"]},
    }


def flat(value: Any, key: str = "") -> dict[str, str]:
    """Nested fields as MLflow's flat parameters: {"kl": {"weight": 0.1}} gives {"kl.weight": "0.1"}."""
    if isinstance(value, dict) and value:
        inner = [flat(item, f"{key}.{_name(name)}" if key else _name(name)) for name, item in value.items()]
        return {name: text for part in inner for name, text in part.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {key: ", ".join(map(str, value))}
    return {key: "" if value is None or value == {} else str(value)}


def _name(text: str) -> str:
    """A slice's or probe's name as both trackers take it: other characters than word characters by their code."""
    return re.sub(r"[^\w-]", lambda found: f"_{ord(found.group()):x}_", text)[:120]


def _lines(path: Path) -> Iterator[Line]:
    """Lines of a progress file; one that a kill cut short is left out."""
    if path.is_file():
        for text in path.read_text("utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                yield json.loads(text)


def _redacted(text: str) -> str:
    return re.sub(r"//[^/@\s]*@", "//", text)


def said(error: BaseException) -> str:
    """An exception in a line: what the system said, where that is at the bottom of it (a connection refused, a full
    disk), and without the credentials that a URI in it may hold."""
    bottom = error
    while (below := bottom.__cause__ or bottom.__context__) is not None:
        bottom = below
    shown = bottom if isinstance(bottom, OSError) else error
    text = _redacted(" ".join(str(shown).split()))
    return (text if len(text) <= 300 else text[:299] + "\u2026") or type(shown).__name__


def warn(text: str) -> None:
    logging.getLogger("plumbline").warning(text)
