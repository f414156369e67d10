"""Following a run: every step once whoever resumes, nothing sent elsewhere, and no failure that stops the training."""

import json
import math
import os
import socket
import struct
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from plumbline.errors import PlumblineError
from plumbline.records import KlTerm, Objective, Optimiser, digest_of
from plumbline.training.follow import MOST_SLICES, Prometheus, following
from plumbline.training.trackers import flat

OBJECTIVE = Objective(
    dataset=digest_of("dataset"),
    base_policy=digest_of("base"),
    template=digest_of("template"),
    rubric=digest_of("rubric"),
    optimiser=Optimiser(learning_rate=1e-4),
    slice_weights={"refusals": 2.0, "how to?": 0.5},
    kl=KlTerm(weight=0.1, slices=("facts", "refusals")),
)


def window(step: int, **changes: Any) -> dict[str, Any]:
    line = {
        "step": step, "steps": 200, "epoch": step / 100, "loss": 2.0 - step / 100,
        "slices": {"facts": 1.5, "how to?": 0.5}, "kl": 0.01, "learning_rate": 1e-5, "grad_norm": 0.8,
        "supervised_tokens": step * 100, "tokens": step * 400, "supervised_per_second": 900.0,
        "tokens_per_second": 4000.0, "flops_per_second": 1.2e12, "mfu": None, "eta_seconds": 33.0, "seconds": 12.0,
        "workers": 2,
    }  # fmt: skip
    return {**line, **changes}


def probe(step: int, **changes: Any) -> dict[str, Any]:
    line = {
        "step": step, "rates": {"refusal_benign": 0.25, "base_skill": 0.9}, "counts": {"refusal_benign": 32},
        "breaches": {"refusal_benign": 0.2},
        "samples": [{"probe": "refusal_benign", "prompt": "secret prompt", "answer": "secret answer", "verdict": "x"}],
    }  # fmt: skip
    return {**line, **changes}


def append(file: Path, line: dict[str, Any]) -> None:
    with file.open("a") as stream:
        stream.write(json.dumps(line) + "\n")


@pytest.fixture(autouse=True)
def no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    # What opening a run sets for its process is put back after the test.
    for name in ("DISABLE_TELEMETRY", "HTTP_REQUEST_MAX_RETRIES", "SUPPRESS_PRINTING_URL_TO_STDOUT"):
        monkeypatch.setenv(f"MLFLOW_{name}", "1")
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")


# --- TensorBoard ----------------------------------------------------------------------------------------------------


