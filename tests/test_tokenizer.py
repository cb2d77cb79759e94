"""The tokenizer of the embedded pair: text, pieces, special tokens, templates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.pair import Pair
from app.engine.requests import prompt_ids
from app.errors import PairError, RequestError
from app.pairs.tokenizer import TextTokenizer
from app.record.pieces import join_pieces, piece_text
from app.record.trace import Request

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


def test_the_chat_template_takes_earlier_turns(embedded: Pair) -> None:
    request = Request(
        prompt="Again, please.",
        system="Be brief.",
        messages=({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello.\n"}),
    )
    ids = prompt_ids(embedded, request)
    assert b"".join(map(embedded.tokenizer.piece, ids)).decode() == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.\n"
        "<|im_end|>\n<|im_start|>user\nAgain, please.<|im_end|>\n<|im_start|>assistant\n"
    )
    raw = prompt_ids(embedded, replace(request, chat_template=False))
    assert b"".join(map(embedded.tokenizer.piece, raw)).decode() == "Be brief.\n\nHi\n\nHello.\n\n\nAgain, please."


def with_template(embedded: Pair, tmp_path: Path, template: str | None) -> TextTokenizer:
    source = embedded.tokenizer._tokenizer.to_str()  # type: ignore[attr-defined]
    (tmp_path / "tokenizer.json").write_text(source)
    config = {
        "chat_template": template,
        "bos_token": {"content": "<|im_start|>"},
        "playground": {"add_bos_token": True},
    }
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


# --- as transformers ---

TRICKY = [
    "", " ", "hello", "  two  spaces ", "line\r\nline\n\n", "tab\there", "🦜👩‍👩‍👧", "e\u0301 é", "\x00", "שלום עולם", "1234567",
    "<|im_end|> typed", "a<|im_start|>", "don't I'LL", "\ufeffbom", "日本語", "\u2028", "x" * 200,
]  # fmt: skip


def llama3_like(embedded: Pair, tmp_path: Path, config: dict[str, object], **changes: object) -> Path:
    """The embedded tokenizer with BOS in its post-processor, as Llama 3 has it, and a limit of length."""
    own = json.loads(embedded.tokenizer._tokenizer.to_str())  # type: ignore[attr-defined]
    bos = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    own["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [bos, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }
    own["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps({**own, **changes}))
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|im_start|>", **config})
    )
    return tmp_path


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"add_bos_token": False},
        {"add_bos_token": True, "add_eos_token": True, "eos_token": "<|im_end|>"},
        {"added_tokens_decoder": {"49152": {"content": "<|new|>", "special": True}}},
    ],
    ids=["post-processor", "no bos", "bos and eos", "a token more"],
)
def test_texts_become_the_ids_that_transformers_makes(
    embedded: Pair, tmp_path: Path, config: dict[str, object]
) -> None:
    transformers = pytest.importorskip("transformers")
    directory = llama3_like(embedded, tmp_path, config)
    theirs = transformers.AutoTokenizer.from_pretrained(directory)
    ours = TextTokenizer(directory, [2])
    for text in [*TRICKY, "a <|new|> b"]:
        assert ours.encode(text) == theirs(text)["input_ids"], text


def test_bos_comes_from_the_post_processor_and_no_text_is_cut(embedded: Pair, tmp_path: Path) -> None:
    ids = TextTokenizer(llama3_like(embedded, tmp_path, {}), [2]).encode("one two three four five six seven eight nine")
    assert ids[0] == 1
    assert len(ids) > 8


def test_half_a_character_is_a_sentence(embedded: Pair) -> None:
    with pytest.raises(RequestError, match="lone surrogate"):
        embedded.tokenizer.encode("a\ud800b")


def test_where_no_file_names_a_stop_id_the_tokenizer_does(embedded: Pair, tmp_path: Path) -> None:
    directory = llama3_like(embedded, tmp_path, {"eos_token": "<|im_end|>"})
    assert TextTokenizer(directory, []).stop_ids == {2}


TEMPLATES = {
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content }}{% endfor %}": "Grüße <b>",
    "{% generation %}{{ messages[0].content }}{% endgeneration %}": "Grüße <b>",
    "{{ messages[0] | tojson }}": '{"role": "user", "content": "Grüße <b>"}',
    "{% if tools %}no{% endif %}{% if documents is none %}{{ messages[0].role }}{% endif %}": "user",
    "{{ strftime_now('%%') }}{{ bos_token ~ 1 }}": "%<|im_start|>1",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_find_the_hubs_environment(embedded: Pair, tmp_path: Path, template: str) -> None:
    tokenizer = with_template(embedded, tmp_path, template)
    messages = [{"role": "user", "content": "Grüße <b>"}, {"role": "assistant", "content": "x"}]
    assert tokenizer._template.render(messages) == TEMPLATES[template]


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{% for %}", "is not valid"),
        ("{% nonsense %}", "is not valid"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[9].content.x }}", "cannot be used"),
        ("{{ 'x' * 1000000000 }}", "more than 4000000 characters"),
        ("{% set n = namespace(s='xxxx') %}{% for i in range(50) %}{% set n.s = n.s ~ n.s %}{% endfor %}", "more than"),
        ("{% set n = namespace(s='xxxx') %}{% for i in range(50) %}{% set n.s = n.s + n.s %}{% endfor %}", "more than"),
        ("{% for i in range(9999) %}{% for j in range(9999) %}{% endfor %}{% endfor %}", "steps"),
        ("{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(60) }}", "steps"),
        ("{{ '%999999999d' % 3 }}", "wider"),
        ("{{ '{:>999999999}'.format(3) }}", "wider"),
        ("{{ 'a'.center(999999999) }}", "wider"),
        ("{{ 2 ** 99999999 }}", "power"),
    ],
)
def test_a_template_that_cannot_be_used_is_a_sentence_before_the_model_loads(
    embedded: Pair, tmp_path: Path, template: str, fault: str
) -> None:
    with pytest.raises(PairError, match=fault) as caught:
        with_template(embedded, tmp_path, template).check()
    assert str(caught.value).endswith(".")
