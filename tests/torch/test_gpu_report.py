"""The report of `bench gpu`, where parts of it cannot be had: on a GPU that is lent there is one try."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.__main__ import main
from app.errors import PairError

torch = pytest.importorskip("torch", reason="needs app/backends/requirements-torch.txt")
from app.backends.torch import devices, network, operations  # noqa: E402
from app.bench import gpu, gpu_models  # noqa: E402
from app.bench.gpu_embedded import questions  # noqa: E402
from app.bench.gpu_plan import Plan  # noqa: E402

CPU = torch.device("cpu")


PARTS = """
import sys, time
from pathlib import Path
from app.bench.gpu_report import PartTooLong, Report, within

def endless():
    while True:
        time.sleep(0.01)

report = Report(Path(sys.argv[1]), budget=50)
assert report.part("one", lambda: 1 / 0) is None
assert report.part("two", endless, most=0.05) is None
assert report.part("three", lambda: 3, needs=60) is None
assert report.part("four", lambda: [4], shown=lambda value: {"it": value[0]}) == [4]
assert set(report.missing()) == {"one", "two", "three"}

with within(0.05):
    pass
time.sleep(0.1)
try:
    with within(0.05):
        time.sleep(1)
except PartTooLong:
    print("cut off")
"""
"""In a process of its own, as the command is: an alarm interrupts all of a process's threads, those of libraries that
other tests loaded too."""


def test_a_part_that_fails_or_takes_too_long_is_a_sentence_and_the_others_go_on(tmp_path: Path) -> None:
    file = tmp_path / "gpu.json"
    done = subprocess.run([sys.executable, "-c", PARTS, str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "cut off\n"), done.stderr
    written = json.loads(file.read_text())
    assert written["one"] == {"failed": "ZeroDivisionError: division by zero"}
    assert written["two"]["failed"].startswith("PartTooLong: it took longer than")
    assert written["three"]["left_out"].endswith("of 50 seconds were used")
    assert written["four"] == {"it": 4}


def test_models_that_cannot_be_made_and_an_absent_pair_leave_the_rest_of_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: Plan) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    def absent(*_: Any) -> None:
        raise PairError("The embedded target is not here; run ./launch.sh setup to fetch it.")

    monkeypatch.setattr(gpu.Models, "of", full)
    monkeypatch.setattr(gpu, "same_text_embedded", absent)
    file = tmp_path / "gpu.json"
    assert main(["bench", "gpu", "--tiny", "--no-peers", "--json", str(file)]) == 0
    parts = json.loads(file.read_text())
    assert parts["models"] == {"failed": "OutOfMemoryError: CUDA out of memory."}
    assert "run ./launch.sh setup" in parts["same_text_embedded"]["failed"]
    assert parts["same_text_small"]["identical"]
    assert parts["goals"]["identical"]["met"]
    said = capsys.readouterr().out
    assert "models: not measured (OutOfMemoryError" in said
    assert "same_text_embedded: not measured (PairError" in said


def test_what_makes_a_card_slower_than_it_is_is_said() -> None:
    parts: dict[str, Any] = {"models": {"fused_kernels": "used"}, "recorded": {"programs": 9, "faults": []}}
    assert gpu.slower(parts) == []
    assert gpu.slower({"models": {"failed": "no"}, "recorded": {"left_out": "no time"}}) == []
    parts["models"] = {"fused_kernels": "not used: no C compiler"}
    parts["recorded"] = {"programs": 9, "faults": ["operation not permitted"]}
    assert gpu.slower(parts) == [
        "Slower than this card could be: fused kernels are not used: no C compiler",
        "Slower than this card could be: a pass was not recorded: operation not permitted",
    ]


def test_a_file_that_cannot_be_written_is_known_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpu", "--tiny", "--json", str(tmp_path)]) == 2
    assert "cannot be written (Is a directory); choose another file with --json." in capsys.readouterr().err


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_where_there_is_no_gpu_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "gpu"]) == 2
    said = capsys.readouterr().err
    assert "bench gpu measures a GPU and PyTorch sees none here (" in said
    assert devices.why_no_accelerator() in said
    assert main(["bench", "gpu", "--embedded", "--device", "cuda"]) == 2
    assert "PyTorch cannot use the device 'cuda'" in capsys.readouterr().err
    assert main(["bench", "gpu", "--json", str(tmp_path / "none" / "gpu.json")]) == 2
    assert "There is no folder for" in capsys.readouterr().err


def test_questions_go_on_and_no_two_are_the_same() -> None:
    asked = questions([f"question {number}" for number in range(48)])
    said = [next(asked)[1] for _ in range(150)]
    assert len({(each.prompt, each.chat_template) for each in said}) == 150
    assert {each.k for each in said} == {3, 5, 8}
    again = questions([f"question {number}" for number in range(48)], first=100)
    assert next(again) == (100, said[100])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kernels_that_compute_something_else_are_found(dtype: Any) -> None:
    of = gpu_models.network(gpu_models.TINY, CPU, dtype)
    plain = operations.Plain()
    with torch.inference_mode():
        assert network.deviation(plain, plain, of) is None
        for name in ("add_norm", "attend", "silu_mul"):
            kernels: Any = SimpleNamespace(
                **{each: getattr(plain, each) for each in ("angles", "add_norm", "attend", "silu_mul")}
            )
            honest = getattr(plain, name)
            for by, fault in ((1.003, None), (1.05, f"{name} of 2 rows is 0.05 from torch's own here")):
                setattr(kernels, name, _scaled(honest, by))
                assert network.deviation(kernels, plain, of) == fault


def _scaled(honest: Any, by: float) -> Any:
    def scaled(*given: Any) -> Any:
        result = honest(*given)
        return tuple(each * by for each in result) if isinstance(result, tuple) else result * by

    return scaled
