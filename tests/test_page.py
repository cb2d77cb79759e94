"""The page through gradio_client: its endpoints, and what it refuses."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.state_holder import SessionState
from gradio_client import Client  # type: ignore[import-untyped]
from gradio_client.exceptions import AppError  # type: ignore[import-untyped]
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from app.record import metrics, trace
from app.record.conversation import turns
from app.ui import page
from app.ui.first_script import FirstScript
from app.ui.knobs import request_of
from tests.support.pages import foreign, served, toy_session


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with served(toy_session(agreement="good", n_positions=512)) as address:
        yield Client(address, verbose=False)


def lines(job: Any) -> list[str]:
    job.result(timeout=60)
    return [str(line) for line in job.outputs()]


def test_run_streams_the_events_of_a_trace(client: Client) -> None:
    events = trace.read(lines(client.submit("Name three rivers.", k=3, max_tokens=24, api_name="/run")))
    summary = metrics.summary(events)
    assert summary["reason"] in ("length", "stop")
    assert summary["first_divergence"] is None
    assert summary["arms"]["target"]["token_ids"] == summary["arms"]["speculative"]["token_ids"]


def test_run_takes_every_knob(client: Client) -> None:
    knobs = {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "seed": 7, "acceptor": "coupled", "arms": "speculative"}
    first, second = (trace.read(lines(client.submit("Hi", max_tokens=16, api_name="/run", **knobs))) for _ in range(2))
    start = first[0]
    assert isinstance(start, trace.RunStarted)
    assert start.request.sampling == trace.Sampling(0.8, 0.9, 20, 7)
    assert start.request.acceptor == "coupled"
    ids = [metrics.summary(events)["arms"]["speculative"]["token_ids"] for events in (first, second)]
    assert ids[0] == ids[1]


def test_a_session_holds_only_the_blocks_that_were_changed_for_it() -> None:
    blocks = page.build_page(toy_session())
    known = next(iter(blocks.blocks))
    assert any(each["props"].get("elem_id") == "prompt" for each in blocks.get_config_file()["components"])
    one, other, changed = SessionState(blocks), SessionState(blocks), gr.Textbox(render=False)
    one[known] = changed
    assert one[known] is changed
    assert other[known] is blocks.blocks[known]
    assert len(one.blocks_config.blocks) == len(blocks.blocks)
    assert (len(one.config_values), len(other.config_values)) == (1, 0)
    assert blocks.blocks[known] is not changed


ROOT = Path(__file__).resolve().parent.parent
HELD = """
import ctypes
from app.ui import upkeep

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena small blocks mapped_blocks mapped a b c d e".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Info
if {told}:
    upkeep.free_large_blocks()
for size in range(100_000, 4_000_000, 300_000):
    bytes(size)
before = libc.mallinfo2().mapped
held = [bytes(100_000) for _ in range(20)]
print((libc.mallinfo2().mapped - before) // 100_000)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="another C library than glibc")
def test_large_blocks_stay_the_systems_own_whatever_was_freed_before() -> None:
    told, left_alone = (
        int(subprocess.check_output([sys.executable, "-c", HELD.replace("{told}", str(each))], cwd=ROOT))
        for each in (True, False)
    )
    # a block may still fit into a hole that was there before
    assert left_alone < 5, "what is freed raises the size of blocks that are given back"
    assert told > 15


@pytest.mark.slow
def test_gradio_is_imported_without_making_stubs_of_its_components() -> None:
    code = """
import ast, inspect
kept = inspect.getfile
ast.get_source_segment = None  # which a stub is made with
import app.ui
import gradio
assert inspect.getfile is kept
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_run_takes_auto_by_name(client: Client) -> None:
    (start, *_) = trace.read(lines(client.submit("Hi", k="auto", max_tokens=8, api_name="/run")))
    assert isinstance(start, trace.RunStarted)
    assert start.request.k == "auto"


def test_run_takes_a_conversation_in_the_prompts_place(client: Client) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    asked = [*messages, {"role": "user", "content": "And?"}]
    (start, *_) = trace.read(lines(client.submit(asked, max_tokens=8, api_name="/run")))
    assert isinstance(start, trace.RunStarted)
    assert turns(start.request) == asked


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"prompt": " "}, "prompt is empty"),
        ({"prompt": "Hi", "k": 99}, "window k is 99"),
        ({"prompt": "Hi", "k": "some"}, "'some' is no window"),
        ({"prompt": "Hi", "temperature": -1}, "temperature"),
        ({"prompt": "Hi", "acceptor": "nobody"}, "no acceptor 'nobody'"),
        ({"prompt": "Hi", "arms": "three"}, "no arm 'three'"),
        ({"prompt": "long " * 400}, "shorten it"),
        ({"prompt": [{"role": "user", "content": "Hi"}] * 2}, "Turns 1 and 2 are both the user's"),
        ({"prompt": ["Hi"]}, "Message 1 is no role and content"),
        ({"prompt": {"role": "user"}}, "messages are no list"),
        ({"prompt": []}, "prompt is empty"),
    ],
)
def test_bad_requests_are_sentences(client: Client, knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(AppError, match=words):
        client.submit(api_name="/run", **knobs).result(timeout=60)


def test_pairs_describes_what_is_loaded(client: Client) -> None:
    (pair,) = client.predict(api_name="/pairs")
    assert pair["target"]["name"] == "toy target"
    assert pair["bit_identical"] is True
    assert {"name", "description", "lossless", "same_text"} == set(pair["acceptors"][0])
    assert pair["process_memory"] > 0


def test_export_makes_a_page_of_a_trace_and_refuses_others(client: Client) -> None:
    events = lines(client.submit("Hi", max_tokens=8, api_name="/run"))
    exported = client.predict("\n".join(events), api_name="/export")
    assert exported.startswith("<!doctype html>")
    assert json.dumps(json.loads(events[0])["pair"]) in exported.replace('\\"', '"')
    with pytest.raises(AppError, match="not JSON"):
        client.predict("no trace", api_name="/export")


def test_only_the_documented_endpoints_are_public(client: Client) -> None:
    known = client.view_api(return_format="dict", print_info=False)
    assert isinstance(known, dict)
    assert set(known["named_endpoints"]) == {"/run", "/pairs", "/export"}
    assert not known["unnamed_endpoints"]


def test_sliders_give_whole_numbers_and_an_emptied_seed_is_zero() -> None:
    request = request_of("Hi", 4.0, 64.0, 0, 1, 20.0, None, "rejection", "draft", "both", "", True)
    assert (request.k, request.max_tokens, request.sampling.top_k, request.sampling.seed) == (4, 64, 20, 0)
    assert isinstance(request.k, int)


def test_page_is_served_whole_from_this_host() -> None:
    options = page.launch_options()
    assert options["share"] is False
    assert foreign(options["head"]) == []


def test_first_script_is_put_before_all_others_of_the_document_and_nowhere_else() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        chunks = [b"<html><he", b"ad><script>later()</script></head>", "ä<head>".encode()]
        length = str(sum(map(len, chunks))).encode()
        headers = [(b"Content-Type", b"text/html; charset=utf-8"), (b"Content-Length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for chunk in chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": chunk is not chunks[-1]})

    client = TestClient(FirstScript(app, "first()"))
    plain = "<html><head><script>later()</script></head>ä<head>"
    with_it = plain.replace("<head>", "<head><script>first()</script>", 1)
    document = client.get("/")
    assert document.text == with_it
    assert int(document.headers["content-length"]) == len(with_it.encode())
    assert client.get("/config").text == client.post("/").text == plain
