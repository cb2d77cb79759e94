"""Tokenizers out of GGUF metadata, and those beside: as transformers and llama.cpp split text, or said."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models

from app.backends.checkpoints.model_files import ModelFiles, check_pair
from app.engine.pair import Pair
from app.engine.session import Session
from app.errors import PairError
from app.pairs import registry as pairs
from app.pairs.options import PairOptions
from app.record.metrics import Metrics
from app.record.trace import Request, Round, Sampling
from tests.support.ggufs import BYTE_TOKENS, write_gguf
from tests.support.llamas import TINY, save_directory, save_tokenizer, weights

WORDS = ["▁", "h", "e", "l", "o", "w", "r", "d", "a", "b", "he", "ll", "lo", "▁h", "hell", "▁hello", "▁w", "or", "▁wor", "ld",
         "llo", "▁world", "ab", "ba", "aba", "▁▁", "el", "ello", "\n", "é"]  # fmt: skip
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPM_TOKENS = ["<unk>", "<s>", "</s>", *BYTES, *WORDS, "<|mark|>"]
SPM: dict[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": SPM_TOKENS,
    "tokenizer.ggml.scores": [0.0] * 259 + [-float((7 * i) % 31) - 1 - i / 64 for i in range(len(WORDS))] + [0.0],
    "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(WORDS), 4],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
}
SPM["tokenizer.ggml.scores"] = [float(score) for score in SPM["tokenizer.ggml.scores"]]
SHAPE = {"vocab_size": len(SPM_TOKENS)}
TEXTS = [
    "", " ", "hello world", "  hello", "hello  world ", "hello\r\nworld", "aba abaab ba", "helloworld", "é ü 🦜", "\x00a\x00",
    "שלום hello", "a\tb", "hellohell ello", "lolo llo", "x" * 30, "a" * 40, "\ufeffhello", "e\u0301",
]  # fmt: skip


def spm_reference(text: str) -> list[int]:
    """SentencePiece's BPE as llama.cpp does it: again and again the pair whose token has the highest score, leftmost of
    equals; what is no token then falls to its bytes."""
    scores = dict(zip(SPM_TOKENS, SPM["tokenizer.ggml.scores"], strict=True))
    normal = set(WORDS)
    symbols = list("▁" + text.replace(" ", "▁")) if text else []
    while True:
        pairs_ = [(-scores[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(symbols)) if a + b in normal]
        if not pairs_:
            break
        _, i = min(pairs_)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    ids = []
    for symbol in symbols:
        known = symbol in normal
        ids += [SPM_TOKENS.index(symbol)] if known else [SPM_TOKENS.index(f"<0x{b:02X}>") for b in symbol.encode()]
    return ids


@pytest.mark.parametrize("text", TEXTS)
def test_a_sentencepiece_tokenizer_is_rebuilt_from_tokens_and_scores(tmp_path: Path, text: str) -> None:
    write_gguf(tmp_path / "spm.gguf", change=SHAPE, tokenizer=SPM)
    tokenizer = ModelFiles(tmp_path / "spm.gguf", tmp_path / "cache").tokenizer()
    ids = tokenizer.encode(text)
    assert ids == [1, *spm_reference(text)]  # BOS where the file does not say
    said = b"".join(tokenizer.piece(token) for token in ids[1:]).decode()
    assert said == (f" {text}" if text else "")


def test_typed_specials_and_marks_are_one_token(tmp_path: Path) -> None:
    write_gguf(tmp_path / "spm.gguf", change=SHAPE, tokenizer=SPM, fields={"tokenizer.ggml.add_bos_token": False})
    tokenizer = ModelFiles(tmp_path / "spm.gguf", tmp_path / "cache").tokenizer()
    mark = SPM_TOKENS.index("<|mark|>")
    assert tokenizer.encode("hello</s>a<|mark|>") == [*spm_reference("hello"), 2, *spm_reference("a"), mark]
    assert (tokenizer.is_special(2), tokenizer.is_special(mark)) == (True, False)


@pytest.mark.slow
def test_merges_are_those_that_transformers_makes(tmp_path: Path) -> None:
    reference = pytest.importorskip("transformers.convert_slow_tokenizer")
    write_gguf(tmp_path / "spm.gguf", change=SHAPE, tokenizer=SPM)
    written = ModelFiles(tmp_path / "spm.gguf", tmp_path / "cache").directory / "tokenizer.json"
    merges = [tuple(merge) for merge in json.loads(written.read_text())["model"]["merges"]]
    vocabulary = {token: index for index, token in enumerate(SPM_TOKENS)}
    scores = dict(zip(SPM_TOKENS, SPM["tokenizer.ggml.scores"], strict=True))
    assert merges == reference.generate_merges(vocabulary, scores)
    assert len(merges) > 20


def test_tokens_without_scores_are_no_tokenizer(tmp_path: Path) -> None:
    flat = {**SPM, "tokenizer.ggml.scores": [-1000.0] * len(SPM_TOKENS)}
    write_gguf(tmp_path / "spm.gguf", change=SHAPE, tokenizer=flat)
    with pytest.raises(PairError, match=r"no scores of its tokens.* put the model's own tokenizer\.json beside it"):
        ModelFiles(tmp_path / "spm.gguf", tmp_path / "cache")


# --- a tokenizer.json beside ---


def test_a_tokenizer_beside_counts_only_if_its_tokens_are_the_files(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, fields={"tokenizer.ggml.pre": "tekken"})
    save_tokenizer(tmp_path, changed=77)
    with pytest.raises(PairError, match="the one there is another model's: its token 77 is 'XYZ'"):
        ModelFiles(path, tmp_path / "cache")
    vocabulary = {token: index for index, token in enumerate(BYTE_TOKENS)}
    Tokenizer(models.BPE(vocabulary, [("A", "B")])).save(str(tmp_path / "tokenizer.json"))  # replaced: noticed at once
    assert ModelFiles(path, tmp_path / "cache").tokenizer().encode("AB") == [127]
    Tokenizer(models.BPE(vocabulary, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(PairError, match="merges in another order"):
        ModelFiles(path, tmp_path / "cache")


def test_another_models_tokenizer_beside_is_left_alone_and_said(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf")
    save_tokenizer(tmp_path, changed=77)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "wrong {{ messages }}"}))
    tokenizer = ModelFiles(tmp_path / "tiny.gguf", tmp_path / "cache").tokenizer()
    assert tokenizer.piece(77) == b"n"
    assert not tokenizer.has_chat_template
    assert any("is another model's (its token 77" in note for note in tokenizer.notes)
    assert any("no chat template" in note for note in tokenizer.notes)


def test_a_template_beside_is_taken_where_the_file_has_none(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", fields={"tokenizer.ggml.bos_token_id": 1})
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}$")
    tokenizer = ModelFiles(tmp_path / "tiny.gguf", tmp_path / "cache").tokenizer()
    assert tokenizer.encode_chat([{"role": "user", "content": "AB"}]) == [1, 127, 3]


# --- how text is split into words ---


def pre(tmp_path: Path, kind: str | None, tokens: list[str] | None = None) -> ModelFiles:
    tokens = tokens or BYTE_TOKENS
    types = [3] * 4 + [1] * (len(tokens) - 4)
    fields = {
        "tokenizer.ggml.pre": kind,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
    }
    write_gguf(tmp_path / "tiny.gguf", fields=fields)
    return ModelFiles(tmp_path / "tiny.gguf", tmp_path / "cache")


@pytest.mark.parametrize("kind", ["llama-bpe", "llama3", "llama-v3", "smaug-bpe", "dbrx"])
def test_llama_3s_split_has_many_names(tmp_path: Path, kind: str) -> None:
    files = pre(tmp_path, kind)
    written = (files.directory / "tokenizer.json").read_text()
    assert r"\\p{N}{1,3}" in written
    assert files.tokenizer().encode("A")[0] == 1  # and begins with BOS


@pytest.mark.slow
def test_llama_3_is_known_by_its_specials(tmp_path: Path) -> None:
    tokens = [*BYTE_TOKENS, *(f"t{i}" for i in range(128256 - 129)), "<|begin_of_text|>"]
    files = pre(tmp_path, None, tokens)
    assert r"\\p{N}{1,3}" in (files.directory / "tokenizer.json").read_text()


def test_a_split_that_is_not_said_is_guessed_and_that_is_said(tmp_path: Path) -> None:
    files = pre(tmp_path, None)
    assert any("does not say how text is split" in note for note in files.tokenizer().notes)
    assert files.tokenizer().encode("A") == [BYTE_TOKENS.index("A")]  # GPT-2's kind has no BOS


# --- two models' tokens ---


def with_specials(path: Path, names: list[str], vocab: int, *, ordinary: int | None = None) -> Path:
    """A directory whose tokenizer has these specials after its 124 ordinary tokens."""
    save_directory(path, {**TINY, "vocab_size": vocab}, weights({**TINY, "vocab_size": vocab}))
    save_tokenizer(path, size=124, changed=ordinary)
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.add_special_tokens(names)
    tokenizer.save(str(path / "tokenizer.json"))
    return path


@pytest.mark.slow
def test_specials_of_other_names_are_allowed_said_and_never_proposed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path))
    target = with_specials(tmp_path / "target", ["<|a|>", "<|b|>", "<|think|>"], 128)
    draft = with_specials(tmp_path / "draft", ["<|a|>", "<|r1|>", "<|r2|>"], 128)
    never = check_pair(ModelFiles(target, tmp_path), ModelFiles(draft, tmp_path))
    assert never == {125, 126}
    pair = pairs.load(PairOptions(target=target, draft=draft, dtype="f32"))
    assert any("2 special tokens have other names in draft than in target" in note for note in pair.notes)
    ids = runs(pair)
    assert ids
    assert not set(ids) & never
    other = with_specials(tmp_path / "other", ["<|a|>", "<|b|>", "<|think|>"], 128, ordinary=50)
    with pytest.raises(PairError, match="have different tokenizers"):
        check_pair(ModelFiles(target, tmp_path), ModelFiles(other, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_a_draft_with_more_ids_than_its_target_never_proposes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    monkeypatch.setenv("PLAYGROUND_MODELS", str(tmp_path))
    target = with_specials(tmp_path / "target", ["<|a|>"], 125)
    draft = with_specials(tmp_path / "draft", ["<|a|>", "<|b|>"], 512)
    options = PairOptions(target=target, draft=draft, dtype="f32", backend=backend)
    ids = runs(pairs.load(options))
    assert ids
    assert max(ids) < 125


def runs(pair: Pair) -> list[int]:
    """The ids that are drafted in a run."""
    request = Request(
        prompt="HELLO",
        chat_template=False,
        max_tokens=60,
        sampling=Sampling(2.0),
        acceptor="rejection",
        arms="speculative",
    )
    events = list(Session(pair).run(request))
    assert Metrics(events).reason in ("stop", "length"), events[-1]
    return [token.id for event in events if isinstance(event, Round) for token in event.drafted]
