"""A web application in a thread of its own, or in this one until it is interrupted."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from plumbline.discreet_log import discreet_logger
from plumbline.errors import PlumblineError
from plumbline.metrics import Metrics

LAST_WORDS = 20  # seconds for requests when it stops: Kubernetes waits thirty before it kills


@dataclass
class RunningCollector:
    """A collector in a background thread. Use as a context manager, or call `stop`."""

    url: str
    port: int
    metrics: Metrics
    _stop: Callable[[], None] = field(repr=False)

    def stop(self) -> None:
        self._stop()

    def __enter__(self) -> "RunningCollector":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_application(
    application: Callable[[], web.Application], host: str, port: int, metrics: Metrics
) -> RunningCollector:
    """Serve in a thread and return when it answers. PlumblineError when the port is taken.

    Bodies are not decompressed: what is compressed is refused by its header, so no bomb unfolds.
    """
    loop = asyncio.new_event_loop()
    started: threading.Event = threading.Event()
    state: dict[str, Any] = {}

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = web.AppRunner(application(), **_serving())
        try:
            loop.run_until_complete(runner.setup())
            loop.run_until_complete(web.TCPSite(runner, host, port).start())
            state["port"] = runner.addresses[0][1]
            started.set()
            loop.run_forever()
        except OSError as error:
            state["error"] = error
        finally:
            loop.run_until_complete(runner.cleanup())
            loop.close()
            started.set()

    thread = threading.Thread(target=serve, name="collector", daemon=True)
    thread.start()
    started.wait()
    if "error" in state:
        raise _port_taken(host, port, state["error"]) from state["error"]

    def stop() -> None:
        if thread.is_alive():
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    return RunningCollector(f"http://{host}:{state['port']}", state["port"], metrics, stop)


def run_application(application: web.Application, host: str, port: int) -> None:
    """Serve until interrupted. PlumblineError when the port is taken."""
    try:
        web.run_app(application, host=host, port=port, print=lambda *_: None, **_serving())
    except OSError as error:
        raise _port_taken(host, port, error) from error


def _serving() -> dict[str, Any]:
    """Requests carry sources' tokens: neither an access log nor a malformed request's words are written."""
    return {
        "access_log": None,
        "logger": discreet_logger(__name__),
        "auto_decompress": False,
        "shutdown_timeout": LAST_WORDS,
    }


def _port_taken(host: str, port: int, error: OSError) -> PlumblineError:
    return PlumblineError(
        f"the collector cannot listen on {host}:{port}: {error.strerror or error}",
        consequence="no events are taken",
        remedy="end what uses the port, or choose another (0 picks a free one)",
    )
