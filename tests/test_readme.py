"""What the documents show is run: every command with cheap arguments, every block of Python as it stands."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pytest

from app.__main__ import COMMANDS, main, parser
from app.backends.toy import toy_pair
from app.engine.custom_acceptor import load_custom
from app.engine.pair import Pair
from app.engine.session import Session
from app.pairs import pair_files, registry
from app.pairs.options import PairOptions
from app.record.metrics import Metrics
from app.record.trace import Request, Sampling
from tests.support.documents import DOCUMENTS, ROOT, blocks, shown_commands
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights
from tests.support.pages import served, toy_session

SHELL = ("test", "check")
"""Commands of launch.sh alone."""
SHOWN = list(dict.fromkeys(command for document in DOCUMENTS for command in shown_commands(document)))


def words(command: str) -> list[str]:
    each = shlex.split(command)
    return each if each and not each[0].startswith("-") else ["serve", *each]


def test_commands_are_shown_and_known() -> None:
    assert len(SHOWN) > 20
    assert {words(command)[0] for command in SHOWN} <= {*COMMANDS, *SHELL}


@pytest.mark.parametrize("command", [each for each in SHOWN if words(each)[0] not in SHELL])
def test_every_command_shown_is_understood(command: str) -> None:
    parser().parse_args(words(command))


def needs_hardware(command: str) -> bool:
    """Neuron's run in tests/neuron on its fakes; the stages of distill in test_distill, with a target of their own."""
    return "--backend neuron" in command or words(command)[0] in ("distill", "setup")


@pytest.fixture(scope="module")
def load() -> Callable[[PairOptions], Pair]:
    return lru_cache(registry.load)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(save_directory(tmp_path_factory.mktemp("tiny") / "tiny", TINY, weights(TINY)))


TESTED_ELSEWHERE = ("serve", "bench")
"""Commands that stay or take minutes: their flags are read here, what they do is tested elsewhere."""


@pytest.mark.weights
@pytest.mark.parametrize("command", [c for c in SHOWN if words(c)[0] not in SHELL and not needs_hardware(c)])
def test_every_command_shown_runs(
    command: str,
    load: Callable[[PairOptions], Pair],
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With tiny checkpoints for the ones named, and few tokens."""
    if "--backend torch" in command and not (find_spec("torch") and find_spec("transformers")):
        pytest.skip("needs app/backends/requirements-torch.txt")
    pair_file = tmp_path / "pair.toml"
    pair_file.write_text(f'target = "{tiny}"\ndraft = "{tiny}"\nn_positions = 256\n')
    (tmp_path / "my_acceptors.py").write_text(python_block("class Greedy"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(registry, "load", load)
    monkeypatch.setattr("app.bench.cli.load", load)
    cheap = {
        "--target": str(tiny),
        "--draft": str(tiny),
        "--n-positions": "256",
        "--pair": str(pair_file),
        "--pairs": str(tmp_path),
        "--out": str(tmp_path / "out.html"),
        "--max-tokens": "4",
        "--count": "1",
        "--ks": "2,3",
        "--port": "0",
        "--starts": "1",
        "--turns": "1",
    }
    given = words(command)
    if given[0] in TESTED_ELSEWHERE:
        parser().parse_args(given)
        return
    if given[0] == "plan":
        cheap = {}
    for flag, value in cheap.items():
        if flag in given:
            given[given.index(flag) + 1] = value
    if given[0] in ("run", "sweep") and "--max-tokens" not in given:
        given += ["--max-tokens", "4"]
    if given[0] == "sweep" and "--count" not in given:
        given += ["--count", "1"]
    assert main(given) == 0


def python_block(word: str) -> str:
    """The one block of Python in all documents that has this word."""
    (code,) = (code for document in DOCUMENTS for code in blocks(document, "python") if word in code)
    return code


def test_the_custom_acceptor_is_deterministic_at_any_temperature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_acceptors.py").write_text(python_block("class Greedy"))
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    acceptor = load_custom("my_acceptors:Greedy")
    assert acceptor.description == "Deterministic: a draft is kept while it is the target's likeliest token."
    target, draft, tokenizer = toy_pair(259, seed=2)
    session = Session(Pair("toys", "toy", target, draft, tokenizer), acceptor)
    texts = set()
    for seed in range(3):
        sampling = Sampling(temperature=1.0, seed=seed)
        request = Request(prompt="hello", max_tokens=20, sampling=sampling, acceptor=acceptor.name)
        metrics = Metrics(session.run(request))
        assert metrics.reason != "error", metrics.message
        texts.add(metrics.text("speculative"))
    assert len(texts) == 1


@pytest.mark.slow
def test_the_client_example_streams_the_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    with served(toy_session()) as address:
        exec(python_block("gradio_client").replace("http://127.0.0.1:7860", address), {})
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("target []") for line in lines)
    assert any("accepted" in line for line in lines if line.startswith("speculative"))


def test_every_block_of_python_is_run_by_a_test() -> None:
    """Here, and in test_comparison the one of app/record."""
    shown = [code for document in DOCUMENTS for code in blocks(document, "python")]
    known = ("class Greedy", "gradio_client", "app.record")
    assert [code for code in shown if not any(word in code for word in known)] == []


def test_the_pair_files_shown_are_ones(tmp_path: Path) -> None:
    shown = [code for document in DOCUMENTS for code in blocks(document, "toml")]
    assert shown
    for number, code in enumerate(shown):
        file = tmp_path / f"{number}.toml"
        file.write_text(code)
        options = pair_files.read(file)
        assert str(options.target) in code
        assert options.backend in code