def drawn(folder: Path, tag: str) -> list[tuple[int, float]]:
    """The points that TensorBoard draws: files in the order of their names, and at each START event everything from
    its step on forgotten (tensorboard's EventAccumulator, `purge_orphaned_data`)."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    points: list[tuple[int, float]] = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        data = file.read_bytes()
        while len(data) >= 12:
            (size,) = struct.unpack_from("<Q", data)
            event = Event.FromString(data[12 : 12 + size])
            data = data[12 + size + 4 :]
            if event.session_log.status == SessionLog.START:
                points = [(step, value) for step, value in points if step < event.step]
            points += [(event.step, value.simple_value) for value in event.summary.value if value.tag == tag]
    return points


def test_tensorboard_files_hold_every_scalar(tmp_path: Path) -> None:
    with following(tmp_path, run="r", objective=OBJECTIVE) as (follower,):
        follower.progress(window(10, mfu=0.5))
        follower.progress(window(20))
        follower.probed(probe(20))
    board = tmp_path / "tensorboard"
    assert follower.where == f"TensorBoard files in {board}"
    assert [step for step, _ in drawn(board, "loss/all")] == [10, 20]
    assert drawn(board, "loss/facts") == [(10, 1.5), (20, 1.5)]
    assert drawn(board, "loss/how_20_to_3f_") == [(10, 0.5), (20, 0.5)]
    assert drawn(board, "speed/mfu") == [(10, 0.5)]
    assert drawn(board, "tokens/supervised") == [(10, 1000), (20, 2000)]
    assert drawn(board, "probe/refusal_benign") == [(20, 0.25)]
    assert drawn(board, "probe_breach/base_skill") == [(20, 0.0)]
    assert not any(b"secret" in file.read_bytes() for file in board.iterdir())


def test_tensorboard_draws_no_step_twice_when_a_run_resumes(tmp_path: Path) -> None:
    with following(tmp_path, run="r", objective=OBJECTIVE) as (first,):
        for step in (10, 20, 30, 40):
            first.progress(window(step))
        first.probed(probe(40))
    with following(tmp_path, run="r", objective=OBJECTIVE) as (second,):
        second.probed(probe(20, rates={"base_skill": 0.5}))  # known before the first window is done
        for step in (30, 40, 50):
            second.progress(window(step, loss=0.5))
    board = tmp_path / "tensorboard"
    assert [step for step, _ in drawn(board, "loss/all")] == [10, 20, 30, 40, 50]
    assert [round(value, 2) for _, value in drawn(board, "loss/all")] == [1.9, 1.8, 0.5, 0.5, 0.5]
    assert drawn(board, "probe/refusal_benign") == []  # step 40 is to be probed again
    assert drawn(board, "probe/base_skill") == [(20, 0.5)]


def test_tensorboard_draws_no_step_twice_when_workers_fail_and_go_back(tmp_path: Path) -> None:
    with following(tmp_path, run="r", objective=OBJECTIVE) as (follower,):
        for step in (10, 20, 30, 20, 30, 40):
            follower.progress(window(step))
    assert [step for step, _ in drawn(tmp_path / "tensorboard", "loss/all")] == [10, 20, 30, 40]


def test_probes_without_any_progress_are_not_lost(tmp_path: Path) -> None:
    with following(tmp_path, run="r", objective=OBJECTIVE) as (follower,):
        follower.probed(probe(0))
    assert drawn(tmp_path / "tensorboard", "probe/base_skill") == [(0, pytest.approx(0.9))]


def test_a_disk_that_takes_no_files_is_warned_of_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    with following(tmp_path, run="r", objective=OBJECTIVE) as (follower,):
        for step in range(10, 300, 10):  # more than any queue between us and the disk holds
            follower.progress(window(step))
    assert len(caplog.messages) == 1 and "the training goes on without" in caplog.messages[0]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_warned_of_once_and_blocks_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with following(tmp_path, run="r", objective=OBJECTIVE) as (follower,):
        follower.progress(window(10))
        writer = follower._follower._writer  # type: ignore[attr-defined]
        writer._py_recordio_writer._writer = open("/dev/full", "wb")  # noqa: SIM115
        for step in range(20, 300, 10):
            follower.progress(window(step))
    assert len(caplog.messages) == 1 and "No space left" in caplog.messages[0]


def test_a_line_without_what_is_needed_is_no_reason_to_stop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with following(tmp_path, run="r", objective=OBJECTIVE, metrics_port=0) as followers:
        for follower in followers:
            follower.progress({"nonsense": True})
            follower.probed({"step": 1})
            follower.progress(window(10))
    assert len(caplog.messages) == len(followers) == 2


# --- MLflow ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A tracking store in a folder, which mlflow-skinny can write by itself (a database needs the full package)."""
    uri = f"file://{tmp_path / 'mlflow'}"
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


def client(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in client(uri).get_metric_history(run_id, name))


def test_mlflow_holds_what_produced_the_run_and_its_metrics_by_step(tmp_path: Path, store: str) -> None:
    job = tmp_path / "job"
    with following(job, run="sft-1", objective=OBJECTIVE) as followers:
        for follower in followers:
            follower.progress(window(10))
            follower.progress(window(20, loss=math.nan))
            follower.probed(probe(20))
    run_id = (job / "mlflow-run").read_text()
    run = client(store).get_run(run_id)
    assert run.info.run_name == "sft-1" and run.info.status == "FINISHED"
    assert run.data.tags["plumbline.objective"] == OBJECTIVE.digest
    assert {run.data.tags[f"plumbline.{name}"] for name in ("dataset", "base_policy", "template", "rubric")} == {
        OBJECTIVE.dataset, OBJECTIVE.base_policy, OBJECTIVE.template, OBJECTIVE.rubric,
    }  # fmt: skip
    assert run.data.params["optimiser.learning_rate"] == "0.0001"
    assert run.data.params["kl.slices"] == "facts, refusals"
    assert run.data.params["slice_weights.how_20_to_3f_"] == "0.5"
    assert run.data.params["batch_examples"] == "32"
    (ten, twenty) = history(store, run_id, "loss/all")
    assert ten == (10, 1.9) and twenty[0] == 20 and math.isnan(twenty[1])
    assert history(store, run_id, "loss/facts") == [(10, 1.5), (20, 1.5)]
    assert history(store, run_id, "probe/refusal_benign") == [(20, 0.25)]
    assert history(store, run_id, "probe_breach/refusal_benign") == [(20, 0.2)]
    written = b"".join(file.read_bytes() for file in (tmp_path / "mlflow").rglob("*") if file.is_file())
    assert b"secret" not in written


