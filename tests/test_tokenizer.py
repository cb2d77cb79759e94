"""The tokenizer of the embedded pair: text, pieces, special tokens, templates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.pair import Pair
from app.errors import PairError, RequestError
from app.pairs.tokenizer import TextTokenizer
from app.record.trace import join_pieces, piece_text

# SmolLM2's vocabulary lacks six control bytes, and F1 and F2, which begin only characters not yet assigned
ENCODABLE = st.characters(exclude_categories=["Cs", "Cn"], exclude_characters="\x04\x06\x13\x14\x16\x1d")


@given(text=st.text(ENCODABLE, max_size=60))
def test_pieces_give_the_text_back(embedded: Pair, text: str) -> None:
    tokenizer = embedded.tokenizer
    pieces = [tokenizer.piece(token) for token in tokenizer.encode(text)]
    assert b"".join(pieces).decode() == text
    assert join_pieces(map(piece_text, pieces)) == text


def test_a_character_may_be_split_over_tokens(embedded: Pair) -> None:
    pieces = [embedded.tokenizer.piece(token) for token in embedded.tokenizer.encode("🦜")]
    assert len(pieces) > 1
    assert any(piece_text(piece) != piece.decode("utf-8", "replace") for piece in pieces)


def test_control_tokens_are_told_from_text(embedded: Pair) -> None:
    tokenizer = embedded.tokenizer
    (stop,) = tokenizer.stop_ids
    assert tokenizer.piece(stop) == b"<|im_end|>"
    assert tokenizer.is_special(stop)
    assert not any(tokenizer.is_special(token) for token in tokenizer.encode("an ordinary sentence"))


def test_the_chat_template_ends_where_the_answer_begins(embedded: Pair) -> None:
    tokenizer = embedded.tokenizer
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi {{ 7 * 7 }}"}]
    text = b"".join(tokenizer.piece(token) for token in tokenizer.encode_chat(messages)).decode()
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi {{ 7 * 7 }}<|im_end|>\n<|im_start|>assistant\n"
    )


def with_template(embedded: Pair, tmp_path: Path, template: str | None) -> TextTokenizer:
    source = embedded.tokenizer._tokenizer.to_str()  # type: ignore[attr-defined]
    (tmp_path / "tokenizer.json").write_text(source)
    config = {"chat_template": template, "bos_token": {"content": "<|im_start|>"}, "add_bos_token": True}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return TextTokenizer(tmp_path, [2])


def test_a_template_may_compute_text_and_nothing_else(embedded: Pair, tmp_path: Path) -> None:
    escape = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(RequestError, match="chat template refuses"):
        with_template(embedded, tmp_path, escape).encode_chat([{"role": "user", "content": "x"}])


def test_a_template_may_refuse_a_conversation(embedded: Pair, tmp_path: Path) -> None:
    tokenizer = with_template(embedded, tmp_path, "{{ raise_exception('roles must alternate') }}")
    with pytest.raises(RequestError, match="roles must alternate"):
        tokenizer.encode_chat([{"role": "user", "content": "x"}])


def test_without_a_template_the_text_is_fed_as_it_is_after_the_first_token(embedded: Pair, tmp_path: Path) -> None:
    tokenizer = with_template(embedded, tmp_path, None)
    assert not tokenizer.has_chat_template
    assert tokenizer.encode("hello")[0] == 1  # bos
    with pytest.raises(RequestError, match="no chat template"):
        tokenizer.encode_chat([{"role": "user", "content": "x"}])


def test_a_missing_or_damaged_tokenizer_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(PairError, match=r"no tokenizer\.json"):
        TextTokenizer(tmp_path, [])
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(PairError, match="damaged"):
        TextTokenizer(tmp_path, [])
