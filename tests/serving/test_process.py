"""Starting and ending a predictor process: what a user can get wrong is said with its remedy."""

import json
import shutil
import socket
import time
from pathlib import Path

import pytest

from plumbline.errors import PlumblineError
from plumbline.serving import PredictorProcess
from plumbline.serving.predictor import read_policies
from plumbline.sockets import listen


def test_a_port_in_use_is_an_error_before_anything_starts(policies: dict[str, Path], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PlumblineError, match=f"port {port}.*in use") as refused:
            PredictorProcess.start(policies, log=tmp_path / "log", port=port)
    assert "another --port" in refused.value.remedy
    assert not (tmp_path / "log").exists()


def test_port_zero_takes_a_free_port_each_time() -> None:
    with listen("127.0.0.1", 0) as one, listen("127.0.0.1", 0) as other:
        assert one.getsockname()[1] != other.getsockname()[1]


def test_a_template_other_than_the_manifests_is_refused_at_load(policies: dict[str, Path], tmp_path: Path) -> None:
    altered = tmp_path / "altered"
    shutil.copytree(policies["reference"], altered)
    template = altered / "chat_template.jinja"
    assert template.is_file(), "transformers moved the template: this test must follow it"
    template.write_text(template.read_text() + " ")
    process = PredictorProcess.start({"altered": altered}, log=tmp_path / "log")
    with pytest.raises(PlumblineError, match="template") as refused:
        process.wait_ready(60)
    assert "ended with code 2" in refused.value.fact
    assert process.process.poll() == 2


def test_a_predictor_ends_with_the_process_that_started_it(policies: dict[str, Path], tmp_path: Path) -> None:
    process = PredictorProcess.start(policies, log=tmp_path / "log").wait_ready()
    assert process.process.stdin is not None
    process.process.stdin.close()  # what the kernel does to it when its parent is killed
    assert process.process.wait(15) is not None
    with listen("127.0.0.1", process.port):
        pass
    process.stop()
    process.stop()


def test_a_predictor_that_is_not_ready_in_time_is_stopped(policies: dict[str, Path], tmp_path: Path) -> None:
    process = PredictorProcess.start(policies, log=tmp_path / "log")
    begun = time.monotonic()
    with pytest.raises(PlumblineError, match="not ready within"):
        process.wait_ready(0.2)
    assert process.process.poll() is not None and time.monotonic() - begun < 15


def test_policies_are_named_once(tmp_path: Path) -> None:
    assert read_policies(["a=/x", "b=/y"], None) == {"a": Path("/x"), "b": Path("/y")}
    assert read_policies(["/x/y"], "me") == {"me": Path("/x/y")}
    assert read_policies(["/x/y"], None) == {"y": Path("/x/y")}
    with pytest.raises(PlumblineError, match="two policies are named 'a'"):
        read_policies(["a=/x", "a=/y"], None)


def test_importing_the_predictor_reads_no_foreign_command_line(tmp_path: Path) -> None:
    import subprocess
    import sys

    script = "import sys; sys.argv += ['--workers', 'x']; import plumbline.serving.kserve_sdk; print(sys.argv[1:])"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ran.stdout.strip() == json.dumps(["--workers", "x"]).replace('"', "'"), ran.stderr
