"""A real Prometheus for tests: started on a folder of its own, asked over its HTTP API, and gone with the test.

from monitoring.prometheus import Prometheus, promtool
"""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

Labels = dict[str, str]


def program(name: str) -> str:
    """Where it is; the test is skipped where it is not."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on PATH; `make tools` installs Debian's package prometheus")
    return found


def promtool(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=120, check=False)


class Prometheus:
    """Scrapes `targets` (name -> address with port, and the labels that a cluster would add) every second."""

    def __init__(self, folder: Path, targets: Mapping[str, tuple[str, Labels]], rules: Path) -> None:
        binary = program("prometheus")
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(rules)],
            "scrape_configs": [
                {"job_name": name, "static_configs": [{"targets": [address], "labels": labels}]}
                for name, (address, labels) in targets.items()
            ],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "log"
        arguments = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        arguments += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([binary, *arguments], stderr=log, stdout=log)
        self.until(lambda: self.get("/-/ready", text=True), "it is ready")

    def get(self, path: str, *, text: bool = False, **query: str) -> Any:
        with urllib.request.urlopen(f"{self.url}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
            body = answer.read()
        return body.decode() if text else json.loads(body)["data"]

    def query(self, expression: str) -> list[tuple[Labels, float]]:
        """An instant query: labels and value of every series."""
        try:
            found = self.get("/api/v1/query", query=expression)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from error
        return [(one["metric"], float(one["value"][1])) for one in found["result"]]

    def until(self, true: Callable[[], object], what: str, seconds: float = 90.0) -> None:
        end = time.monotonic() + seconds
        while True:
            try:
                if true():
                    return
            except OSError:
                pass
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, f"in {seconds:.0f} s it did not come true that {what}"
            time.sleep(0.2)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
