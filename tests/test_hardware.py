"""The Hardware tab: what a plan and a reading look like, escaped, and the tab's wiring."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import gradio as gr
import pytest

from app.neuron.catalogue import CORE_BYTES, INSTANCES, MODELS, ModelConfig
from app.neuron.monitor import CoreUse, MemoryMonitor, MemoryReading, parse_report
from app.neuron.plan import plan
from app.ui import hardware, plan_view

FIXTURE = Path(__file__).parent / "neuron" / "fixtures" / "neuron_monitor_trn1_32xlarge.jsonl"


class Balanced(HTMLParser):
    """Fails where tags do not close in order; gathers the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def text(markup: str) -> str:
    parser = Balanced()
    parser.feed(markup)
    assert parser.open == []
    return parser.text


def heights(markup: str) -> list[float]:
    return [float(value) for value in re.findall(r'class="m-[a-z0-9-]+" style="height:([\d.]+)%', markup)]


def test_the_published_example_is_shown() -> None:
    markup = hardware.planned("trn1.32xlarge", "llama-2-70b", "llama-2-7b", "bf16", 2048, "recommended", hardware.SAME)
    shown = text(markup)
    assert "tp_degree 32 for both" in shown
    assert "more than 10 cores" in shown
    assert "more than 2 cores" in shown
    assert "1, 2, 8, 16, 32" in shown
    assert shown.index("Load the draft") < shown.index("Load the target")
    assert "estimate" in shown


@pytest.mark.parametrize("instance", ["inf2.xlarge", "inf2.48xlarge", "trn1.32xlarge"])
def test_a_bar_for_each_core_and_its_parts_to_scale(instance: str) -> None:
    result = plan(instance, "llama-3.2-3b", "llama-3.2-1b", target_tp=2)
    assert result.per_core is not None
    markup = plan_view.plan_html(result)
    assert markup.count('class="core"') == 2
    assert markup.count('class="core idle"') == INSTANCES[instance].num_cores - 2
    drawn = heights(markup)
    assert len(drawn) == 2 * 5
    assert sum(drawn) / 2 == pytest.approx(100 * result.per_core.total / CORE_BYTES, abs=0.05)


def test_what_does_not_fit_rises_above_the_line() -> None:
    markup = plan_view.plan_html(plan("trn1.32xlarge", "llama-2-70b", "llama-2-7b", "f32", target_tp=16))
    limit = float(re.findall(r'class="limit" style="bottom:([\d.]+)%', markup)[0])
    assert limit < 99
    assert sum(heights(markup)) / 16 == pytest.approx(100, abs=0.1)
    assert "Cannot work" in text(markup)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        (("trn2.48xlarge", "llama-2-70b", "llama-2-7b", "bf16", 2048, "recommended", hardware.SAME), "trn2"),
        (("trn1.32xlarge", "llama-2-70b", "llama-2-7b", "bf16", 2048, 32, 8), "nec_comm is already init'd"),
        (("trn1.32xlarge", "llama-2-70b", "llama-2-7b", "bf16", 2048, 4, hardware.SAME), "does not allow tp_degree 4"),
        (("inf2.xlarge", "llama-2-70b", "llama-2-7b", "bf16", 2048, "recommended", hardware.SAME), "trn1.32xlarge"),
        (("trn1.32xlarge", "llama-3-70b", "llama-2-7b", "bf16", 2048, "recommended", hardware.SAME), "tokenizer"),
        (("trn1.32xlarge", "llama-2-70b", "llama-2-7b", "bf16", None, "recommended", hardware.SAME), "0 positions"),
        (("nowhere", "llama-2-70b", "llama-2-7b", "bf16", 2048, "recommended", hardware.SAME), "nowhere"),
    ],
)
def test_refusals_say_why(knobs: tuple[str, str, str, str, float | None, str | int, str | int], said: str) -> None:
    assert said in text(hardware.planned(*knobs))