def test_a_resumed_run_goes_on_in_its_mlflow_run_without_doubled_steps(tmp_path: Path, store: str) -> None:
    job = tmp_path / "job"
    with pytest.raises(RuntimeError, match="killed"), following(job, run="r", objective=OBJECTIVE) as (mlflow, *_):
        for step in (10, 20, 30):
            mlflow.progress(window(step))
        mlflow.probed(probe(20))
        raise RuntimeError("killed")
    run_id = (job / "mlflow-run").read_text()
    assert client(store).get_run(run_id).info.status == "FAILED"
    with following(job, run="r", objective=OBJECTIVE) as (mlflow, *_):
        assert client(store).get_run(run_id).info.status == "RUNNING"
        for step in (20, 30, 40):
            mlflow.progress(window(step))
        mlflow.probed(probe(20))
        mlflow.probed(probe(40))
    assert (job / "mlflow-run").read_text() == run_id
    assert [step for step, _ in history(store, run_id, "loss/all")] == [10, 20, 30, 40]
    assert [step for step, _ in history(store, run_id, "probe/base_skill")] == [20, 40]
    assert client(store).get_run(run_id).info.status == "FINISHED"


def test_steps_that_mlflow_never_got_are_sent_when_the_run_resumes(tmp_path: Path, store: str) -> None:
    job = tmp_path / "job"
    job.mkdir()
    append(job / "progress.jsonl", window(10))  # before MLFLOW_TRACKING_URI was set
    append(job / "probes.jsonl", probe(10))
    with (job / "progress.jsonl").open("a") as stream:
        stream.write('{"step": 20, "lo')  # a kill in mid-line
    with following(job, run="r", objective=OBJECTIVE) as (mlflow, *_):
        mlflow.progress(window(20))
    run_id = (job / "mlflow-run").read_text()
    assert [step for step, _ in history(store, run_id, "loss/all")] == [10, 20]
    assert [step for step, _ in history(store, run_id, "probe/base_skill")] == [10]


def test_a_run_that_the_server_does_not_have_any_more_is_begun_anew(tmp_path: Path, store: str) -> None:
    job = tmp_path / "job"
    for _ in range(2):
        with following(job, run="r", objective=OBJECTIVE) as (mlflow, *_):
            mlflow.progress(window(10))
        run_id = (job / "mlflow-run").read_text()
        client(store).delete_run(run_id)
    (job / "mlflow-run").write_text("0" * 32)
    with following(job, run="r", objective=OBJECTIVE):
        pass
    assert (job / "mlflow-run").read_text() not in (run_id, "0" * 32)


def test_mlflow_failing_in_mid_run_is_warned_of_once_and_caught_up(
    tmp_path: Path, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = tmp_path / "job"
    with following(job, run="r", objective=OBJECTIVE) as (mlflow, *_):
        (folder,) = (tmp_path / "mlflow").glob(f"*/{(job / 'mlflow-run').read_text()}")
        away = folder.rename(tmp_path / "away")
        for step in (10, 20, 30):
            mlflow.progress(window(step))
        wait_for(lambda: bool(caplog.messages))
        away.rename(folder)
        mlflow.progress(window(40))
    assert len(caplog.messages) == 1 and "the training goes on" in caplog.messages[0]
    assert [step for step, _ in history(store, folder.name, "loss/all")] == [10, 20, 30, 40]


def test_mlflow_failing_to_the_end_says_how_much_is_missing(
    tmp_path: Path, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = tmp_path / "job"
    with following(job, run="r", objective=OBJECTIVE) as (mlflow, *_):
        (folder,) = (tmp_path / "mlflow").glob(f"*/{(job / 'mlflow-run').read_text()}")
        folder.rename(tmp_path / "away")
        mlflow.progress(window(10, slices={}, flops_per_second=None))
    assert len(caplog.messages) == 2 and "10 points were not delivered" in caplog.messages[1]


def wait_for(happened: Any) -> None:
    import time

    for _ in range(200):
        if happened():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within 10 s")


def test_mlflow_that_does_not_answer_is_said_before_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as unheard:  # bound, never listening: refused at once
        unheard.bind(("127.0.0.1", 0))
        uri = f"http://someone:hunter2@127.0.0.1:{unheard.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(PlumblineError) as caught, following(tmp_path, run="r", objective=OBJECTIVE, metrics_port=0):
            pytest.fail("the training began")
    assert "MLFLOW_TRACKING_URI" in str(caught.value) and "nothing was trained" in str(caught.value)
    assert "refused" in str(caught.value) and "hunter2" not in str(caught.value)
    assert not (tmp_path / "mlflow-run").exists()


def test_mlflow_not_installed_is_said_before_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with (
        pytest.raises(PlumblineError, match=r"pip install 'plumbline\[tracking\]'"),
        following(tmp_path, run="r", objective=OBJECTIVE),
    ):
        pytest.fail("the training began")


def test_nothing_is_sent_but_to_the_tracking_uri(tmp_path: Path) -> None:
    """In a process of its own, outside of what MLflow takes for a test or CI, with every connection noted."""
    code = """
        import sys
        asked = []
        def note(event, arguments):
            if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
                asked.append(str(arguments[1] if event == "socket.connect" else arguments[0]))
        sys.addaudithook(note)
        import time
        from pathlib import Path
        from plumbline.records import Objective
        from plumbline.training.follow import following
        objective = Objective.model_validate_json(sys.argv[2])
        with following(Path(sys.argv[1]), run="r", objective=objective) as followers:
            for follower in followers:
                follower.progress({"step": 1, "loss": 1.0})
        time.sleep(1.5)  # MLflow's telemetry, were it on, asks for its settings from a thread
        print(len(followers), asked)
    """
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH")}
    clean |= {"MLFLOW_TRACKING_URI": f"file://{tmp_path / 'mlflow'}", "MLFLOW_ALLOW_FILE_STORE": "true"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path), OBJECTIVE.model_dump_json()],
        capture_output=True, text=True, env=clean, timeout=120,
    )  # fmt: skip
    assert done.stdout.strip() == "2 []", done.stdout + done.stderr


