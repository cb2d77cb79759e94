"""The planner gives the published worked examples back, counts what the library stores, and refuses with reasons."""

from __future__ import annotations

import argparse
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cli import plan as command
from app.errors import RequestError
from app.neuron.catalogue import (
    CORE_BYTES,
    INSTANCES,
    LIBRARIES,
    MODELS,
    NXD_INFERENCE,
    TRANSFORMERS_NEURONX,
    ModelConfig,
)
from app.neuron.memory import DTYPE_BYTES, GB, device_kv_heads, device_parameters, kv_bytes
from app.neuron.plan import plan

SUPPORTED = list(INSTANCES)
INF2_AND_TRN1 = [name for name, instance in INSTANCES.items() if TRANSFORMERS_NEURONX in instance.libraries]


def run_cli(*flags: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args(flags))


# --- the published examples ---


@pytest.mark.parametrize(
    ("dtype", "more_for_70b", "more_for_7b", "least_for_70b", "pair_gb"),
    [("bf16", 10, 2, 16, (190, 200)), ("f32", 18, 3, 32, (340, 360))],
)
def test_the_worked_example_on_trn1(
    dtype: str, more_for_70b: int, more_for_7b: int, least_for_70b: int, pair_gb: tuple[int, int]
) -> None:
    result = plan("trn1.32xlarge", "llama-2-70b", "llama-2-7b", dtype, 2048)
    assert result.ok
    assert (result.target.more_than_cores, result.draft.more_than_cores) == (more_for_70b, more_for_7b)
    assert result.target.min_tp_degree == least_for_70b
    assert (result.target.tp_degree, result.draft.tp_degree) == (32, 32)
    assert pair_gb[0] < result.pair_bytes / GB < pair_gb[1]


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_the_pair_fits_all_cores_of_inf2_48xlarge(dtype: str) -> None:
    result = plan("inf2.48xlarge", "llama-2-70b", "llama-2-7b", dtype, 2048)
    assert result.ok
    assert (result.target.tp_degree, result.draft.tp_degree) == (24, 24)
    assert not result.warnings


@pytest.mark.parametrize("target", ["llama-3-70b", "llama-3.1-70b", "llama-3.3-70b"])
def test_llama_3_pairs_run_where_llama_2_does(target: str) -> None:
    for instance, degree in (("trn1.32xlarge", 32), ("inf2.48xlarge", 24)):
        assert plan(instance, target, "llama-3-8b").tp_degree == degree


def test_the_fit_matches_the_six_published_memory_figures() -> None:
    """35.9, 49.4, 160.4 and 298.4 GB for one model, 196 and 348 GB for the pair, before any KV cache."""

    def without_kv(name: str, dtype: str) -> float:
        model = plan("trn1.32xlarge", name, name, dtype).target
        return (model.memory_bytes - model.kv_bytes) / GB

    figures = {
        (name, dtype): without_kv(name, dtype) for name in ("llama-2-7b", "llama-2-70b") for dtype in DTYPE_BYTES
    }
    assert figures["llama-2-7b", "bf16"] == pytest.approx(35.9, abs=0.1)
    assert figures["llama-2-7b", "f32"] == pytest.approx(49.4, abs=0.1)
    assert figures["llama-2-70b", "bf16"] == pytest.approx(160.4, abs=0.1)
    assert figures["llama-2-70b", "f32"] == pytest.approx(298.4, abs=0.1)
    assert figures["llama-2-7b", "bf16"] + figures["llama-2-70b", "bf16"] == pytest.approx(196, abs=0.5)
    assert figures["llama-2-7b", "f32"] + figures["llama-2-70b", "f32"] == pytest.approx(348, abs=0.5)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("llama-2-7b", 6.738),
        ("llama-2-13b", 13.016),
        ("llama-2-70b", 68.977),
        ("llama-3-8b", 8.030),
        ("llama-3-70b", 70.554),
        ("llama-3.1-405b", 405.853),
        ("llama-3.3-70b", 70.554),
        ("llama-3.2-1b", 1.236),
        ("llama-3.2-3b", 3.213),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, billions: float) -> None:
    assert MODELS[name].num_parameters / 1e9 == pytest.approx(billions, abs=0.001)


# --- what a device stores ---


@pytest.mark.parametrize(
    ("heads", "kv_heads", "tp_degree", "stored"),
    [
        (64, 8, 8, 8),  # divides: as it is
        (64, 8, 32, 32),  # one a core
        (64, 8, 24, 24),  # 72 padded query heads still group evenly
        (64, 8, 12, 72),  # 12 is no multiple of 8: one for every padded query head
        (32, 32, 24, 48),  # no groups: padded with the query heads
        (24, 8, 16, 16),
        (9, 3, 2, 10),
        (9, 3, 4, 4),  # three query heads a core are just one group
        (72, 24, 32, 32),
        (32, 8, 1, 8),
    ],
)
def test_stored_kv_heads(heads: int, kv_heads: int, tp_degree: int, stored: int) -> None:
    model = ModelConfig("m", 1000, heads * 64, 2, heads, kv_heads, 256, 2048)
    assert device_kv_heads(model, tp_degree) == stored