def test_a_visitor_cannot_name_a_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"secret": 1}')
    markup = hardware.planned(
        "trn1.32xlarge", str(tmp_path), "llama-2-7b", "bf16", 2048, hardware.RECOMMENDED, hardware.SAME
    )
    assert "There is no model" in text(markup)


def test_names_are_text() -> None:
    evil = ModelConfig("<script>alert(1)</script>", 32000, 4096, 32, 32, 32, 11008, 4096)
    for markup in (
        plan_view.plan_html(plan("trn1.32xlarge", evil, evil)),
        plan_view.plan_html(plan("inf2.xlarge", evil, MODELS["llama-3-8b"])),
        plan_view.error_html("<script>alert(1)</script>"),
        plan_view.memory_html(MemoryReading(1, note="<script>alert(1)</script>")),
    ):
        assert "<script" not in markup
        assert "<script>alert(1)</script>" in text(markup)


def test_live_memory_on_a_neuron_machine() -> None:
    reading = parse_report(FIXTURE.read_text(), 4242).reading
    assert reading is not None
    markup = plan_view.memory_html(reading)
    assert markup.count('class="core"') == 32
    assert "179.3 GB on 32 NeuronCores" in text(markup)
    assert "core 31, the fullest: 5.6 GB of 17.2 GB" in text(markup)


def test_live_memory_elsewhere() -> None:
    shown = text(plan_view.memory_html(MemoryReading(412 * 10**6, note="neuron-monitor is not installed here.")))
    assert "Memory of this process" in shown
    assert "0.4 GB" in shown
    assert "not installed here" in shown
    assert "NeuronCores" not in shown


def test_small_uses_are_in_megabytes() -> None:
    reading = MemoryReading(33_554_432, (CoreUse(0, model_code=33_554_432),), on_device=True)
    assert "34 MB" in text(plan_view.memory_html(reading))


def test_what_no_core_is_told_to_hold_is_shown() -> None:
    on_trainium2 = MemoryReading(10**9, (CoreUse(0, tensors=10**9),), on_device=True)
    assert "of 25.8 GB" in text(plan_view.memory_html(on_trainium2, INSTANCES["trn2.48xlarge"].core_bytes))
    total_alone = text(plan_view.memory_html(MemoryReading(7 * 10**9, on_device=True)))
    assert "7.0 GB, 7.0 GB of it not told core by core" in total_alone
    assert "Device memory" in total_alone
    new_purpose = MemoryReading(7 * 10**9, (CoreUse(0, tensors=10**9, other=2 * 10**9),), on_device=True)
    shown = text(plan_view.memory_html(new_purpose))
    assert "7.0 GB on 1 NeuronCores, 4.0 GB of it not told core by core" in shown
    assert "other 2.0 GB" in shown
    assert "other" not in text(plan_view.memory_html(MemoryReading(1, (CoreUse(0, tensors=1),), on_device=True)))


def test_trainium2_is_planned_for_nxd_inference() -> None:
    args = ("trn2.48xlarge", "llama-3.3-70b", "llama-3.1-8b", "bf16", 2048, hardware.RECOMMENDED, hardware.SAME)
    assert "does not support trn2.48xlarge" in text(hardware.planned(*args))
    shown = text(hardware.planned(*args, library="nxd-inference"))
    assert "tp_degree 64 for both" in shown or "tp_degree 32 for both" in shown
    assert "of 24 GB cores" in shown
    assert "of 25.8 GB" in shown
    assert "no Neuron library" in text(hardware.planned(*args, library="vllm"))


def test_the_tab_builds_shows_a_plan_and_opens_no_endpoint() -> None:
    with gr.Blocks(analytics_enabled=False) as page, gr.Tabs(), gr.Tab("Hardware"):
        hardware.build(MemoryMonitor("/nowhere/neuron-monitor"))
    shown = [block.value for block in page.blocks.values() if isinstance(block, gr.HTML)]
    assert any("tp_degree 32" in str(value) for value in shown)
    assert page.get_api_info()["named_endpoints"] == {}
