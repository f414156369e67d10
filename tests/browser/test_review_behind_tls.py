"""The review page behind something that ends TLS, under a path: what a real browser keeps, sends and refuses there."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from multidict import CIMultiDict

from browser.chromium import Chromium, Tab
from console.review_visitor import NAMES, RUBRIC, opened_desk
from plumbline.console.review_page import RunningPage, start_review_page
from plumbline.sockets import listen

pytestmark = pytest.mark.slow


def certificate(folder: Path) -> ssl.SSLContext:
    """A server's side of TLS for localhost, signed by itself."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "tls.pem"
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, *form) + signed.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return context


@pytest.fixture
def page(tmp_path: Path) -> Iterator[RunningPage]:
    """The page as it runs on a cluster, found at https://localhost:PORT/desk only."""
    desk, socket = opened_desk(tmp_path / "ledger.sqlite"), listen("127.0.0.1", 0)
    port = socket.getsockname()[1]
    running = start_review_page(desk, RUBRIC, public_url=f"https://localhost:{port}/desk")
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def pass_on(request: web.Request) -> web.Response:
        url, body = running.bound + request.path_qs, await request.read()
        async with aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()) as session:
            there = session.request(request.method, url, headers=request.headers, data=body, allow_redirects=False)
            async with there as answer:
                kept = [(k, v) for k, v in answer.headers.items() if k not in ("Content-Length", "Transfer-Encoding")]
                return web.Response(status=answer.status, headers=CIMultiDict(kept), body=await answer.read())

    def front() -> None:
        asyncio.set_event_loop(loop)
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", pass_on)
        runner = web.AppRunner(app, access_log=None)
        loop.run_until_complete(runner.setup())
        loop.run_until_complete(web.SockSite(runner, socket, ssl_context=certificate(tmp_path)).start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())
        loop.close()

    thread = threading.Thread(target=front, daemon=True)
    thread.start()
    assert ready.wait(60)
    yield running
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    running.stop()
    desk.ledger.close()


def test_a_browser_enters_judges_and_leaves_over_tls_under_a_path(browser: Chromium, page: RunningPage) -> None:
    told: dict[str, object] = {}

    async def steps(tab: Tab) -> None:
        await tab.call("Security.setIgnoreCertificateErrors", ignore=True)
        await tab.goto(page.link(NAMES.of("rita")))
        await tab.until("document.activeElement.tagName === 'BUTTON'")
        await tab.loaded(tab.key("Enter"))
        told["at"] = await tab.ask("location.pathname")
        told["scripts see"] = await tab.ask("document.cookie")
        (told["cookie"],) = (await tab.call("Network.getCookies"))["cookies"]
        await tab.key("a")
        await tab.key("1")
        await tab.loaded(tab.key("Enter", control=True))
        told["said"] = await tab.ask("document.querySelector('[role=status]').textContent")
        await tab.loaded(tab.ask("document.querySelector('.leave button').click()"))
        told["left"] = (await tab.call("Network.getCookies"))["cookies"]

    tab = browser.drive(steps)
    cookie = told["cookie"]
    assert isinstance(cookie, dict)
    assert (cookie["name"], cookie["path"], cookie["sameSite"]) == ("__Secure-plumb_review", "/desk", "Strict")
    assert cookie["secure"] and cookie["httpOnly"] and told["scripts see"] == ""
    assert told["at"] == "/desk/" and str(told["said"]).startswith("Saved.") and told["left"] == []
    assert all(url.startswith(page.url) for url in tab.requests) and tab.complaints == []
    assert len(page.page.desk.reviews.labels()) == 1
