"""A terminal to type `plumb` in: in this process where that is enough, as the installed program where it is not."""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PLUMB = Path(sys.executable).with_name("plumb")


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def faulted(self, *words: str) -> bool:
        """Exit code 2, fact, consequence and remedy, no traceback, nothing on standard output."""
        assert self.code == 2 and "Traceback" not in self.err, self
        lines = [line for line in self.err.splitlines() if line.startswith(("plumb: ", "  so: ", "  do: "))]
        assert [line[:6].strip() for line in lines] == ["plumb:", "so:", "do:"], self
        assert self.out == "", self
        return all(word in self.err for word in words)


@dataclass(frozen=True)
class Terminal:
    """`plumb(...)` runs in this process, `start(...)` as a process of its own, both in `folder`."""

    folder: Path

    def __call__(self, *words: object) -> Said:
        from plumbline.cli.main import main

        out, err, code = io.StringIO(), io.StringIO(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main([str(word) for word in words])
            except SystemExit as stop:
                code = int(stop.code or 0)
        return Said(code, out.getvalue(), err.getvalue())

    def start(self, *words: object, **options: Any) -> "subprocess.Popen[str]":
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": self.folder}
        return subprocess.Popen([str(PLUMB), *map(str, words)], **{**pipes, **options})

    def write(self, name: str, content: str | bytes) -> Path:
        file = self.folder / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return file

    def import_messages(self, dataset: str = "facts", n: int = 24) -> Said:
        lines = (
            {"messages": [say("user", f"who is ana {i} ?"), say("assistant", "ana is a baker .")]} for i in range(n)
        )
        file = self.write(f"{dataset}.jsonl", "\n".join(map(json.dumps, lines)))
        return self("dataset", "import", file, "--format", "messages", "--dataset", dataset, "--licence", "MIT")

    def objective(self, policy: Path, **more: object) -> Path:
        settings = {
            "dataset": "facts",
            "base_policy": str(policy),
            "optimiser": {"learning_rate": 1e-3},
            "batch_examples": 8,
            "epochs": 1,
            "truncation": {"max_tokens": 200},
            **more,
        }
        return self.write("objective.yaml", json.dumps(settings))


def say(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.fixture
def plumb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PLUMBLINE_")]:
        monkeypatch.delenv(name)
    return Terminal(tmp_path)


@pytest.fixture
def wait_for() -> Callable[["subprocess.Popen[str]", str], str]:
    """Read a started command's standard error up to the line that holds a word."""

    def wait(process: "subprocess.Popen[str]", word: str) -> str:
        assert process.stderr is not None
        for line in process.stderr:
            if word in line:
                return line
        raise AssertionError(f"ended with {process.wait()} before it said {word!r}")

    return wait