@pytest.mark.parametrize(
    ("heads", "kv_heads", "tp_degree", "stored"),
    [
        (64, 8, 4, 8),  # divides: as it is
        (64, 8, 8, 8),
        (64, 8, 32, 32),  # one a core
        (64, 8, 64, 64),
        (64, 8, 24, 24),
        (64, 8, 12, 72),  # 12 is no multiple of 8: one for every padded query head
        (32, 32, 24, 48),  # no groups: padded with the query heads
        (24, 8, 16, 16),
        (9, 3, 2, 10),  # transformers-neuronx the same
        (9, 3, 4, 12),  # transformers-neuronx stores 4
        (56, 8, 32, 32),
        (128, 8, 64, 64),
    ],
)
def test_kv_heads_that_nxd_inference_stores(heads: int, kv_heads: int, tp_degree: int, stored: int) -> None:
    model = ModelConfig("m", 1000, heads * 64, 2, heads, kv_heads, 256, 2048)
    assert device_kv_heads(model, tp_degree, NXD_INFERENCE) == stored


def test_nxd_inference_copies_a_tied_output_layer() -> None:
    model = MODELS["llama-3.2-1b"]
    extra = device_parameters(model, 1, NXD_INFERENCE) - device_parameters(model, 1)
    assert extra == model.vocab_size * model.hidden_size


@given(
    st.sampled_from(sorted(MODELS)),
    st.sampled_from(sorted(DTYPE_BYTES)),
    st.sampled_from([1, 2, 8, 12, 16, 24, 32, 64]),
    st.integers(2, 8192),
    st.sampled_from(LIBRARIES),
)
def test_a_device_never_stores_less_than_the_model(
    name: str, dtype: str, tp_degree: int, n_positions: int, library: str
) -> None:
    model = MODELS[name]
    heads = device_kv_heads(model, tp_degree, library)
    assert heads >= model.num_kv_heads
    assert heads % tp_degree == 0
    assert device_parameters(model, tp_degree, library) >= model.num_parameters
    assert kv_bytes(model, dtype, 2 * n_positions) == 2 * kv_bytes(model, dtype, n_positions)


def test_kv_cache_of_llama_2_7b() -> None:
    """2 (K and V) x 32 layers x 4096 wide x 2 bytes = 0.5 MiB a token."""
    assert kv_bytes(MODELS["llama-2-7b"], "bf16", 1) == 2**19


@pytest.mark.parametrize("instance", INF2_AND_TRN1)
@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_a_recommendation_is_allowed_and_fits(instance: str, dtype: str) -> None:
    for target, draft in (
        ("llama-2-13b", "llama-2-7b"),
        ("llama-3.2-3b", "llama-3.2-1b"),
        ("llama-2-70b", "llama-2-7b"),
    ):
        result = plan(instance, target, draft, dtype)
        if result.ok:
            assert result.tp_degree in result.instance.all_degrees
            assert result.per_core is not None
            assert result.per_core.total < CORE_BYTES
            assert result.environment == {"NEURON_RT_NUM_CORES": str(result.tp_degree)}
        else:
            assert "choose" in result.refusals[0]


def test_no_core_is_left_without_an_attention_head() -> None:
    assert plan("trn1.32xlarge", "llama-3.2-3b", "llama-3.2-1b").tp_degree == 16


# --- Trainium2, by NxD Inference ---


def test_a_large_pair_on_trainium2() -> None:
    """64 logical cores of 24 GiB; 405 billion parameters in bf16 are 812 GB of their 1.5 TB."""
    result = plan("trn2.48xlarge", "llama-3.1-405b", "llama-3.1-8b", library=NXD_INFERENCE)
    assert result.ok
    assert result.tp_degree == 64  # 32, the heads of the draft, would put 28.3 GB on a core
    assert (result.instance.device_gib, result.instance.core_gb) == (1536, 24)
    assert result.per_core is not None
    assert result.per_core.capacity == 24 * 2**30
    assert result.to_dict()["library"] == NXD_INFERENCE
    assert any("estimated from figures of transformers-neuronx" in warning for warning in result.warnings)
    assert "neuronx_distributed_inference is imported" in result.load_order[0]


def test_405b_fits_no_instance_of_transformers_neuronx() -> None:
    refusal = only_refusal("trn1.32xlarge", "llama-3.1-405b", "llama-3.1-8b")
    assert "an instance that holds it" not in refusal
    assert "smaller models" in refusal


def test_the_small_trainium2_is_inferred() -> None:
    result = plan("trn2.3xlarge", "llama-3.1-8b", "llama-3.2-1b", library=NXD_INFERENCE)
    assert result.ok
    assert any("inferred" in warning for warning in result.warnings)


@pytest.mark.parametrize("instance", SUPPORTED)
def test_nxd_inference_is_planned_for_every_instance(instance: str) -> None:
    result = plan(instance, "llama-3.2-3b", "llama-3.2-1b", library=NXD_INFERENCE)
    assert result.ok
    assert result.tp_degree in result.instance.all_degrees


# --- refusals ---


