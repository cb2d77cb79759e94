"""The guard before everything, on a page that is served: hosts, origins, routes, bodies, headers; logins; what
operators read."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.ui import guard, routes
from app.ui.desk import Desk
from tests.support.asking import JSON, ask, post
from tests.support.pages import served, toy_session
from tests.support.waiting import finished

RUN = ["Hi", 3, 8, 0, 1, 0, 0, "rejection", "draft", "both", "", True]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(toy_session()) as at:
        yield at


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "a@127.0.0.1", "", "127.0.0.1/x"]
)
def test_other_hosts_are_refused(address: str, host: str) -> None:
    status, _, body = ask(address, "GET", "/", host=host)
    assert status in (400, 421)
    assert b"<html" not in body


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:7860"])
def test_names_of_this_machine_are_let_in(address: str, host: str) -> None:
    assert ask(address, "GET", "/healthz", host=host)[0] == 200


def test_a_server_for_everybody_lets_in_addresses_and_its_own_and_allowed_names_only() -> None:
    hosts = guard.allowed_hosts("0.0.0.0", ("Show.example",))
    assert {"localhost", "show.example"} <= hosts
    assert "evil.example" not in hosts
    assert "10.0.0.1" in guard.allowed_hosts("10.0.0.1")


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
        {"sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "same-site"},
    ],
)
def test_other_sites_cannot_post(address: str, headers: dict[str, str]) -> None:
    for path in ("/gradio_api/call/run", "/gradio_api/queue/join", "/gradio_api/component_server", "/login"):
        status, told = post(address, path, {"data": RUN}, **headers)
        assert (status, told["detail"]) == (403, "Another site's page cannot use this playground.")


@pytest.mark.parametrize("name", guard.ONCE)
def test_what_is_gone_by_is_said_once(address: str, name: str) -> None:
    said = {
        "origin": address,
        "sec-fetch-site": "same-origin",
        "content-type": JSON["content-type"],
        "content-length": "11",
    }
    lines = [f"{each}: {value}" for each, value in said.items()]
    head = ["POST /gradio_api/run/pairs HTTP/1.1", f"Host: {urlsplit(address).netloc}", "Connection: close", *lines]

    def status(more: list[str]) -> bytes:
        with socket.create_connection((str(urlsplit(address).hostname), int(urlsplit(address).port or 0))) as end:
            end.sendall("\r\n".join([*head, *more, "", '{"data":[]}']).encode())
            return end.makefile("rb").readline().split()[1]

    assert status([]) == b"200"
    assert status([f"{name}: {said[name]}"]) == (b"200" if name == "content-length" else b"400")  # one to HTTP itself
    assert status([f"{name}: 1"]) == b"400"


def test_the_pages_own_origin_can_post(address: str) -> None:
    assert post(address, "/gradio_api/call/pairs", {"data": []}, origin=address, sec_fetch_site="same-origin")[0] == 200


@pytest.mark.parametrize("kind", ["text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded"])
def test_posts_are_json(address: str, kind: str) -> None:
    for path in ("/gradio_api/call/run", "/gradio_api/component_server", "/gradio_api/queue/join"):
        assert post(address, path, {"data": RUN}, content_type=kind)[0] == 415


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=https://example.com",
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=../../etc/passwd",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=https://example.com",
        "/gradio_api/deep_link",
        "/gradio_api/upload_progress",
        "/gradio_api/runs",
        "/gradio_api/dev/reload",
        "/gradio_api/vibe-code",
        "/gradio_api/token",
        "/monitoring",
        "/monitoring/summary",
        "/static/../../etc/passwd",
        "/docs",
        "/openapi.json",
        "/pwa_icon",
        "/gradio_api/mcp/sse",
    ],
)
def test_what_the_page_does_not_use_is_not_there(address: str, path: str) -> None:
    assert ask(address, "GET", path)[0] == 404


def test_nothing_can_be_uploaded(address: str) -> None:
    for path in ("/gradio_api/upload", "/gradio_api/process_recording", "/gradio_api/stream/x"):
        assert ask(address, "POST", path, b"x", content_type="multipart/form-data; boundary=x")[0] == 404


def test_the_page_and_what_it_is_made_of_are_served_with_the_headers(address: str) -> None:
    status, headers, body = ask(address, "GET", "/")
    assert status == 200
    assert {name: headers[name] for name in guard.HEADERS} == guard.HEADERS
    assert b"<html" in body
    assert ask(address, "GET", "/config")[0] == 200
    assert ask(address, "GET", "/gradio_api/info")[0] == 200
    assert set(guard.HEADERS) <= set(ask(address, "GET", "/nowhere")[1])
    assert ask(address, "POST", "/", b"", content_length="0")[0] == 405


def test_a_proxys_word_on_the_host_goes_no_further(address: str) -> None:
    assert b"evil.example" not in ask(address, "GET", "/config", x_forwarded_host="evil.example")[2]


def test_bodies_are_bounded(address: str) -> None:
    large = json.dumps({"data": ["x" * routes.BODY]}).encode()
    kind = JSON["content-type"]
    assert ask(address, "POST", "/gradio_api/call/run", large, content_type=kind)[0] == 413
    assert ask(address, "POST", "/gradio_api/call/run", b"{}", content_type=kind, content_length="9" * 12)[0] == 413
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(large), large) for _ in range(2)) + b"0\r\n\r\n"
    chunked = ask(address, "POST", "/gradio_api/call/run", chunks, content_type=kind, transfer_encoding="chunked")
    assert chunked[0] == 413
    status, _, body = ask(address, "POST", "/gradio_api/component_server", large, content_type=kind)
    assert status == 400, body


def test_what_is_asked_of_functions_of_the_page_is_answered_by_a_sentence(address: str) -> None:
    _, _, config = ask(address, "GET", "/config")
    view = next(each for each in json.loads(config)["components"] if each["props"].get("elem_id") == "token-view")
    told = set()
    for name in ("open_trace", "recording", "missed", "page_of"):
        asked: Any
        for asked in (None, 3, [], {}, "x", {"run": []}, "NaN", "[" * 100_000, '{"type":"round","index":1e999}'):
            asking = {"component_id": view["id"], "fn_name": name, "session_hash": "s", "data": asked}
            status, answer = post(address, "/gradio_api/component_server", asking)
            assert status == 200
            assert set(answer) == {"error"}
            told.add(answer["error"])
    assert all(sentence.endswith((".", "?")) for sentence in told)


@pytest.mark.slow
def test_two_thousand_requests_at_random_get_no_500_and_leave_the_page_as_it_was(
    address: str, capfd: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(7)
    paths = [
        "/gradio_api/queue/join",
        "/gradio_api/run/pairs",
        "/gradio_api/run/predict",
        "/gradio_api/call/run",
        "/gradio_api/call/v2/run",
    ]
    paths += [
        "/gradio_api/component_server",
        "/gradio_api/cancel",
        "/gradio_api/reset",
        "/gradio_api/call/nowhere",
        "/login",
    ]
    values: list[Any] = [
        None,
        0,
        -1,
        1e308,
        "",
        "x",
        [],
        {},
        [[]],
        {"data": []},
        RUN,
        True,
        "\ud800",
        10**30,
        {"path": "/etc/passwd"},
    ]
    names = [
        "data",
        "fn_index",
        "session_hash",
        "event_id",
        "component_id",
        "fn_name",
        "trigger_id",
        "event_data",
        "prompt",
        "k",
    ]
    for _ in range(2000):
        body: Any = {name: chance.choice(values) for name in chance.sample(names, chance.randrange(len(names)))}
        if chance.random() < 0.1:
            body = chance.choice(values)
        raw = json.dumps(body).encode()
        if chance.random() < 0.05:
            raw = raw[: chance.randrange(len(raw) + 1)] + bytes([chance.randrange(256)])
        status, _, answer = ask(address, "POST", chance.choice(paths), raw, content_type=JSON["content-type"])
        assert status < 500
        assert b"Traceback" not in answer
    status, told = post(address, "/gradio_api/run/pairs", {"data": []})
    assert (status, told["data"][0][0]["backend"]) == (200, "toy")
    assert json.loads(ask(address, "GET", "/healthz")[2])["waiting"] == 0


def test_health_and_figures(address: str) -> None:
    assert json.loads(ask(address, "GET", "/healthz")[2]) | {"running": 0} == {
        "status": "ok",
        "pair": "toy target + toy draft",
        "engines": 1,
        "running": 0,
        "waiting": 0,
    }
    event = post(address, "/gradio_api/call/run", {"data": RUN})[1]["event_id"]
    assert b"complete" in ask(address, "GET", f"/gradio_api/call/run/{event}")[2]
    figures = ask(address, "GET", "/metrics")[2].decode()
    values = dict(line.rsplit(" ", 1) for line in figures.splitlines() if not line.startswith("#"))
    assert float(values['playground_runs_total{reason="length"}']) >= 1
    assert float(values['playground_tokens_total{arm="speculative"}']) >= 8
    assert float(values["playground_speedup_count"]) >= 1
    assert "playground_waiting 0.0" in figures
    assert "_created" not in figures


def test_a_fault_of_the_server_is_a_sentence_and_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("secret")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"host", b"localhost")]}
    finished(guard.Guard(broken, Desk())(scope, receive, send))
    assert sent[0]["status"] == 400
    assert b"secret" not in sent[1]["body"]
    assert "secret" in caplog.text
    assert "Traceback" not in caplog.text


def test_figures_are_this_machines_alone_where_a_login_is_asked_for() -> None:
    async def status(client: str, *more: tuple[bytes, bytes]) -> int:
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        async def receive() -> Message:
            raise AssertionError

        headers = [(b"host", b"localhost"), *more]
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/metrics",
            "query_string": b"",
            "headers": headers,
            "client": (client, 1),
        }
        await guard.Guard(receive, Desk(), login=True)(scope, receive, send)  # type: ignore[arg-type]
        return int(sent[0]["status"])

    assert finished(status("127.0.0.1")) == 200
    assert finished(status("10.0.0.1")) == 403
    assert finished(status("127.0.0.1", (b"x-forwarded-for", b"10.0.0.1"))) == 403


def test_a_switch_of_pairs_is_told_to_every_open_page() -> None:
    desk = Desk()
    desk.switches.tell("one")
    told: list[list[str]] = [[], []]

    async def page(place: int) -> None:
        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                told[place].append(message["body"].decode())
                if len(told[place]) == 1 and all(told):
                    threading.Thread(target=desk.switches.tell, args=("two",)).start()
                if len(told[place]) == 2:
                    left.set()

        left = asyncio.Event()

        async def receive() -> Message:
            await left.wait()
            return {"type": "http.disconnect"}

        headers = [(b"host", b"localhost")]
        scope = {"type": "http", "method": "GET", "path": "/switches", "query_string": b"", "headers": headers}
        await guard.Guard(receive, desk)(scope, receive, send)  # type: ignore[arg-type]

    async def scenario() -> None:
        await asyncio.gather(page(0), page(1))

    finished(scenario())
    assert told == [['data: "one"\n\n', 'data: "two"\n\n']] * 2
    assert not desk.switches.full
