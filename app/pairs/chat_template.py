"""Chat templates: the environment the Hub's templates are written for, sandboxed and bounded.

A template comes with the model: it may compute text and nothing else, and only so much of it. Whatever it does that it
may not, or that fails, is one sentence.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.compiler import CodeGenerator
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.errors import PairError, RequestError

MAX_TEXT = 4_000_000  # characters a template may make, at once or in all
MAX_STEPS = 1_000_000  # turns of its loops, and calls, together
_CALL = 20  # steps a call counts for
_MAX_WIDTH = 10_000  # of a formatted field
_TOO_LONG = f"it makes more than {MAX_TEXT} characters"
_NESTED = re.compile(r"\{[^{}]*\{")  # a width that is an argument


class ChatTemplate:
    """One template, compiled. variables: what it may call by name beside the messages (bos_token, eos_token, ...)."""

    def __init__(self, source: str, variables: dict[str, str]) -> None:
        """Raises PairError for a template that cannot be compiled."""
        self._variables = variables
        self._budget = _Budget()
        try:
            self._template = _environment(self._budget).from_string(source)
        except TemplateSyntaxError as error:
            raise PairError(
                f"The model's chat template is not valid (line {error.lineno}: "
                f"{str(error.message).rstrip('.')}); correct it in "
                "tokenizer_config.json, or choose another version of the model."
            ) from None
        except (TemplateError, RecursionError, ValueError, MemoryError, SyntaxError) as error:
            raise PairError(f"The model's chat template is not valid ({_reason(error)}); correct it.") from None

    def render(self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool = True) -> str:
        """The conversation as text. Raises RequestError naming the fault."""
        self._budget.refill()
        made, parts = 0, []
        try:
            pieces = self._template.generate(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._variables,
            )
            for piece in pieces:
                made += len(piece)
                if made > MAX_TEXT:
                    raise SecurityError(_TOO_LONG)
                parts.append(piece)
        except Exception as error:  # a template is a program of somebody else's: it may raise anything
            raise RequestError(
                f"The model's chat template refuses this conversation: {_reason(error)}; change the conversation, or "
                "switch the chat template off."
            ) from None
        return "".join(parts)


class _Budget:
    """What one rendering may still do."""

    def __init__(self) -> None:
        self.refill()

    def refill(self) -> None:
        self.steps = MAX_STEPS

    def take(self, steps: int) -> None:
        self.steps -= steps
        if self.steps < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")


class _Generation(Extension):
    """`{% generation %}`: marks what the model says, for training; here it is only what it encloses."""

    tags = {"generation"}  # noqa: RUF012  (jinja's own form)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Generator(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Any) -> None:  # noqa: N802  (as jinja's)
        """`a ~ b` measured, as every other operator."""
        self.write("environment.joined((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Environment(ImmutableSandboxedEnvironment):
    """Operators and methods that could fill the memory are measured first, turns of loops and calls are counted."""

    code_generator_class = _Generator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, budget: _Budget, **options: Any) -> None:
        super().__init__(**options)
        self._budget = budget

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for loop in template.find_all(nodes.For):
            counted = nodes.EnvironmentAttribute("counted").set_lineno(loop.lineno)
            loop.iter = nodes.Call(counted, [loop.iter], [], None, None).set_lineno(loop.lineno)
        return template.set_environment(self)  # type: ignore[return-value]

    def counted(self, values: Iterable[Any]) -> Iterator[Any]:
        """`values`, each turn counted."""
        for value in values:
            self._budget.take(1)
            yield value

    def joined(self, parts: Sequence[Any]) -> str:
        """The parts as one text, not longer than a text may be."""
        texts = [str(part) for part in parts]
        if sum(map(len, texts)) > MAX_TEXT:
            raise SecurityError(_TOO_LONG)
        return "".join(texts)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "*":
            _measure_product(left, right)
        elif operator == "+":
            if (
                isinstance(left, str | list | tuple)
                and isinstance(right, type(left))
                and len(left) + len(right) > MAX_TEXT
            ):
                raise SecurityError(_TOO_LONG)
        elif operator == "**" and (abs(left) > 1 << 32 or abs(right) > 64):
            raise SecurityError("it raises to a power too high")
        elif operator == "%" and isinstance(left, str):
            _measure_format(left)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Any:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            _measure_format(str(value.__self__))
        return wrapped

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805  (as jinja's)
        __self._budget.take(_CALL)
        name, owner = getattr(__obj, "__name__", ""), getattr(__obj, "__self__", None)
        if isinstance(owner, str):
            if name in ("center", "ljust", "rjust", "zfill", "expandtabs") and any(
                isinstance(width, int) and width > _MAX_WIDTH for width in args
            ):
                raise SecurityError(f"it makes a field wider than {_MAX_WIDTH}")
            if name == "replace" and len(args) >= 2:
                return _replace(owner, *args, **kwargs)
            if name == "join" and len(owner) > _MAX_WIDTH:
                raise SecurityError(f"it joins by a text of {len(owner)} characters")
        return super().call(__context, __obj, *args, **kwargs)


def _environment(budget: _Budget) -> ImmutableSandboxedEnvironment:
    environment = _Environment(
        budget, trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"], cache_size=0
    )

    def refuse(message: str) -> None:
        raise TemplateError(message)

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        if isinstance(indent, int) and indent > 64:
            raise SecurityError(f"it indents by {indent}")
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def bounded(name: str) -> Callable[..., Any]:
        original = environment.filters[name]

        def filtered(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(each, int) and each > _MAX_WIDTH for each in (*args[1:], *kwargs.values())):
                raise SecurityError(f"it makes a field wider than {_MAX_WIDTH}")
            if name == "format":
                _measure_format(str(args[0]))
            return original(*args, **kwargs)

        return filtered

    for name in ("center", "indent", "format", "batch", "slice"):
        environment.filters[name] = bounded(name)
    environment.filters["replace"] = _replace
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    environment.globals.pop("lipsum", None)
    return environment


def _replace(text: Any, old: str, new: str, count: int | None = None) -> str:
    """jinja's filter, measured."""
    whole = str(text)
    if (len(whole) + 1) * len(str(new)) > MAX_TEXT and whole.count(str(old)) * len(str(new)) > MAX_TEXT:
        raise SecurityError(_TOO_LONG)
    return whole.replace(str(old), str(new), -1 if count is None else count)


def _measure_product(left: Any, right: Any) -> None:
    for many, times in ((left, right), (right, left)):
        if isinstance(many, str | list | tuple) and isinstance(times, int) and len(many) * times > MAX_TEXT:
            raise SecurityError(_TOO_LONG)
    if isinstance(left, int) and isinstance(right, int) and max(left.bit_length(), right.bit_length()) > 10_000:
        raise SecurityError("it multiplies numbers too large")


def _measure_format(form: str) -> None:
    digits = "".join(character if character.isdigit() else " " for character in form).split()
    if (
        any(len(number) > 4 and int(number[:6]) > _MAX_WIDTH for number in digits)
        or "*" in form
        or _NESTED.search(form)
    ):
        raise SecurityError(f"it makes a field wider than {_MAX_WIDTH}")


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    said = (lines[0] if lines else type(error).__name__)[:300].rstrip(".;")
    return said if isinstance(error, TemplateError) else f"{type(error).__name__}: {said}"
