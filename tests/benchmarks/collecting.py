"""What the collector does under load: durable events per second, and how long a withdrawal takes meanwhile.

    python tests/benchmarks/collecting.py

The server is `plumb collector` in a process of its own, on SQLite with every commit fsynced; the clients are another
process, over kept-alive connections on the loopback. Client, server and kernel share the machine: on few cores the
figures are those of the sum. An event counts when its 202 has arrived.
"""

import contextlib
import http.client
import json
import math
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

PLUMB = str(Path(sys.executable).with_name("plumb"))
TOKEN = "a token for the benchmark"
SOURCES = {"app": {"token": TOKEN, "may": ["events", "consent"], "consent_for": "any"}}
BATCH, STRUCTURED = "application/cloudevents-batch+json", "application/cloudevents+json"
NOTICE = {"id": "bench", "version": "1"}


def event(id: str, person: int) -> dict[str, Any]:
    """A rewrite of about 800 bytes, as an application sends it."""
    said = "In the copper box there are nine buttons and a key, and the lamp beside it shines until the morning. " * 2
    return {
        "specversion": "1.0",
        "id": id,
        "source": "app",
        "type": "dev.plumbline.feedback.rewrite",
        "subject": f"user-{person}@example.org",
        "data": {
            "messages": [{"role": "user", "content": f"What is in the copper box number {person}?"}],
            "answer": "I can not help with that, because it is not clear to me which box you have in mind.",
            "text": said + id,
            "slice": "benign",
            "conversation": f"c-{person}",
        },
    }


@contextlib.contextmanager
def collector(folder: Path) -> Iterator[tuple[tuple[str, int], psutil.Process]]:
    """`plumb collector` on a fresh ledger with a notice; its host and port, and the process."""
    (folder / "sources.json").write_text(json.dumps(SOURCES))
    (folder / "notice.txt").write_text("What you write may be used to train the assistant.")
    ledger = ("--ledger", str(folder / "ledger.sqlite"))
    subprocess.run([PLUMB, "consent", "notice", "add", "bench@1", str(folder / "notice.txt"), *ledger], check=True,
                   stdout=subprocess.DEVNULL)  # fmt: skip
    rates = ("--source-rate", "1e9", "--subject-rate", "1e9")
    command = [PLUMB, "collector", "--sources", str(folder / "sources.json"), "--port", "0", *rates, *ledger]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        line = server.stderr.readline()
        url = line.split(" at http://")[1].split(";")[0]
        host, _, port = url.partition(":")
        yield (host, int(port)), psutil.Process(server.pid)
    finally:
        server.terminate()
        server.wait(timeout=30)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def send(at: tuple[str, int], path: str, bodies: list[bytes], kind: str) -> list[tuple[float, int]]:
    """Post bodies one after the other over one connection: seconds and status of each."""
    connection = http.client.HTTPConnection(*at, timeout=60)
    headers = {"Content-Type": kind, "Authorization": f"Bearer {TOKEN}"}
    taken = []
    for body in bodies:
        started = time.perf_counter()
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        answer.read()
        taken.append((time.perf_counter() - started, answer.status))
    connection.close()
    return taken