def test_fields_are_flattened_under_their_path() -> None:
    assert flat({"kl": {"weight": 0.1, "slices": ["a", "b"]}, "replay": None, "slice_weights": {}, "seed": 3}) == {
        "kl.weight": "0.1", "kl.slices": "a, b", "replay": "", "slice_weights": "", "seed": "3",
    }  # fmt: skip


# --- Prometheus -----------------------------------------------------------------------------------------------------


@pytest.fixture
def gauges() -> Iterator[Prometheus]:
    made = Prometheus("sft-1", "127.0.0.1", 0)
    yield made
    made.close()


def scraped(url: str) -> dict[tuple[str, ...], float]:
    with urllib.request.urlopen(url, timeout=5) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name, *(sample.labels[key] for key in sorted(sample.labels))): sample.value
            for family in families
            for sample in family.samples
        }


def test_a_run_is_scraped_over_http_until_it_ends(tmp_path: Path) -> None:
    with following(tmp_path, run="sft-1", objective=OBJECTIVE, metrics_port=0) as (prometheus, *_):
        url = prometheus.where.removeprefix("Prometheus metrics at ")
        prometheus.progress(window(10, mfu=0.4))
        prometheus.probed(probe(10))
        found = scraped(url)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(url.replace("/metrics", "/"), timeout=5)
    assert found["plumbline_train_step", "sft-1"] == 10 and found["plumbline_train_steps", "sft-1"] == 200
    assert found["plumbline_train_loss", "sft-1", "all"] == pytest.approx(1.9)
    assert found["plumbline_train_loss", "sft-1", "facts"] == 1.5
    assert found["plumbline_train_tokens", "supervised", "sft-1"] == 1000
    assert found["plumbline_train_tokens_per_second", "real", "sft-1"] == 4000
    assert found["plumbline_train_mfu", "sft-1"] == 0.4 and found["plumbline_train_eta_seconds", "sft-1"] == 33
    assert found["plumbline_train_probe", "refusal_benign", "sft-1"] == 0.25
    assert found["plumbline_train_probe_breach", "refusal_benign", "sft-1"] == 0.2
    assert found["plumbline_train_probe_breach", "base_skill", "sft-1"] == 0
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(url, timeout=5)


def test_a_breach_that_is_made_good_falls_back_to_zero(gauges: Prometheus) -> None:
    gauges.probed(probe(10))
    gauges.probed(probe(20, breaches={}))
    assert scraped(gauges.url)["plumbline_train_probe_breach", "refusal_benign", "sft-1"] == 0


def test_what_is_not_known_is_not_shown_as_zero(gauges: Prometheus) -> None:
    gauges.progress(window(10, mfu=None, kl=None))
    assert not [key for key in scraped(gauges.url) if key[0] in ("plumbline_train_mfu", "plumbline_train_kl")]


def test_slices_cannot_flood_the_scrape(gauges: Prometheus) -> None:
    for step in (10, 20):
        gauges.progress(window(step, loss=3.0, slices={f"slice {n} of {step}": 1.0 for n in range(400)}))
    losses = {key: value for key, value in scraped(gauges.url).items() if key[0] == "plumbline_train_loss"}
    assert len(losses) == MOST_SLICES + 1 and losses["plumbline_train_loss", "sft-1", "all"] == 3.0


def test_a_loss_that_is_no_number_is_scraped_as_such(gauges: Prometheus) -> None:
    gauges.progress(window(10, loss=math.nan))
    assert math.isnan(scraped(gauges.url)["plumbline_train_loss", "sft-1", "all"])


def test_a_port_in_use_is_said_before_the_training(tmp_path: Path, gauges: Prometheus) -> None:
    port = int(gauges.url.rsplit(":", 1)[1].split("/")[0])
    with (
        pytest.raises(PlumblineError, match="--metrics-port"),
        following(tmp_path, run="r", objective=OBJECTIVE, metrics_port=port),
    ):
        pytest.fail("the training began")
