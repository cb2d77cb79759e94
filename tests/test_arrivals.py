"""What takes its time at the page's door: bodies, connections, and wrong passwords."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from urllib.parse import urlsplit

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.ui import bodies, connections
from app.ui.logins import Logins
from tests.support.asking import JSON, ask
from tests.support.pages import served, toy_session
from tests.support.waiting import finished


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(toy_session()) as at:
        yield at


def test_a_login_is_no_larger_than_a_login(address: str) -> None:
    form = b"username=a&password=" + b"x" * 100_000
    assert ask(address, "POST", "/login", form, content_type="application/x-www-form-urlencoded")[0] == 413


def test_bodies_that_do_not_end_are_refused_and_keep_nobody_out(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "SECONDS", 0.5)
    kind = JSON["content-type"]
    endless = [http.client.HTTPConnection(urlsplit(address).netloc, timeout=120) for _ in range(bodies.LARGE_AT_ONCE)]
    for each in endless:
        each.putrequest("POST", "/gradio_api/component_server")
        each.putheader("content-type", kind)
        each.putheader("transfer-encoding", "chunked")
        each.endheaders()
        each.send(b"1\r\n{\r\n")
    for each in endless:
        answer = each.getresponse()
        assert (answer.status, json.loads(answer.read())) == (
            408,
            {"detail": "This request did not come to its end; send it again."},
        )
        each.close()
    chunks = b"2\r\n{}\r\n0\r\n\r\n"
    status = ask(
        address, "POST", "/gradio_api/component_server", chunks, content_type=kind, transfer_encoding="chunked"
    )[0]
    assert status not in (408, 503)


def test_a_body_of_no_told_size_takes_a_place_until_it_is_in() -> None:
    async def scenario() -> None:
        whole, answer = asyncio.Event(), asyncio.Event()

        async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
            while (await receive())["more_body"]:
                pass
            await answer.wait()

        async def receive() -> Message:
            await whole.wait()
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            raise AssertionError

        def post() -> asyncio.Future[None]:
            headers = [(b"transfer-encoding", b"chunked"), (b"content-length", b"1")]  # the second counts for nothing
            return asyncio.ensure_future(door.passed_on({"type": "http", "headers": headers}, 10, receive, send))

        door = bodies.Bodies(waiting)
        posts = [post() for _ in range(bodies.LARGE_AT_ONCE)]
        await asyncio.sleep(0)
        with pytest.raises(bodies.RefusalError, match="Others are sending"):
            await post()
        whole.set()
        await asyncio.sleep(0.05)
        posts.append(post())
        answer.set()
        await asyncio.gather(*posts)

    finished(scenario())


def test_connections_that_say_nothing_are_ended_and_idle_ones_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connections, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.1)
    with served(toy_session()) as address:
        host, port = urlsplit(address).hostname, urlsplit(address).port
        kept = http.client.HTTPConnection(f"{host}:{port}", timeout=120)
        kept.request("GET", "/healthz")
        kept.getresponse().read()
        before = kept.sock
        whole = b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n"
        for said in ([], [b"GET / HTTP/1.1\r\nHost: loc"], [whole, b"GET /"]):
            with socket.create_connection((str(host), int(port or 0)), timeout=30) as silent:
                for part in said:
                    silent.sendall(part)
                    if part is whole:
                        assert silent.recv(65536)
                with suppress(ConnectionResetError):
                    while silent.recv(65536):
                        pass
        kept.request("GET", "/healthz")
        assert kept.getresponse().status == 200
        assert kept.sock is before, "an idle one is kept for longer than clients and proxies keep theirs"
        kept.close()
    assert connections.KEPT_SECONDS > 60


def test_wrong_passwords_wait_and_take_turns() -> None:
    slept: list[float] = []

    async def scenario() -> None:
        logins = Logins(first=0.01, most=0.04)
        sent: list[int] = []

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent.append(message["status"])

        async def attempt(status: int) -> None:
            async def login(told: Send) -> None:
                slept.append(asyncio.get_running_loop().time())
                await told({"type": "http.response.start", "status": status, "headers": []})

            await logins.tried("1.2.3.4", login, send)

        await asyncio.gather(*[attempt(400) for _ in range(10)])
        assert sorted(sent) == [400] * 5 + [429] * 5, "one at work and four that wait"
        gaps = [later - earlier for earlier, later in pairwise(slept)]
        assert all(gap >= least for gap, least in zip(gaps, (0.01, 0.02, 0.04, 0.04), strict=True))
        await attempt(200)
        before = len(slept)
        await attempt(400)
        await attempt(400)
        assert len(slept) == before + 2

    finished(scenario())


def test_wrong_passwords_of_many_addresses_come_one_after_another_and_of_one_network_are_one() -> None:
    begun, answered = list[float](), list[int]()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            answered.append(message["status"])

    async def login(told: Send) -> None:
        begun.append(time.monotonic())
        await told({"type": "http.response.start", "status": 400, "headers": []})

    async def scenario() -> None:
        logins = Logins(first=0.05, most=0.05, between=0.01)
        await logins.tried("1.2.3.4", login, send)
        before = time.monotonic()
        await asyncio.gather(*[logins.tried(f"10.0.0.{number}", login, send) for number in range(5)])
        assert all(at - before >= 0.009 * number for number, at in enumerate(sorted(begun[1:])))
        answered.clear()
        await asyncio.gather(*[logins.tried(f"10.0.1.{number}", login, send) for number in range(20)])
        assert set(answered) == {400, 429}, "and no endless row of them waits"
        begun.clear()
        answered.clear()
        alone = Logins(first=0.01, most=10, between=0)
        await asyncio.gather(*[alone.tried(f"2001:db8::{number}", login, send) for number in range(10)])
        assert sorted(answered) == [400] * 5 + [429] * 5, "whoever has one of these has all"
        answered.clear()
        await asyncio.gather(*[alone.tried(f"::ffff:10.0.0.{number}", login, send) for number in range(10)])
        assert answered == [400] * 10

    finished(scenario())
