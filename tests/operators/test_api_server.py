"""The operator's own requests: a token that ran out is replaced by the one that there is now, by whoever notices."""

import asyncio
from collections.abc import Awaitable, Callable

import kopf
import pytest
from aiohttp import ClientResponseError, web
from aiohttp.test_utils import TestServer
from api_server import ApiServer

Told = Callable[[TestServer, list[str]], Awaitable[None]]


def tell(story: Told, valid: str) -> None:
    """A server that knows one token, and the tokens that it was shown."""
    shown: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        shown.append(request.headers.get("Authorization", "").removeprefix("Bearer "))
        return web.json_response({"metadata": {"name": "first"}}, status=200 if shown[-1] == valid else 401)

    async def run() -> None:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", answer)
        async with TestServer(app) as server:
            await story(server, shown)

    asyncio.run(run())


def test_requests_that_a_token_ran_out_under_are_made_again_with_the_next_token() -> None:
    async def story(server: TestServer, shown: list[str]) -> None:
        url = str(server.make_url("/"))
        read: list[str] = []

        def login() -> kopf.ConnectionInfo:
            read.append("new")
            return kopf.ConnectionInfo(server=url, token="new")

        api = ApiServer(login)
        await api.connect(kopf.ConnectionInfo(server=url, token="old"))
        looks = [api.get("DatasetLine", "demo", "first") for _ in range(5)]
        assert all(found is not None for found in await asyncio.gather(*looks))
        assert shown.count("new") == 5 and len(read) == 1, "one of them logs in, for all"
        await api.close()

    tell(story, valid="new")


def test_a_token_that_stays_refused_is_said_to_be() -> None:
    async def story(server: TestServer, shown: list[str]) -> None:
        info = kopf.ConnectionInfo(server=str(server.make_url("/")), token="old")
        api = ApiServer(lambda: info)
        await api.connect(info)
        with pytest.raises(ClientResponseError, match="401"):
            await api.get("DatasetLine", "demo", "first")
        assert shown == ["old", "old"]
        await api.close()

    tell(story, valid="new")
