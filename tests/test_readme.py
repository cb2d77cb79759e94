"""What the README shows is run as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from app.backends.toy import toy_pair
from app.engine.custom_acceptor import load_custom
from app.engine.pair import Pair
from app.engine.session import Session
from app.pairs import pair_files
from app.pairs.options import PairOptions
from app.record.metrics import Metrics
from app.record.trace import Request, Sampling
from tests.support.pages import served, toy_session

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def block(word: str) -> str:
    """The one Python block of the README that mentions `word`."""
    (found,) = (code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if word in code)
    return str(found)


def test_the_custom_acceptor_is_deterministic_at_any_temperature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_acceptors.py").write_text(block("class Greedy"))
    monkeypatch.syspath_prepend(tmp_path)
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


def test_the_client_example_streams_the_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    with served(toy_session()) as address:
        exec(block("gradio_client").replace("http://127.0.0.1:7860", address), {})
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("target []") for line in lines)
    assert any("accepted" in line for line in lines if line.startswith("speculative"))


def test_every_file_the_readme_points_to_exists() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


def test_every_command_of_the_readme_is_known() -> None:
    from app.__main__ import parser

    commands = parser()._subparsers._group_actions[0].choices  # type: ignore[union-attr]
    assert commands is not None
    known = {*commands, "setup", "test", "check"}
    for word in re.findall(r"\./launch\.sh ([a-z]+)", README):
        assert word in known, word


def test_the_pair_file_of_the_readme_is_one(tmp_path: Path) -> None:
    (found,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    file = tmp_path / "pair.toml"
    file.write_text(found)
    assert pair_files.read(file) == PairOptions(
        backend="torch",
        target=Path("meta-llama/Llama-3.1-8B-Instruct"),
        draft=Path("meta-llama/Llama-3.2-1B-Instruct"),
        dtype="bf16",
        n_positions=8192,
    )


def test_every_flag_of_the_readmes_commands_is_known() -> None:
    from app.__main__ import parser

    blocks = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
    shown = [words for language, block in blocks if not language for words in commands(block)]
    assert len(shown) > 12
    for words in shown:
        parser().parse_args(words)


def commands(block: str) -> list[list[str]]:
    """The arguments of every ./launch.sh in a block that is the app's to read."""
    found = []
    for line in block.replace("\\\n", " ").splitlines():
        if "./launch.sh" in line:
            words = shlex.split(line.partition("./launch.sh")[2], comments=True)
            if not words or words[0] not in ("setup", "test", "check"):
                found.append(words if words and not words[0].startswith("-") else ["serve", *words])
    return found
