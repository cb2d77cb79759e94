"""What a distillation is made of, on a tiny target; writing and training are in `test_distill_all`."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from app.backends.checkpoints import int8
from app.backends.checkpoints.checkpoint import SafetensorsCheckpoint
from app.backends.checkpoints.config import read_config
from app.distill import cli, jobs, shards
from app.distill.openers import OPENERS, PASSAGES, WEIGHTS
from app.distill.overlap import Overlap
from app.distill.pack import away, pack
from app.distill.target import Target
from app.errors import PairError, RequestError
from tests.support.chat_llama import chat_llama

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "assets" / "prompts.json"
DRAFT, PLAIN = ROOT / "assets" / "draft", ROOT / "assets" / "plain-draft"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_llama(tmp_path_factory.mktemp("tiny"))


def run(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    assert cli.main(parser.parse_args(arguments)) == 0


def flags(tiny: Path, work: Path) -> list[str]:
    return ["--target", str(tiny), "--work", str(work)]


class TestPrompts:
    def test_six_categories_of_eight(self) -> None:
        prompts = json.loads(PROMPTS.read_text(encoding="utf-8"))
        names = ("chat", "translation", "summarisation", "question answering", "maths", "retrieval")
        assert Counter(entry["category"] for entry in prompts) == dict.fromkeys(names, 8)
        assert len({entry["prompt"] for entry in prompts}) == 48
        assert {
            "category": "chat",
            "prompt": "Explain what a transformer language model is, in three sentences.",
        } in prompts

    def test_no_opener_holds_a_prompt(self) -> None:
        prompts = [entry["prompt"] for entry in json.loads(PROMPTS.read_text(encoding="utf-8"))]
        held_out = Overlap(prompts)
        texts = [text for openers in [*OPENERS.values(), *PASSAGES.values()] for text in openers]
        assert not [text for text in texts if len(text.split()) > 4 and held_out.touches(text)]
        assert len(WEIGHTS) == len(OPENERS) + len(PASSAGES)
        assert sum(WEIGHTS) == pytest.approx(1)


class TestOverlap:
    held_out = Overlap(["Why is the sky blue during the day but red at sunset?"])

    @pytest.mark.parametrize(
        "text",
        [
            "Why is the sky blue during the day but red at sunset?",
            "WHY is the sky blue, during the day but red at sunset",
            "Tell me: why is the sky blue during the day but red at sunset? Answer briefly.",
            "Why is the sky so often blue during the day but red at dusk?",
            "the sky blue during the day",
        ],
    )
    def test_near_duplicates_are_found(self, text: str) -> None:
        assert self.held_out.touches(text)

    @pytest.mark.parametrize("text", ["Why is grass green?", "What colour is the sky on Mars during the day?", ""])
    def test_others_are_not(self, text: str) -> None:
        assert not self.held_out.touches(text)


class TestShards:
    def test_arrays_come_back(self, tmp_path: Path) -> None:
        array = np.arange(6).reshape(2, 3)
        shards.append(tmp_path, {"one": array})
        assert shards.append(tmp_path, {"one": array + 1}).name == "shard-00001.npz"
        first, second = map(shards.read, shards.paths(tmp_path))
        assert np.array_equal(first["one"] + 1, second["one"])

    def test_a_write_cut_short_is_no_shard(self, tmp_path: Path) -> None:
        (tmp_path / "shard-00000.partial").write_bytes(b"half")
        assert shards.paths(tmp_path) == []


class TestOpeners:
    def test_passages_are_put_in(self) -> None:
        keys = [key for key in range(400) if jobs.opener(key, 0)[0] >= len(OPENERS)]
        assert keys
        texts = [jobs.opener(key, 0, ["A PASSAGE"])[1] for key in keys]
        assert sum("A PASSAGE" in text for text in texts) > len(keys) / 2
        assert not [key for key in range(4000) if "{" in jobs.opener(key, 0, ["A PASSAGE"])[1]]
        assert not [key for key in keys if not jobs.opener(key, 0)[1] or "{" in jobs.opener(key, 0)[1]]


class TestPack:
    @pytest.fixture
    def packed(self, tiny: Path, tmp_path: Path) -> Path:
        """A packed draft that is the tiny target's first layer."""
        target = Target(tiny, tmp_path / "cache")
        kept = np.array([2, 5, 7, 100, 383], np.int32)
        names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj"]
        names += ["mlp.up_proj", "mlp.down_proj", "input_layernorm", "post_attention_layernorm"]
        state = {f"model.layers.0.{n}.weight": target.weights.tensor(f"model.layers.0.{n}.weight") for n in names}
        state["model.norm.weight"] = target.weights.tensor("model.norm.weight")
        state["lm_head.weight"] = target.output_layer[kept]
        pack(state, kept, np.full(64, -0.5), target.config, "tiny", tmp_path / "draft")
        return tmp_path / "draft"

    def test_reads_back(self, tiny: Path, packed: Path) -> None:
        config = read_config(packed)
        assert (config.num_layers, config.kept_ids, config.tied) == (1, 5, False)
        checkpoint = SafetensorsCheckpoint(packed)
        assert checkpoint.raw("kept_ids").tolist() == [2, 5, 7, 100, 383]
        assert "model.embed_tokens.weight" not in checkpoint
        ours, theirs = checkpoint.tensor("lm_head.weight"), Target(tiny, packed).output_layer[[2, 5, 7, 100, 383]]
        np.testing.assert_allclose(ours, theirs, atol=np.abs(theirs).max() / 250)  # half a step of 127
        check_sums(packed)

    def test_eight_bits_are_the_engines_own(self, packed: Path) -> None:
        checkpoint = SafetensorsCheckpoint(packed)
        for name in ("model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.down_proj.weight", "lm_head.weight"):
            values, scales = int8.quantised(checkpoint.tensor(name), name)
            assert checkpoint.raw(name).dtype == np.int8
            assert np.array_equal(values.reshape(checkpoint.raw(name).shape), checkpoint.raw(name))
            assert np.array_equal(scales[:, :, 0], checkpoint.raw(f"{name}.scales"))

    def test_too_large_is_refused(self, tiny: Path, tmp_path: Path) -> None:
        target = Target(tiny, tmp_path / "cache")
        state = {
            "model.layers.0.x.weight": np.zeros((400_000, 64), np.float32),
            "lm_head.weight": np.zeros((2, 64), np.float32),
        }
        with pytest.raises(PairError, match=r"26\.4 MB of at most 25"):
            pack(state, np.array([1, 2], np.int32), np.zeros(64), target.config, "tiny", tmp_path / "draft")

    def test_the_engine_runs_it(
        self, tiny: Path, packed: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("Hi\nWhat is a list?\n")
        arguments = [
            "--draft",
            str(packed),
            "--prompts",
            str(prompts),
            "--k",
            "2,3,auto",
            "--max-tokens",
            "8",
            "--json",
        ]
        run("evaluate", *flags(tiny, tmp_path), *arguments, "--timed")
        results = json.loads(capsys.readouterr().out)
        assert [(e["temperature"], e["k"]) for e in results] == [(t, k) for t in (0, 1) for k in ("2", "3", "auto")]
        for entry in results:
            widest = {"2": 2, "3": 3, "auto": 8}[entry["k"]]
            assert 1 <= entry["mean_acceptance_length"] <= widest
            assert len(entry["acceptance_by_position"]) <= widest - 1
            assert entry["categories"]["prompts"]["emitted"] == entry["emitted"] > 0
            assert entry["speedup"] > 0

    def test_evaluation_takes_an_acceptor(self, tiny: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        prompts = tmp_path / "prompts.txt"
        prompts.write_text("Hi\nWhat is a list?\n")
        itself = ["--draft", str(tiny), "--prompts", str(prompts)]
        sampled = ["--k", "4", "--temperature", "2", "--max-tokens", "64", "--json"]

        def rate(acceptor: str) -> float:
            run("evaluate", *flags(tiny, tmp_path), *itself, *sampled, "--acceptor", acceptor)
            (entry,) = json.loads(capsys.readouterr().out)
            return float(entry["acceptance_rate"])

        # where q is p, rejection keeps every draft, and exact those that the target would have drawn as well
        assert rate("exact") < 0.9
        assert rate("rejection") > 0.99
        with pytest.raises(RequestError, match="no acceptor 'none'"):
            rate("none")

    def test_export_has_the_kept_rows_and_the_unwanted_one(self, tiny: Path, packed: Path, tmp_path: Path) -> None:
        from app.backends.openvino.model import OpenVinoModel

        draft, out = SafetensorsCheckpoint(packed), tmp_path / "plain"
        run("export", *flags(tiny, tmp_path), "--draft", str(packed), "--out", str(out))
        plain = SafetensorsCheckpoint(out)
        assert plain.config.kept_ids == 0
        assert plain.config.stop_ids == (2,)
        rows, kept = plain.tensor("lm_head.weight"), draft.raw("kept_ids")
        np.testing.assert_array_equal(rows[kept], draft.tensor("lm_head.weight").astype(np.float16))
        assert (np.delete(rows, kept, axis=0) == -0.5).all()
        model = OpenVinoModel(plain.config, lambda: plain, name="plain", dtype="f32")
        assert np.isfinite(model.new_sequence().forward([5, 9, 11], 3)).all()
        check_sums(out)

    def test_a_draft_that_reads_states_is_no_plain_checkpoint(self, tiny: Path, tmp_path: Path) -> None:
        with pytest.raises(PairError, match="export one that reads tokens alone"):
            run("export", *flags(tiny, tmp_path), "--draft", str(DRAFT), "--out", str(tmp_path / "plain"))

    def test_one_row_is_negative_on_every_state(self) -> None:
        rng = np.random.default_rng(0)
        states = rng.normal(size=(500, 64)) + 3 * rng.normal(size=64)
        assert (states @ away(states) < -20).all()


class TestErrors:
    def test_no_target(self, tmp_path: Path) -> None:
        with pytest.raises(PairError, match="There is no model at"):
            run("export", *flags(tmp_path / "none", tmp_path), "--out", str(tmp_path))

    def test_prompts_that_are_none(self, tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "p.json").write_text("[{}]")
        with pytest.raises(RequestError, match="no list of prompts"):
            run("evaluate", *flags(tiny, tmp_path), "--prompts", str(tmp_path / "p.json"))

    def test_no_torch(self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(PairError, match=r"pip install -r app/distill/requirements\.txt"):
            run("all", *flags(tiny, tmp_path), "--minutes", "1")


class TestShippedDrafts:
    @pytest.mark.parametrize("folder", [DRAFT, PLAIN])
    def test_is_whole(self, folder: Path) -> None:
        check_sums(folder)
        config = read_config(folder)
        ids = SafetensorsCheckpoint(folder).raw("kept_ids")
        assert ids.shape == (config.kept_ids,)
        assert (np.diff(ids) > 0).all()
        assert 0 <= ids[0] <= ids[-1] < config.vocab_size
        assert set(config.stop_ids) <= set(ids.tolist())
        assert config.conditioned == (folder == DRAFT)

    def test_are_small(self) -> None:
        assert sum(path.stat().st_size for folder in (DRAFT, PLAIN) for path in folder.iterdir()) <= 25_000_000


def check_sums(folder: Path) -> None:
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


def test_what_another_target_wrote_is_refused(tmp_path: Path) -> None:
    """Its ids and states would be taken for this target's: a draft taught wrongly, in silence."""
    folder = tmp_path / "texts"
    shards.claim(folder, "one 12")
    shards.append(folder, {"tokens": np.zeros((2, 3), np.int64)})
    shards.claim(folder, "one 12")
    with pytest.raises(RequestError, match=r"keeps what one 12 wrote, and this target is other 34; choose another"):
        shards.claim(folder, "other 34")
    (folder / "target.txt").unlink()
    with pytest.raises(RequestError, match="an unknown target"):
        shards.claim(folder, "one 12")


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 cut", b"no archive"])
def test_a_damaged_shard_is_a_sentence(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "shard-00000.npz"
    path.write_bytes(damage)
    with pytest.raises(RequestError, match="cannot be read"):
        shards.read(path)
