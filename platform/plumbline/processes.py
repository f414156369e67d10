"""Child processes that end with their parent, however that ends: orphans hold ports and spools."""

import contextlib
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence

RESTART_S = (1.0, 30.0)


def leave_with_parent() -> None:
    """End (SIGTERM to ourselves) when the process that started us is gone: its end of our standard input closes."""

    def watch() -> None:
        while os.read(0, 1024):  # not sys.stdin: its lock would be held when the interpreter ends
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="plumbline-parent-watch", daemon=True).start()


class Child:
    """A command that is kept running until `stop`: one that ends is started again, after 1 to 30 seconds.

    Its standard input is a pipe that closes with this process; what calls `leave_with_parent` ends then. `pass_fds` are
    inherited. It has a session of its own: a Ctrl-C at the terminal reaches this process, which stops it in order.
    `environment` is added to ours: the place for what holds a password, which a command line shows to everyone.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = list(command)
        self.pass_fds = tuple(pass_fds)
        self.environment = {**os.environ, **(environment or {})}
        self.process = self._begin()
        self._stopping = threading.Event()
        self._watching = threading.Thread(target=self._keep, name="plumbline-child-watch", daemon=True)
        self._watching.start()

    def _begin(self) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            pass_fds=self.pass_fds,
            env=self.environment,
            start_new_session=True,
        )

    def _keep(self) -> None:
        wait_s, longest = RESTART_S
        while True:
            code = self.process.wait()
            if self._stopping.is_set():
                return
            logging.getLogger("plumbline").error(
                "a child process ended with code %s, and starts again in %g s: %s", code, wait_s, " ".join(self.command)
            )
            if self._stopping.wait(wait_s):
                return
            _let_go(self.process)
            with _nothing_lost("starting a child process"):  # too little memory, say: tried again, for it ended
                self.process = self._begin()
            wait_s = min(longest, 2 * wait_s)

    def stop(self, grace_s: float = 15.0) -> None:
        """SIGTERM, then SIGKILL after `grace_s` seconds. Safe to call twice."""
        self._stopping.set()
        while True:
            end(self.process, grace_s)
            self._watching.join(0.05)
            if not self._watching.is_alive():
                break  # until then it may begin one anew, and would wait for that to end
        end(self.process, grace_s)


def end(process: "subprocess.Popen[bytes]", grace_s: float) -> None:
    """SIGTERM, then SIGKILL after `grace_s` seconds, and its standard input closed. Safe to call twice."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    _let_go(process)


@contextlib.contextmanager
def _nothing_lost(what: str) -> Iterator[None]:
    """A fault in here is logged, and who keeps a child running goes on: without it nobody would start it again."""
    try:
        yield
    except Exception:
        logging.getLogger("plumbline").exception("%s failed", what)


def _let_go(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
