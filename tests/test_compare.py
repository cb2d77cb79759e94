"""The full comparison on toys, its table and page, and peers that cannot run named instead of faked."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from app.__main__ import main
from app.backends.toy import toy_pair
from app.bench import compare, peer_files, peers, report
from app.bench.cli import README
from app.bench.peer_files import PeerFiles
from app.engine.pair import Pair
from app.errors import RequestError
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from tests.support.command import refusal

NO_FILES = PeerFiles(Path("a"), Path("b"), Path("c"), Path("d"), Path("e"))


@pytest.fixture(scope="module")
def found() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        toys = toy_pair(259, agreement="good", seed=1, n_positions=512)
        patch.setattr(pairs, "load", lambda options: Pair("toys", "toy", *toys))
        patch.setattr(compare, "BANDWIDTH_BYTES", 1 << 20)
        plan = compare.Plan(["hello", "good day"], [2, 4], ["int8"], [], 24, contexts=(16, 64, 100_000))
        return compare.compare(plan)


def test_every_window_and_auto_is_measured_on_every_prompt(found: dict[str, Any]) -> None:
    (ours,) = found["ours"]
    assert [row["k"] for row in ours["speculative"]] == ["2", "4", "auto"]
    assert all(row["runs"] == row["identical"] == 2 for row in ours["speculative"])
    assert ours["target"]["runs"] == 6
    assert ours["target"]["mean_acceptance_length"] == 1
    for row in ours["speculative"][:2]:
        assert 1 <= row["mean_acceptance_length"] <= int(row["k"])
        assert row["quartiles"][0] <= row["quartiles"][1]
        assert 0 < row["host_share"] < 1
    assert found["bandwidth"] > 0
    assert ours["roofline"]["fraction"] == pytest.approx(ours["roofline"]["floor_s"] / ours["roofline"]["pass_s"])
    assert [row["context"] for row in ours["contexts"]] == [16, 64], "what the context does not hold is left out"
    assert json.loads(json.dumps(found)) == found


def test_the_table_puts_ratios_first_and_goes_between_the_readmes_marks(found: dict[str, Any], tmp_path: Path) -> None:
    peer = {
        "name": "llama.cpp", "version": "llama-cpp-python 9", "runs": 2, "num_draft": None, "tpot_s": 0.01,
        "tpot_median_s": 0.01, "tpot_quartiles_s": [0.01, 0.01], "ttft_s": 0.1, "memory": 1, "same_text": 1,
        "our_target_over_it": 0.5, "it_over_our_best": 3.0,
    }  # fmt: skip
    whole = {**found, "peers": [peer], "missing": {"openvino-genai": "openvino-genai did not run (no such module)."}}
    lines = list(report.table(whole))
    assert lines[0].split("|")[2].strip() == "against our target alone"
    assert "**1.00×**" in lines[2]
    assert sum(line.startswith("| speculative") for line in lines) == 3
    assert any(line.startswith("| llama.cpp (llama-cpp-python 9)") for line in lines)
    text = "\n".join(lines)
    assert "Missing: openvino-genai. openvino-genai did not run (no such module)." in text
    assert "our target alone takes 0.50 of its time a token" in text
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n", encoding="utf-8")
    report.into_readme(whole, readme)
    report.into_readme(whole, readme)
    written = readme.read_text(encoding="utf-8")
    assert written.startswith("before\n")
    assert written.endswith("after\n")
    assert "old" not in written
    assert written.count("| target alone, int8 |") == 1


def test_the_readme_has_the_marks() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count(report.BEGIN) == text.count(report.END) == 1


def test_the_page_asks_nothing_of_any_host(found: dict[str, Any]) -> None:
    page = report.page(found)
    assert page.count('class="plotly-graph-div"') == 3
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", page)


def test_a_peer_that_is_not_installed_is_named_with_the_reason() -> None:
    with pytest.raises(RequestError, match=r"llama\.cpp did not run \(ModuleNotFoundError"):
        peers.Peer("llama.cpp", NO_FILES, [2], 1, Path(sys.executable))


def test_a_peer_is_asked_line_by_line_and_its_fault_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real worker over a stand-in for the library, which says one more than the last id and refuses id 9."""
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp" / "__init__.py").write_text(
        "__version__ = '9'\n"
        "class Llama:\n"
        "    def __init__(self, path, draft_model=None, **options): print('noise of a library')\n"
        "    def reset(self): pass\n"
        "    def generate(self, ids, temp):\n"
        "        if 9 in ids: raise ValueError('nine')\n"
        "        token = ids[-1]\n"
        "        while True:\n"
        "            token += 1\n"
        "            yield token\n"
    )
    (tmp_path / "llama_cpp" / "llama_speculative.py").write_text("class LlamaDraftModel: pass\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    peer = peers.Peer("llama.cpp", NO_FILES, [6], 1, Path(sys.executable))
    try:
        assert peer.version == "llama-cpp-python 9"
        assert peer.ask([1, 2], 3).ids == [3, 4, 5]
        answer = peer.ask([4], 30)
        assert answer.ids == [5, 6], "nothing follows a stop token"
        assert answer.tpot_s is not None
        with pytest.raises(RequestError, match=r"llama\.cpp failed \(ValueError: nine\)"):
            peer.ask([9], 3)
        assert peer.ask([1], 1).tpot_s is None
    finally:
        peer.close()


def test_the_files_of_a_pair_decide_which_peers_can_read_it(tmp_path: Path) -> None:
    (tmp_path / "draft").mkdir()
    (tmp_path / "big.Q4_K_M.gguf").touch()
    files = peer_files.of(PairOptions(target=tmp_path / "big.Q4_K_M.gguf", draft=tmp_path / "draft"))
    runs = [name for name in peers.ALL if peers.lacking(name, files) is None]
    assert runs == ["llama.cpp", "openvino-genai"]
    assert peers.read_by("llama.cpp", files) == "big.Q4_K_M.gguf"
    assert (
        peers.lacking("llama.cpp+draft", files) == "llama.cpp+draft reads the draft as a GGUF, and this pair's is none."
    )
    assert (
        peers.lacking("transformers", files) == "transformers reads the target as a directory, and this pair's is none."
    )


def test_a_pair_file_is_measured_in_its_own_precision(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pair.toml"
    file.write_text('target = "big"\n')
    assert main(["bench", "--pair", str(file), "--peers", "none"]) == 2
    assert "names no draft" in capsys.readouterr().err
    file.write_text('target = "big"\ndraft = "small"\ndtype = "bf16"\n')
    plans: list[compare.Plan] = []

    def compared(plan: compare.Plan) -> dict[str, Any]:
        plans.append(plan)
        return {}

    monkeypatch.setattr(compare, "compare", compared)
    monkeypatch.setattr(report, "table", lambda result: [])
    assert main(["bench", "--pair", str(file), "--peers", "none"]) == 0
    assert (list(plans[0].dtypes), plans[0].pair.draft) == (["bf16"], Path("small"))
    assert main(["bench", "--pair", str(file), "--readme"]) == 2
    assert "is the embedded pair's" in capsys.readouterr().err


def test_a_speculative_peer_keeps_its_fastest_draft_length(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = peers.Peer.__new__(peers.Peer)
    peer.name, peer.num_draft = "x+draft", 1
    monkeypatch.setattr(
        peer, "ask", lambda ids, max_tokens: peers.Answer([1, 2], 0.1, abs(peer.num_draft - 2) + 0.1, 1)
    )
    peer.tune([[1]], 4)
    assert peer.num_draft == 2


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (["--count", "0"], "--count: '0' is no whole number"),
        (["--k", "two"], "write windows separated by commas"),
        (["--k", "1"], "k = 1 cannot be measured"),
        (["--dtypes", "u4"], "no precision 'u4'"),
        (["--peers", "vllm"], "no peer 'vllm'"),
        (["--json", "/nowhere/x.json"], "no folder for"),
        (["page", "--turns", "0"], "--turns: '0' is no whole number"),
        (["page", "--max-tokens", "1"], "--max-tokens: '1' is no whole number from 2"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(
    capsys: pytest.CaptureFixture[str], flags: list[str], fault: str
) -> None:
    assert fault in refusal(capsys, "bench", *flags)
