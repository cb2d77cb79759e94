"""The stages of a distillation on a tiny target; training itself only where torch is installed."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from app.backends.checkpoints import int8
from app.backends.checkpoints.checkpoint import SafetensorsCheckpoint
from app.backends.checkpoints.config import read_config
from app.distill import cli, corpus, data, shards, teacher
from app.distill.openers import OPENERS, PASSAGES, WEIGHTS
from app.distill.overlap import Overlap
from app.distill.pack import away, pack
from app.distill.target import Target
from app.errors import PairError, RequestError

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "assets" / "prompts.json"
DRAFT = ROOT / "assets" / "draft"
HAS_TORCH = importlib.util.find_spec("torch") is not None
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of three layers with a tokenizer and a chat template; random weights, so it rambles, but it ends."""
    folder = tmp_path_factory.mktemp("tiny")
    text = [opener for openers in [*OPENERS.values(), *PASSAGES.values()] for opener in openers]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"chat_template": TEMPLATE, "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    width, inner, vocab, layers = 64, 128, tokenizer.get_vocab_size(), 3
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "max_position_embeddings": 2048,
        "vocab_size": vocab,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> Any:
        return (rng.normal(size=(rows, columns)) / columns**0.5).astype(np.float32)

    tensors = {
        "model.embed_tokens.weight": rng.normal(size=(vocab, width)).astype(np.float32) * 0.4,
        "model.norm.weight": np.ones(width, np.float32),
    }
    tensors["model.embed_tokens.weight"][2] *= 2  # the stop id is often likely, so that instructions end
    for i in range(layers):
        at = f"model.layers.{i}."
        tensors |= {
            at + "self_attn.q_proj.weight": matrix(width, width),
            at + "self_attn.k_proj.weight": matrix(width // 2, width),
            at + "self_attn.v_proj.weight": matrix(width // 2, width),
            at + "self_attn.o_proj.weight": matrix(width, width),
            at + "mlp.gate_proj.weight": matrix(inner, width),
            at + "mlp.up_proj.weight": matrix(inner, width),
            at + "mlp.down_proj.weight": matrix(width, inner),
            at + "input_layernorm.weight": np.ones(width, np.float32),
            at + "post_attention_layernorm.weight": np.ones(width, np.float32),
        }
    save_file(tensors, str(folder / "model.safetensors"), {"format": "pt"})
    return folder


def run(*arguments: str) -> None:
    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    assert cli.main(parser.parse_args(arguments)) == 0


def flags(tiny: Path, work: Path) -> list[str]:
    return ["--target", str(tiny), "--work", str(work)]


SHORT = ["--slots", "16", "--instruction-tokens", "12", "--passage-tokens", "24", "--answer-tokens", "16"]


@pytest.fixture(scope="module")
def made(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder after the stage dialogues."""
    work = tmp_path_factory.mktemp("work")
    run("dialogues", *flags(tiny, work), *SHORT, "--count", "160")
    return work


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
    def test_rows_come_back(self, tmp_path: Path) -> None:
        rows = [(1, 2, 3), (), (7,)]
        flat, offsets = shards.pack_rows(rows)
        shards.append(tmp_path, {"flat": flat, "offsets": offsets})
        assert shards.append(tmp_path, {"flat": flat, "offsets": offsets}).name == "shard-00001.npz"
        again = shards.read(shards.paths(tmp_path)[0])
        assert shards.unpack_rows(again["flat"], again["offsets"]) == rows

    def test_a_write_cut_short_is_no_shard(self, tmp_path: Path) -> None:
        (tmp_path / "shard-00000.partial").write_bytes(b"half")
        assert shards.paths(tmp_path) == []


class TestTeacher:
    def test_draw_follows_the_distribution(self) -> None:
        rng = np.random.default_rng(1)
        probs = rng.dirichlet(np.full(700, 0.3)).astype(np.float32)
        coins = (np.arange(20_000) + 0.5) / 20_000
        counts = np.bincount([teacher.draw(probs, coin) for coin in coins], minlength=700)
        assert np.abs(counts / 20_000 - probs).max() < 1e-4

    def test_draw_never_picks_the_impossible(self) -> None:
        probs = np.zeros(600, np.float32)
        probs[[3, 300, 598]] = 0.2, 0.3, 0.5
        picked = {teacher.draw(probs, coin) for coin in (0.0, 0.1999, 0.2001, 0.4999, 0.5001, 1 - 1e-16)}
        assert picked == {3, 300, 598}

    def test_batching_changes_nothing(self, tiny: Path, tmp_path: Path) -> None:
        """Answers made together, with a shared prefix, are those of sequences scored alone; so are the states."""
        from app.backends.openvino.teacher import TeacherGraph

        target = Target(tiny, tmp_path)
        prompts = [(*target.opening, *target.tokenizer.encode(text), *target.closing) for text in ("Hi", "What is 2?")]
        first, second = teacher.Turn(1.0, 12), teacher.Turn(0.0, 12)
        jobs = [teacher.Job(key, prompts[key % 2], ((first, second), (second,))[key % 3 // 2]) for key in range(30)]
        together = TeacherGraph(target.weights, 4, 96, dtype="f32")
        alone = TeacherGraph(target.weights, 1, 96, dtype="f32")
        stops, closing = target.tokenizer.stop_ids, target.closing
        batched = {
            a.job.key: a for a in teacher.generate(together, jobs, 5, stops, target.opening, closing, prefill=20)
        }
        single = {a.job.key: a for a in teacher.generate(alone, jobs, 5, stops, (), closing)}
        assert batched.keys() == single.keys() == set(range(30))
        for key, text in batched.items():
            assert text.token_ids == single[key].token_ids
            np.testing.assert_array_equal(text.scored, single[key].scored)
            np.testing.assert_allclose(text.hidden, single[key].hidden, atol=4e-3)
            assert len(text.hidden) == text.scored.sum()
            assert not text.scored[: len(text.job.prompt)].any()
        # the kept states are those the greedy tokens came from
        greedy = batched[2]
        logits = greedy.hidden.astype(np.float32) @ target.output_layer.T
        assert logits.argmax(1).tolist() == np.array(greedy.token_ids)[greedy.scored].tolist()
        # a turn that stopped is closed by the template, and the next one follows
        two = [
            text
            for text in batched.values()
            if len(text.job.turns) == 2 and not text.scored[len(text.job.prompt) :].all()
        ]
        assert two
        for text in two:
            end = len(text.job.prompt) + int(text.scored[len(text.job.prompt) :].argmin())
            assert text.token_ids[end - 1 : end - 1 + len(closing)] == closing


class TestData:
    def test_examples_are_whole_conversations(self, tiny: Path, made: Path) -> None:
        target = Target(tiny, made / "cache")
        examples = corpus.read([made / "dialogues" / "0"])
        assert len(examples) == 160
        answered = 0
        for e in examples:
            assert len(e.hidden) == e.scored.sum() > 0
            assert tuple(e.token_ids[: len(target.opening)].tolist()) == target.opening
            if tuple(e.token_ids[e.answer - len(target.closing) : e.answer].tolist()) == target.closing:
                answered += 1
        assert answered > 5  # how many a tiny untrained model ends by itself depends on the processor's rounding

    def test_stages_go_on_where_they_stopped(self, tiny: Path, made: Path) -> None:
        before = {path: path.read_bytes() for path in made.rglob("shard-*.npz")}
        run("dialogues", *flags(tiny, made), *SHORT, "--count", "160")
        assert {path: path.read_bytes() for path in made.rglob("shard-*.npz")} == before

    def test_a_lost_shard_is_made_again(self, tiny: Path, tmp_path: Path) -> None:
        work = flags(tiny, tmp_path)
        (tmp_path / "p.txt").write_text("What is the opposite of a whale, and why?\n")
        more = [*SHORT, "--prompts", str(tmp_path / "p.txt")]
        folder = tmp_path / "dialogues" / "0"
        run("dialogues", *work, *more, "--count", "6")
        first = corpus.read([folder])
        shards.paths(folder)[0].unlink()
        run("dialogues", *work, *more, "--count", "9")
        again = {e.key: e for e in corpus.read([folder])}
        assert sorted(again) == list(range(9))
        for e in first:
            np.testing.assert_array_equal(again[e.key].token_ids, e.token_ids)

    def test_held_out_prompts_are_dropped(self, tiny: Path, made: Path) -> None:
        target = Target(tiny, made / "cache")
        folder = made / "dialogues" / "0"
        examples = corpus.read([folder])
        victim = target.text(examples[7].token_ids[len(target.opening) :])
        held_out = Overlap([victim])
        left = corpus.read([folder], lambda ids: held_out.touches(target.text(ids)))
        assert len(left) < len(examples)
        assert examples[7].key not in {e.key for e in left}

    def test_held_out_prompts_are_answered_cold_and_hot(self, tiny: Path, made: Path) -> None:
        target = Target(tiny, made / "cache")
        examples = corpus.read([made / "held_out" / "0"])
        prompts = [entry["prompt"] for entry in json.loads(PROMPTS.read_text(encoding="utf-8"))]
        assert len(examples) == 2 * len(prompts)
        for e in examples:
            assert e.temperature == e.key % 2
            asked = target.tokenizer.encode_chat([{"role": "user", "content": prompts[e.key // 2]}])
            assert e.token_ids[: e.answer].tolist() == asked

    def test_passages_are_put_in(self) -> None:
        keys = [key for key in range(400) if data.opener(key, 0)[0] >= len(OPENERS)]
        assert keys
        texts = [data.opener(key, 0, ["A PASSAGE"])[1] for key in keys]
        assert sum("A PASSAGE" in text for text in texts) > len(keys) / 2
        assert not [key for key in range(4000) if "{" in data.opener(key, 0, ["A PASSAGE"])[1]]
        assert not [key for key in keys if not data.opener(key, 0)[1] or "{" in data.opener(key, 0)[1]]

    def test_kept_ids_are_the_likeliest(self, tiny: Path, made: Path) -> None:
        target = Target(tiny, made / "cache")
        examples = corpus.read([made / "dialogues" / "0"])
        ids = corpus.most_frequent(examples, 50, target.output_layer, always=[1])
        counts = Counter(int(i) for e in examples for i in e.drawn)
        assert len(ids) == 50
        assert 1 in ids  # never drawn
        assert (np.diff(ids) > 0).all()
        assert {i for i, _ in counts.most_common(20)} <= set(ids.tolist())
        kept = sum(counts[int(i)] for i in ids)
        assert kept > 0.9 * sum(n for _, n in counts.most_common(49))

    def test_batches_hold_every_example_once(self, made: Path) -> None:
        examples = corpus.read([made / "dialogues" / "0"])
        made_batches = list(corpus.batches(examples, 300, seed=1, epoch=0))
        keys = [e.key for batch in made_batches for e in batch]
        assert sorted(keys) == sorted(e.key for e in examples)
        assert all(len(b) * max(len(e.token_ids) for e in b) <= 300 for b in made_batches if len(b) > 1)
        again = list(corpus.batches(examples, 300, seed=1, epoch=0))
        assert [e.key for b in again for e in b] == keys
        assert [e.key for b in corpus.batches(examples, 300, seed=1, epoch=1) for e in b] != keys


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

    def test_one_row_is_negative_on_every_state(self) -> None:
        rng = np.random.default_rng(0)
        states = rng.normal(size=(500, 64)) + 3 * rng.normal(size=64)
        assert (states @ away(states) < -20).all()


class TestErrors:
    def test_no_target(self, tmp_path: Path) -> None:
        with pytest.raises(PairError, match="There is no model at"):
            run("dialogues", *flags(tmp_path / "none", tmp_path))

    def test_lengths_that_do_not_fit(self, tiny: Path, tmp_path: Path) -> None:
        with pytest.raises(RequestError, match="make --answer-tokens or --passage-tokens smaller"):
            run("dialogues", *flags(tiny, tmp_path), "--answer-tokens", "2000")

    def test_prompts_that_are_none(self, tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "p.json").write_text("[{}]")
        with pytest.raises(RequestError, match="no list of prompts"):
            run("dialogues", *flags(tiny, tmp_path), *SHORT, "--prompts", str(tmp_path / "p.json"))

    def test_no_torch(self, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(PairError, match=r"pip install -r app/distill/requirements\.txt"):
            run("train", *flags(tiny, tmp_path))


class TestShippedDraft:
    def test_is_whole_and_small(self) -> None:
        check_sums(DRAFT)
        config = read_config(DRAFT)
        ids = SafetensorsCheckpoint(DRAFT).raw("kept_ids")
        assert ids.shape == (config.kept_ids,)
        assert (np.diff(ids) > 0).all()
        assert 0 <= ids[0] <= ids[-1] < config.vocab_size
        assert set(config.stop_ids) <= set(ids.tolist())
        assert sum(path.stat().st_size for path in DRAFT.iterdir()) <= 25_000_000


def check_sums(folder: Path) -> None:
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest


@pytest.mark.skipif(not HAS_TORCH, reason="torch belongs to app/distill/requirements.txt, not to the default tests")
class TestTraining:
    """Kept in one class, so that a check with torch installed can select it: pytest tests/test_distill.py -k Training."""

    def test_a_draft_learns_its_target(self, tiny: Path, made: Path, tmp_path: Path) -> None:
        (tmp_path / "p.txt").write_text("What is the opposite of a whale, and why?\n")
        options = [
            "--layers",
            "1",
            "--kept",
            "200",
            "--batch",
            "256",
            "--prompts",
            str(tmp_path / "p.txt"),
            "--threads",
            "1",
        ]
        run("train", *flags(tiny, made), *options, "--tokens", "20000")
        curve = [json.loads(line) for line in (made / "run" / "curve.jsonl").read_text().splitlines()]
        assert curve[5]["loss"] < 0.8 * curve[1]["loss"]
        assert curve[-1]["tokens"] >= 20000
        assert set(curve[-1]["T=0"]) == {"agreement", "overlap", "tokens_per_pass"}
        # a run that is finished is left as it is
        run("train", *flags(tiny, made), *options, "--tokens", "20000")
        again = [json.loads(line) for line in (made / "run" / "curve.jsonl").read_text().splitlines()]
        assert again[-1]["T=0"] == curve[-1]["T=0"]
        run("pack", *flags(tiny, made), "--out", str(tmp_path / "draft"))
        assert read_config(tmp_path / "draft").kept_ids == 200
        # a packed draft is where a later sitting begins; sharpening does not change what is likeliest
        start = ["--start", str(tmp_path / "draft")]
        run("train", *flags(tiny, made), *options, "--tokens", "500", "--run", "more", *start)
        first = json.loads((made / "more" / "curve.jsonl").read_text().splitlines()[0])
        assert first["T=0"]["agreement"] == pytest.approx(curve[-1]["T=0"]["agreement"], abs=0.01)
        # and one of more layers begins by saying the same
        deeper = [*start, "--layers", "0,1", "--tokens", "500"]
        run("train", *flags(tiny, made), *options, "--run", "deep", *deeper)
        deep = json.loads((made / "deep" / "curve.jsonl").read_text().splitlines()[0])
        assert deep["T=0"]["overlap"] == pytest.approx(first["T=0"]["overlap"], abs=1e-6)
        with pytest.raises(RequestError, match="more layers"):
            run("train", *flags(tiny, made), *options, "--run", "flat", "--start", str(made / "deep"))

    def test_the_engine_gives_the_students_logits(self, tiny: Path, tmp_path: Path) -> None:
        import torch

        from app.backends.checkpoints.checkpoint import WithEmbeddings
        from app.backends.openvino.model import OpenVinoModel
        from app.distill.student import Shape, Student

        target = Target(tiny, tmp_path)
        kept = np.arange(3, 300, 3, dtype=np.int32)
        c = target.config
        shape = Shape(c.hidden_size, c.intermediate_size, c.num_heads, c.num_kv_heads, c.head_size, 1e-5, 1e4, 2)
        student = Student(shape, torch.from_numpy(target.output_layer), kept)
        student.copy_layers(target.weights.tensor, [0, 2])
        ids = [5, 80, 33, 101, 7]
        state = {name: value.numpy() for name, value in student.state_dict().items()}
        pack(state, kept, np.zeros(64), c, "tiny", tmp_path / "draft")
        draft = SafetensorsCheckpoint(tmp_path / "draft")
        student.load_state_dict({name: torch.from_numpy(draft.tensor(name)) for name in state})  # in eight bits
        with torch.no_grad():
            expected = student.lm_head(student.hidden(torch.tensor([ids])))[0].numpy()
        model = OpenVinoModel(
            draft.config,
            lambda: WithEmbeddings(draft, target.weights),
            name="d",
            dtype="f32",
            kept_ids=kept.astype(np.int64),
        )
        logits = model.new_sequence().forward(ids, 5)
        np.testing.assert_allclose(logits, expected, atol=5e-3)

    def test_the_loss_and_its_gradients_are_those_of_the_formula(self) -> None:
        import torch
        from torch.nn import functional

        from app.distill.train import Loss

        torch.manual_seed(0)
        own, teacher = torch.randn(300, 16, requires_grad=True), torch.randn(300, 16)
        head, output = torch.randn(40, 16, requires_grad=True), torch.randn(40, 16)
        weights, late = torch.rand(300), torch.rand(300)
        for tv_weight in (None, late):
            log_q, log_p = (functional.log_softmax(x @ y.T, 1) for x, y in ((own, head), (teacher, output)))
            expected = functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
            if tv_weight is not None:
                tv = 0.5 * (log_q.exp() - log_p.exp()).abs().sum(1)
                expected = (1 - tv_weight) * expected + tv_weight * tv
            mean = (weights * expected).sum() / weights.sum()
            value = Loss.apply(own, head, teacher, output, weights, tv_weight)
            torch.testing.assert_close(value, mean, atol=1e-5, rtol=1e-5)
            for ours, theirs in zip(
                torch.autograd.grad(value, [own, head]), torch.autograd.grad(mean, [own, head]), strict=True
            ):
                torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)

    def test_sharpening_undoes_a_student_that_is_too_flat(self, tiny: Path, made: Path) -> None:
        import torch

        from app.distill.student import Shape, Student
        from app.distill.train import held_out, sharpening

        target = Target(tiny, made / "cache")
        c = target.config
        shape = Shape(
            c.hidden_size,
            c.intermediate_size,
            c.num_heads,
            c.num_kv_heads,
            c.head_size,
            1e-5,
            c.rope_theta,
            c.num_layers,
        )
        output = torch.from_numpy(target.output_layer)
        student = Student(
            shape, torch.from_numpy(target.weights.tensor("model.embed_tokens.weight")), range(len(output))
        )
        student.copy_layers(target.weights.tensor, range(c.num_layers))  # the target itself ...
        with torch.no_grad():
            student.lm_head.weight.copy_(output / 1.3)  # ... but for its temperature
        examples = [e for e in corpus.read([made / "dialogues" / "0"]) if e.temperature][:4]
        assert sharpening(student, held_out(examples, output, student.kept_ids)) == 1.3

    def test_ridge_recovers_a_linear_teacher(self) -> None:
        import torch

        from app.distill.student import ridge

        torch.manual_seed(0)
        own, mix, output = torch.randn(500, 16), torch.randn(16, 16), torch.randn(30, 16)
        fitted = ridge(own, own @ mix, output, 1e-9)
        torch.testing.assert_close(own @ fitted.T, own @ mix @ output.T, atol=1e-3, rtol=1e-3)

    def test_an_extended_output_layer_keeps_its_rows(self) -> None:
        import torch

        from app.distill.student import extended

        torch.manual_seed(0)
        output, mapping = torch.randn(60, 8), torch.randn(8, 8)
        old, ids = torch.arange(0, 60, 3), torch.arange(0, 60)
        rows = extended(output[old] @ mapping, output, old, ids)
        torch.testing.assert_close(rows, output @ mapping, atol=1e-4, rtol=1e-4)

    def test_simulated_tokens_per_pass(self) -> None:
        from app.distill.train import tokens_per_pass

        always, never = np.ones(41), np.zeros(41)
        assert tokens_per_pass([always], 5) == pytest.approx(5)
        assert tokens_per_pass([never], 5) == pytest.approx(1)
        mean = tokens_per_pass([np.full(4001, 0.5)], 3)
        assert mean == pytest.approx(1.75, rel=1e-2)
