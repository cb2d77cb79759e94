"""A pair on Neuron as the command line and the page have it: from its options to the last event."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the Neuron backend needs torch")

from app.backends.neuron import machine  # noqa: E402
from app.backends.neuron.upstream import run_upstream  # noqa: E402
from app.errors import PairError, RequestError  # noqa: E402
from app.neuron.catalogue import TRANSFORMERS_NEURONX  # noqa: E402
from app.record.trace import Round  # noqa: E402
from tests.support import neuron_device  # noqa: E402
from tests.support.neuron_device import Runtime  # noqa: E402
from tests.support.neuron_pairs import AGREEING, NO_ZERO, ON_NXD_INFERENCE, PROMPT, Load, V  # noqa: E402


def test_a_neuron_pair_runs_from_its_options_to_the_last_event(
    runtime: Runtime, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the command line does: options, pair, session, both arms one after the other; then upstream's loop."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from app.engine.session import Session
    from app.pairs import registry as pairs
    from app.pairs.options import PairOptions
    from app.record import trace

    monkeypatch.setattr(machine, "_devices", lambda: [Path("/dev/neuron0")])
    byte_level = Tokenizer(models.BPE({chr(ord("a") + i): i for i in range(V)}, []))
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    folders = {}
    for role, fake in (("target", NO_ZERO), ("draft", {**AGREEING, **NO_ZERO})):
        folders[role] = neuron_device.write_checkpoint(tmp_path / role, fake=fake, vocab_size=V, eos_token_id=[V - 1])
        byte_level.save(str(folders[role] / "tokenizer.json"))
    options = PairOptions("neuron", folders["target"], folders["draft"], n_positions=64, windows=(2, 4))
    with pytest.raises(PairError, match="--target DIR and --draft DIR"):
        pairs.load(PairOptions("neuron"))
    ours = Session(pairs.load(options))
    assert (ours.backend, ours.windows, ours.bit_identical) == ("neuron", (2, 4), False)

    request = trace.Request(prompt="abcabc", chat_template=False, max_tokens=12, k=4)
    for upstream in (False, True) if library == TRANSFORMERS_NEURONX else (False,):
        events = list(ours.run(request, upstream=upstream))
        assert isinstance(events[-1], trace.RunFinished)
        assert events[-1].reason in ("stop", "length"), events[-1].message
        assert trace.read(trace.write(events)) == events
        arms = [event.arm for event in events if isinstance(event, Round)]
        assert arms == sorted(arms, reverse=True)
        assert set(arms) == {"target", "speculative"}
    with pytest.raises(RequestError, match="k = 3 was not compiled"):
        ours.run(trace.Request(prompt="abc", chat_template=False, k=3))


@ON_NXD_INFERENCE
def test_upstreams_loop_is_not_nxd_inferences(pair: Load) -> None:
    target, draft = pair()
    with pytest.raises(RequestError, match="this pair runs by NxD Inference"):
        next(run_upstream(target, draft, PROMPT, max_tokens=9, k=3, stop_ids=frozenset()))
