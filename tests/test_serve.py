"""`serve` as a process: its ends, its login, its neighbours' proxy, odd names and locales, and the flags it refuses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.__main__ import main
from app.ui.serve import Address
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
LONG = ["a b c", 3, 240, 1.0, 1, 0, 0, "rejection", "lookup", "target", "", False]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    odd = tmp_path_factory.mktemp("served") / os.fsdecode(b"mod\xffel \xc3\xa9")
    return save_tokenizer(save_directory(odd, TINY | {"eos_token_id": 127}, weights(TINY)))


@contextmanager
def serving(model: Path, *flags: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its address, once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "app", "serve", "--port", str(port), "--target", str(model), *flags]
    settings = {**os.environ, "PLAYGROUND_MODELS": str(model.parent / "models"), **environment}
    process = subprocess.Popen(
        command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    address = f"http://127.0.0.1:{port}"
    try:
        while process.poll() is None and not answers(address):
            time.sleep(0.1)
        assert process.poll() is None, output(process)
        yield process, address
    finally:
        process.kill()
        process.wait()
        output(process)


def output(process: subprocess.Popen[str]) -> str:
    """All it wrote, once it has ended."""
    assert process.stdout is not None
    if process.stdout.closed:
        return ""
    with process.stdout:
        return process.stdout.read()


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/healthz", trust_env=False, timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def ends_in_the_middle_of_a_run(
    process: subprocess.Popen[str], address: str, number: signal.Signals, browser: httpx.Client
) -> tuple[int, str]:
    """The exit code of a server that is told to end while it answers, and all it wrote."""
    asked = browser.post("/gradio_api/call/run", json={"data": LONG})
    assert asked.status_code == 200, asked.text
    with browser.stream("GET", f"/gradio_api/call/run/{asked.json()['event_id']}") as stream:
        assert next(stream.iter_lines()) == "event: generating"
        os.kill(process.pid, number)
        # it is given two seconds where nothing else runs; an end that waits for the run, or an abort, is another thing
        return process.wait(60), output(process)


def browser_of(address: str) -> httpx.Client:
    return httpx.Client(base_url=address, trust_env=False, timeout=60)


def test_ctrl_c_in_a_run_ends_it_and_neither_locale_nor_surroundings_nor_an_odd_name_keeps_it_from_starting(
    model: Path,
) -> None:
    others: dict[str, Any] = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY"), "http://[::1]:9")
    others |= {"ALL_PROXY": "socks5://[::1]:9", "NO_PROXY": "[::1", "no_proxy": "", "SSL_CERT_FILE": "/nowhere"}
    others |= {"GRADIO_SERVER_PORT": "none", "GRADIO_ROOT_PATH": "/foreign-root"}
    ascii_ = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with (
        serving(model, **others, **ascii_) as (process, address),
        browser_of(address) as browser,
    ):
        config = browser.get("/config").text
        assert "mod\\\\udcffel" in config
        assert "foreign-root" not in config
        code, told = ends_in_the_middle_of_a_run(process, address, signal.SIGINT, browser)
        assert code == 130
        assert "Traceback" not in told
        assert f"The playground is at {address}" in told


def test_a_login_is_asked_for_by_a_file_that_ps_does_not_show_and_sigterm_in_a_run_ends_it(
    model: Path, tmp_path: Path
) -> None:
    (tmp_path / "logins").write_text("ann:secret one\n\nbob:two\n", encoding="utf-8")
    flags = ("--auth-file", str(tmp_path / "logins"))
    with (
        serving(model, *flags, PLAYGROUND_AUTH="eve:three") as (process, address),
        browser_of(address) as browser,
    ):
        assert browser.get("/config").status_code == 401
        assert browser.post("/gradio_api/call/run", json={"data": LONG}).status_code == 401
        wrong = browser.post("/login", data={"username": "ann", "password": "two"})
        assert wrong.status_code == 400
        for user, password in (("ann", "secret one"), ("eve", "three")):
            assert browser.post("/login", data={"username": user, "password": password}).status_code == 200
        assert browser.get("/config").status_code == 200
        code, told = ends_in_the_middle_of_a_run(process, address, signal.SIGTERM, browser)
        assert code == 0
        assert "Traceback" not in told


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--auth", "ann"], "--auth wants USER:PASSWORD"),
        (["--auth-file", "/nowhere"], "/nowhere cannot be read"),
        (["--run-seconds", "0"], "--run-seconds is 0; choose a number above 0"),
        (["--run-seconds", "nan"], "--run-seconds is nan"),
        (["--max-tokens-limit", "-1"], "--max-tokens-limit is -1"),
        (["--max-waiting", "99999999999"], "--max-waiting is 1e+11"),
        (["--round-seconds", "inf"], "--round-seconds is inf"),
        (["--memory-limit", "inf"], "--memory-limit is inf"),
        (["--memory-limit", "1e300"], "--memory-limit is 1e+300"),
        (["--port", "65536"], "There is no port 65536"),
    ],
)
def test_flags_that_cannot_work_are_a_sentence(
    flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["serve", *flags]) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("host", "public"),
    [("127.0.0.1", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("10.1.2.3", True)],
)
def test_an_address_that_others_reach_is_known_as_one(host: str, public: bool) -> None:
    assert Address(host, 1).is_public() is public
