"""Documentation is held against the program: what is there is described, and what is described is there."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from app.__main__ import parser
from app.engine.acceptance import ACCEPTORS
from app.pairs.options import PairOptions
from app.pairs.registry import BACKENDS
from app.record.limits import DRAFTERS
from app.ui.page import build_page
from tests.support import flags_reference
from tests.support.documents import DOCUMENTS, ROOT, read
from tests.support.pages import toy_session

APP = ROOT / "app"


def names(text: str) -> set[str]:
    """What stands in backticks, a flag's value left out."""
    return {word for each in re.findall(r"`([^`\n]+)`", text) for word in re.split(r"[\s,]+", each)}


def test_every_module_stands_once_in_the_reading_order() -> None:
    modules = {str(path.relative_to(APP)) for path in APP.rglob("*.py") if path.name != "__init__.py"}
    listed = Counter(re.findall(r"^- `([\w/]+\.py)`: \S", read("app/README.md"), re.MULTILINE))
    assert modules - set(listed) == set(), "give each a line in the reading order of app/README.md"
    assert set(listed) - modules == set(), "app/README.md names what is not there"
    assert [module for module, count in listed.items() if count > 1] == []


def test_every_flag_is_described() -> None:
    for name, command, purpose in flags_reference.commands(parser()):
        assert purpose, name
        for action in flags_reference.flags(command):
            assert action.help, f"{name} {action.option_strings or action.dest} has no help"


def test_the_flags_in_the_document_are_those_of_the_program() -> None:
    text = flags_reference.FILE.read_text(encoding="utf-8")
    assert text == flags_reference.written(text), "run .venv/bin/python -m tests.support.flags_reference"


def test_every_environment_variable_is_described() -> None:
    sources = [*APP.rglob("*.py"), ROOT / "launch.sh", ROOT / ".ci" / "run"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    used = set(re.findall(r"environ(?:\.get\(|\[)\s*\"([A-Z][A-Z0-9_]+)\"", code))
    used |= set(re.findall(r"^[A-Z_]+_VARIABLE = \"([A-Z][A-Z0-9_]+)\"", code, re.MULTILINE))
    used |= set(re.findall(r"\$\{([A-Z][A-Z0-9_]+):-", code))
    assert "PLAYGROUND_MODELS" in used
    assert used - names(read("app/cli/README.md")) == set(), "give each a row in app/cli/README.md"


def test_every_figure_for_operators_is_described() -> None:
    code = (APP / "ui" / "operation.py").read_text(encoding="utf-8")
    figures = set(re.findall(r"\"(playground_\w+)\"", code))
    assert figures
    assert figures - names(read("app/ui/README.md")) == set(), "give each a row in app/ui/README.md"


def test_every_endpoint_and_its_parameters_are_described() -> None:
    page = build_page(toy_session(), [])
    text = read("app/ui/README.md")
    for endpoint, known in page.get_api_info()["named_endpoints"].items():
        assert f"`{endpoint}`" in text, f"give {endpoint} a row in app/ui/README.md"
        for parameter in known["parameters"]:
            assert parameter["parameter_name"] in names(text), f"app/ui/README.md does not name {parameter}"


@pytest.mark.parametrize("name", [*ACCEPTORS, *DRAFTERS])
def test_every_acceptor_and_drafter_is_described(name: str) -> None:
    rows = re.findall(rf"^\| `{re.escape(name)}` \|", read("app/engine/README.md"), re.MULTILINE)
    assert rows, f"give {name} a row in app/engine/README.md"


@pytest.mark.parametrize("key", PairOptions.__dataclass_fields__)
def test_every_key_of_a_pair_file_is_described(key: str) -> None:
    assert key in names(read("app/backends/README.md")), f"give {key} a row in app/backends/README.md"


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_backend_is_described(backend: str) -> None:
    name = f"`{backend}/`" if (APP / "backends" / backend).is_dir() else f"`--backend {backend}`"
    assert name in read("app/backends/README.md")


def test_a_stranger_finds_the_way_within_a_minute() -> None:
    """The questions people come with stand in a table near the top of the architecture page, with links."""
    text = read("app/README.md")
    table = text[text.index("## Where is what") : text.index("## The walls")]
    assert text.index("## The walls") < len(text) / 3
    for question, answer in {
        "token's colour": "engine/round_record.py",
        "add an acceptor": "engine/acceptance.py",
        "GGUF": "backends/checkpoints/gguf_file.py",
        "import what": "../tests/test_imports.py",
    }.items():
        (row,) = (line for line in table.splitlines() if question in line)
        assert f"]({answer})" in row


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for target in [*re.findall(r"\]\(([^)#\s]+)", text), *re.findall(r'src(?:set)?="([^"]+)"', text)]:
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_path_named_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    folders = (ROOT, document.parent)
    for path in re.findall(r"`((?:app|tests|assets)/[\w./-]+)`", text):
        assert any((folder / path).exists() for folder in folders), path


def test_the_first_page_is_short_and_leads_to_every_other() -> None:
    text = read("README.md")
    assert text.count("\n") <= 170
    for folder in sorted({path.parent for path in APP.rglob("README.md")}):
        assert f"]({folder.relative_to(ROOT)}/README.md)" in text, folder
