"""A predictor as a child process: start, wait until ready, stop.

The parent binds the socket and hands it down, so a port in use is an error before anything starts, port 0 has no
race, and the child can take connections only once it listens, which it does only once its policies are loaded.
Start-up takes seconds (torch, KServe), so start several and then wait for all: `wait_all`.
"""

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from plumbline.errors import PlumblineError
from plumbline.processes import end
from plumbline.sockets import listen

POLL_S = 0.05


class PredictorProcess:
    """A running predictor. `url` is its root, `openai_url` the base for an OpenAI client."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", host: str, port: int, log: Path, names: Sequence[str]
    ) -> None:
        self.process = process
        self.host = host
        self.port = port
        self.log = log
        self.names = tuple(names)

    @classmethod
    def start(
        cls,
        policies: Mapping[str, Path],
        *,
        log: Path,
        host: str = "127.0.0.1",
        port: int = 0,
        leg: str | None = None,
        threads: int = 1,
        guardrails: Sequence[Path] = (),
        module: str = "plumbline.serving.predictor",
    ) -> "PredictorProcess":
        """Start a predictor for `policies` (name -> directory) and return at once. Its output goes to `log`.

        It ends when this process does, however that happens. `module` is run; `guardrails` need one that can load them:
        `plumbline.cli.serve`.
        """
        bound = listen(host, port)
        command = [sys.executable, "-m", module, "--leave-with-parent"]
        command += ["--fd", str(bound.fileno()), "--threads", str(threads)]
        for name, directory in policies.items():
            command += ["--policy", f"{name}={directory}"]
        if leg:
            command += ["--leg", leg]
        for file in guardrails:
            command += ["--guardrail", str(file)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        log.parent.mkdir(parents=True, exist_ok=True)
        with bound, log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=(bound.fileno(),),
                start_new_session=True,  # a Ctrl-C at the terminal reaches the parent, which stops us in order
            )
            return cls(process, host, bound.getsockname()[1], log, list(policies))

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def openai_url(self) -> str:
        return f"{self.url}/openai/v1"

    def ready(self) -> bool:
        """Whether /v2/health/ready says so now."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=1)
        try:
            connection.request("GET", "/v2/health/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def wait_ready(self, deadline_s: float = 90.0) -> "PredictorProcess":
        """Return once it serves. PlumblineError, and the process stopped, when it ends or the deadline passes."""
        until = time.monotonic() + deadline_s
        while not self.ready():
            ended = self.process.poll()
            if ended is not None or time.monotonic() > until:
                self.stop()
                what = f"ended with code {ended}" if ended is not None else f"was not ready within {deadline_s:g} s"
                raise PlumblineError(
                    f"the predictor of {', '.join(self.names)} {what}; it last said: {self._last_words()}",
                    consequence="no policy is served",
                    remedy=f"read {self.log}, put right what it names, and start it again",
                )
            time.sleep(POLL_S)
        return self

    def stop(self, grace_s: float = 8.0) -> None:
        """SIGTERM, then SIGKILL after `grace_s` seconds. Safe to call twice."""
        end(self.process, grace_s)

    def _last_words(self) -> str:
        lines = [line.strip() for line in self.log.read_text("utf-8", "replace").splitlines() if line.strip()]
        return " | ".join(lines[-3:]) or "nothing"

    def __enter__(self) -> "PredictorProcess":
        return self.wait_ready()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()


def wait_all(predictors: Sequence[PredictorProcess], deadline_s: float = 90.0) -> None:
    """Wait for predictors that were started together; stop all of them when one fails."""
    try:
        for predictor in predictors:
            predictor.wait_ready(deadline_s)
    except BaseException:
        for predictor in predictors:
            predictor.stop()
        raise