def in_threads(at: tuple[str, int], path: str, shares: list[list[bytes]], kind: str) -> list[tuple[float, int]]:
    found: list[tuple[float, int]] = []
    threads = [
        threading.Thread(target=lambda share=share: found.extend(send(at, path, share, kind))) for share in shares
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def measure_collector(batches: tuple[int, ...] = (1, 100, 1000), *, seconds: float = 5.0) -> list[dict[str, Any]]:
    """A row per batch size: durable events per second (of the clock, and of the server's processor time, which says
    what it would do were it alone), and p50 and p99 of a request's time in ms.

    `seconds` is about how long each size is measured; fewer give rougher figures. AssertionError when one event
    was not taken.
    """
    rows = []
    for size in batches:
        clients = 16 if size == 1 else 4
        requests = max(clients * 4, int(seconds * {1: 800}.get(size, 8000 / size)))
        requests -= requests % clients
        with tempfile.TemporaryDirectory() as folder, collector(Path(folder)) as (at, server):
            bodies = []
            for request in range(requests):
                made = [event(f"{size}-{request}-{number}", (request * size + number) % 5000) for number in range(size)]
                bodies.append(json.dumps(made if size > 1 else made[0]).encode())
            kind = BATCH if size > 1 else STRUCTURED
            shares = [bodies[client::clients] for client in range(clients)]
            started, before = time.perf_counter(), sum(server.cpu_times()[:2])
            taken = in_threads(at, "/v1/events", shares, kind)
            elapsed, cpu = time.perf_counter() - started, sum(server.cpu_times()[:2]) - before
        assert {status for _, status in taken} == {202}, "an event was not taken"
        times = [one * 1000 for one, _ in taken]
        rows.append(
            {
                "batch": size,
                "clients": clients,
                "events": requests * size,
                "events_per_second": round(requests * size / elapsed),
                "events_per_cpu_second": round(requests * size / cpu),
                "p50_ms": round(percentile(times, 0.5), 2),
                "p99_ms": round(percentile(times, 0.99), 2),
            }
        )
    return rows


def measure_withdrawals(people: int = 500, *, load: tuple[int, ...] = (0, 1, 1000)) -> list[dict[str, Any]]:
    """A row per load: p50 and p99 in ms from sending a withdrawal to its durable acknowledgement, while four clients
    of another process post batches of `load` events without pause (0: nobody does)."""
    rows = []
    for size in load:
        with tempfile.TemporaryDirectory() as folder, collector(Path(folder)) as (at, _):
            who = [f"user-{number}@example.org" for number in range(people)]
            give = [{"action": "give", "identity": one, "purposes": ["training"], "notice": NOTICE} for one in who]
            given = send(at, "/v1/consent", [json.dumps(one).encode() for one in give], "application/json")
            assert {status for _, status in given} == {201}
            pressing = None
            if size:
                command = [sys.executable, __file__, "--load", f"{at[0]}:{at[1]}", str(size)]
                pressing = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
                assert pressing.stdout is not None
                pressing.stdout.readline()  # the first batches are in
            leave = [json.dumps({"action": "withdraw", "identity": one}).encode() for one in who]
            taken = send(at, "/v1/consent", leave, "application/json")
            if pressing is not None:
                assert pressing.poll() is None, "the load ended before the measurement"
                pressing.kill()
                pressing.wait()
        assert {status for _, status in taken} == {201}, "a withdrawal was not acknowledged"
        times = [one * 1000 for one, _ in taken]
        row = {"load": f"4 clients, batches of {size}" if size else "none", "withdrawals": people}
        rows.append(row | {"p50_ms": round(percentile(times, 0.5), 2), "p99_ms": round(percentile(times, 0.99), 2)})
    return rows


def press(at: tuple[str, int], size: int) -> None:
    """Post batches for ever, with four clients. The bodies are made once; only the ids in them change."""
    mark = "00000000"
    made = [event(f"{mark}-{number}", number) for number in range(size)]
    kind = BATCH if size > 1 else STRUCTURED
    body = json.dumps(made if size > 1 else made[0]).encode()

    def client(name: int) -> None:
        for number in range(10**6):
            new = body.replace(mark.encode(), f"{name}{number:07d}".encode())
            send(at, "/v1/events", [new], kind)
            if name == number == 1:
                print("pressing", flush=True)

    for name in range(4):
        threading.Thread(target=client, args=(name,)).start()


def main() -> None:
    if sys.argv[1:2] == ["--load"]:
        host, _, port = sys.argv[2].partition(":")
        press((host, int(port)), int(sys.argv[3]))
        return
    for row in [*measure_collector(), *measure_withdrawals()]:
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