def only_refusal(*args: object, **kwargs: object) -> str:
    result = plan(*args, **kwargs)  # type: ignore[arg-type]
    assert not result.ok
    assert result.load_order == ()
    assert result.environment == {}
    assert len(result.refusals) == 1
    return result.refusals[0]


@pytest.mark.parametrize("name", ["trn2.48xlarge", "trn2.3xlarge", "TRN2.48xlarge", "trn2u.48xlarge"])
def test_trn2_is_refused_for_transformers_neuronx(name: str) -> None:
    refusal = only_refusal(name, "llama-2-70b", "llama-2-7b")
    assert "does not support trn2" in refusal
    assert "--neuron-library nxd-inference" in refusal


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("inf1.xlarge", "choose an Inf2, Trn1 or Trn2"),
        ("trn3.48xlarge", "--backend torch --device neuron"),
        ("TRN3", "torch"),
    ],
)
def test_other_generations_are_known_and_refused(library: str, name: str, said: str) -> None:
    assert said in only_refusal(name, "llama-2-7b", "llama-2-7b", library=library)


@pytest.mark.parametrize(
    ("instance", "degree"), [("trn1.32xlarge", 4), ("trn1.32xlarge", 3), ("inf2.48xlarge", 3), ("inf2.xlarge", 0)]
)
def test_a_degree_the_topology_forbids_is_refused(instance: str, degree: int) -> None:
    refusal = only_refusal(instance, "llama-3.2-3b", "llama-3.2-1b", target_tp=degree)
    assert f"does not allow tp_degree {degree}" in refusal
    assert ", ".join(map(str, INSTANCES[instance].all_degrees)) in refusal


def test_more_cores_than_there_are_is_refused() -> None:
    assert "needs 64 NeuronCores and trn1.32xlarge has 32" in only_refusal(
        "trn1.32xlarge", "llama-2-70b", "llama-2-7b", target_tp=64
    )


def test_partial_overlap_is_refused() -> None:
    refusal = only_refusal("trn1.32xlarge", "llama-2-70b", "llama-2-7b", target_tp=32, draft_tp=8)
    assert "nec_comm is already init'd" in refusal
    assert "same tp_degree" in refusal


def test_a_pair_that_does_not_fit_is_sent_where_it_does() -> None:
    refusal = only_refusal("inf2.xlarge", "llama-2-70b", "llama-2-7b")
    assert "trn1.32xlarge" in refusal
    assert "inf2.48xlarge" in refusal


def test_a_degree_too_low_for_the_memory_is_sent_higher() -> None:
    refusal = only_refusal("trn1.32xlarge", "llama-2-70b", "llama-2-7b", "f32", target_tp=16)
    assert "tp_degree 32" in refusal


def test_two_tokenizers_are_refused() -> None:
    assert "cannot share a tokenizer" in only_refusal("trn1.32xlarge", "llama-3-70b", "llama-2-7b")


def test_a_doubtful_degree_is_allowed_with_a_warning() -> None:
    result = plan("inf2.48xlarge", "llama-2-13b", "llama-2-7b", target_tp=12)
    assert result.ok
    assert any("disagree" in warning for warning in result.warnings)


def test_positions_beyond_training_are_warned_of() -> None:
    assert any("4096 positions" in w for w in plan("trn1.32xlarge", "llama-2-13b", "llama-2-7b", "bf16", 8192).warnings)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("p4d.24xlarge", "llama-2-7b", "llama-2-7b"), "p4d.24xlarge"),
        (("inf2.xlarge", "gpt-5", "llama-2-7b"), "gpt-5"),
        (("inf2.xlarge", "llama-2-7b", "llama-2-7b", "int8"), "int8"),
        (("inf2.xlarge", "llama-2-7b", "llama-2-7b", "bf16", 1), "1 positions"),
    ],
)
def test_values_that_mean_nothing_are_named(args: tuple[str, ...], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        plan(*args)  # type: ignore[arg-type]


# --- the command line ---


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_json_says_what_the_plan_says(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--instance", "trn1.32xlarge", "--target", "llama-2-70b", "--draft", "llama-2-7b", "--dtype", dtype)
    assert run_cli(*flags, "--n-positions", "2048", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == plan("trn1.32xlarge", "llama-2-70b", "llama-2-7b", dtype, 2048).to_dict()
    assert printed["target"]["tp_degree"] == printed["draft"]["tp_degree"] == 32
    core = printed["per_core"]
    parts = sum(core[key] for key in core if key not in ("total_gb", "capacity_gb"))
    assert parts == pytest.approx(core["total_gb"], abs=0.03)


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_a_refused_plan_exits_with_2_and_its_reason(capsys: pytest.CaptureFixture[str], flags: tuple[str, ...]) -> None:
    assert run_cli("--instance", "trn2.48xlarge", *flags) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("transformers-neuronx does not support trn2")
    assert printed.err.strip() in printed.out


def test_the_text_names_the_load_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_cli() == 0
    out = capsys.readouterr().out
    assert out.index("NEURON_RT_NUM_CORES=32") < out.index("Load the draft") < out.index("Load the target")
    assert "estimate" in out
