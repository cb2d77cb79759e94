"""What loading takes: in a process of its own, against the bytes of the weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from app.backends.openvino.loading import PEAK
from app.bench.shapes import TINYLLAMA, write_directory, write_gguf
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights

SHAPE = {
    **TINYLLAMA,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 14,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
}
SLACK = 24 << 20  # bytes: what allocators and the interpreter keep back, whatever is loaded
CHILD = """
import json, sys, threading, time
from pathlib import Path
from app.bench.memory import reset_peak, status
from app.pairs.options import PairOptions
from app.pairs.registry import load

tiny, path, dtype = sys.argv[1:]
load(PairOptions(target=Path(tiny), dtype=dtype)).target.new_sequence().forward([1, 2, 3], 3)
reset_peak()
before = status("VmRSS")
anonymous, done = [status("RssAnon")], threading.Event()

def watch():
    while not done.wait(0.002):
        anonymous.append(status("RssAnon"))

watcher = threading.Thread(target=watch)
watcher.start()
target = load(PairOptions(target=Path(path), dtype=dtype, n_positions=64)).target
done.set()
watcher.join()
sequence = target.new_sequence()
for rows in (3, 1, 5):
    sequence.forward([1] * rows, rows)
held, peak = status("VmRSS") - before, status("VmHWM") - before
own = max(anonymous) - anonymous[0]
print(json.dumps({"weights": target.memory(), "held": held, "peak": peak, "own": own}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what a process held at most")
@pytest.mark.parametrize(("kind", "dtype"), [("Q8_0", "int8"), ("BF16", "bf16")])
def test_loading_holds_little_more_than_the_weights_and_never_twice_as_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str
) -> None:
    """A copy too many, or a matrix kept in float32, shows: at the first start and at one from the cache."""
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path / "models"))
    tiny = save_tokenizer(save_directory(tmp_path / "tiny", TINY, weights(TINY)))
    path = tmp_path / ("model.gguf" if kind == "Q8_0" else "model")
    if kind == "Q8_0":
        write_gguf(path, kind, SHAPE)
    else:
        write_directory(path, SHAPE)
    for start in ("first", "second"):
        found = child(tiny, path, dtype)
        assert found["held"] <= 1.3 * found["weights"] + SLACK, start
        assert found["peak"] <= 2 * found["weights"] + SLACK, start
        assert found["own"] <= (PEAK if start == "first" else 1.1) * found["weights"] + SLACK, start


def child(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-c", CHILD, *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=Path(__file__).resolve().parent.parent
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
