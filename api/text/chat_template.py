"""Chat messages to prompt text: the model's own jinja2 template, rendered as transformers renders it.

The same environment (sandbox, block trimming, loop controls, ``generation`` tags, JSON without HTML escapes) and the
same variables, so a template gives here what ``apply_chat_template`` gives. A template is code that came with a model:
the sandbox limits what it may touch, ``_Environment`` how long it may run and how much it may write.
"""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import meta, nodes
from jinja2.compiler import CodeGenerator, Frame, MacroRef
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from ..http.errors import ApiError

# A usual chat renders in less than a millisecond. What takes longer than the first limit starts again in a thread,
# where it holds nobody up.
INLINE_S = 0.02
LIMIT_S = 2.0
MAX_TEXT_CHARACTERS = 8_000_000  # of the rendered text; the largest body accepted by default has 2,000,000 bytes
_MAX_REPEAT = 1_000_000  # items of ``sequence * number``
_MAX_POWER_BITS = 4096

_CONTINUE = "CONTINUE_FINAL_MESSAGE_TAG "
_REASONING = ("reasoning_content", "thinking", "reasoning")


class TemplateError(ApiError):
    """The template refused the conversation, or cannot be rendered."""

    status = 422
    error_type = "template_error"
    failure = "template"

    def __init__(self, reason: str) -> None:
        super().__init__(f"Template error: {reason}")


class _OutOfTime(Exception):
    """Not a jinja2 error, so that nothing between here and there takes it for one."""


class _Generator(CodeGenerator):
    """Puts a look at the clock into every loop and every macro: whatever runs for ever passes there."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        node.body.insert(0, _look_at_the_clock(node))
        super().visit_For(node, frame)

    def macro_body(self, node: nodes.Macro | nodes.CallBlock, frame: Frame) -> tuple[Frame, MacroRef]:
        node.body.insert(0, _look_at_the_clock(node))
        return super().macro_body(node, frame)


def _look_at_the_clock(node: nodes.Node) -> nodes.Node:
    call = nodes.Call(nodes.EnvironmentAttribute("look_at_the_clock"), [], [], None, None)
    return nodes.ExprStmt(call).set_lineno(node.lineno)


class _Generation(Extension):
    """``{% generation %}`` marks what an assistant wrote; only training asks for the marks."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return caller()


class _Environment(ImmutableSandboxedEnvironment):
    """transformers' environment, with a deadline."""

    code_generator_class = _Generator
    intercepted_binops = frozenset(["*", "**"])

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.clock = threading.local()  # deadline: of the rendering in this thread, time.monotonic()
        self.filters["tojson"] = _to_json
        self.globals.update(
            raise_exception=_raise_exception, strftime_now=_strftime_now, dict=_Dict(), namespace=_Namespace
        )

    def look_at_the_clock(self) -> None:
        if time.monotonic() > self.clock.deadline:
            raise _OutOfTime

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """One operation may not take all memory: the clock is not looked at inside it."""
        if operator == "*":
            for sequence, count in ((left, right), (right, left)):
                if isinstance(sequence, str | list | tuple) and isinstance(count, int):
                    if len(sequence) * count > _MAX_REPEAT:
                        raise jinja2.TemplateError("a repetition is too long")
                    break
        elif isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > _MAX_POWER_BITS:
            raise jinja2.TemplateError("a power is too large")
        return super().call_binop(context, operator, left, right)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


class _Dict:
    """``dict`` without the class behind it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """``namespace`` that takes no name that begins with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        values = dict(*args[1:], **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(args[0], values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: str) -> None:
    if name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace holds no name that begins with an underscore: {name!r}")


class ChatTemplate:
    """One compiled template.

    Attributes:
        source: text of the template.
        variables: names it reads that it does not set: ``tools`` is among them if it knows what tools are.
    """

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Raises ValueError if the source is no template.

        Args:
            special_tokens: text by name (``bos_token``), as the template may use them.
        """
        self._environment = _Environment()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="template")
        self._special_tokens = dict(special_tokens)
        self.source = source
        try:
            self._template = self._environment.from_string(source)
            self.variables = frozenset(meta.find_undeclared_variables(self._environment.parse(source)))
        except Exception as error:  # jinja2's own, and those of Python's compiler for what jinja2 made
            raise ValueError(f"not a chat template: {error or type(error).__name__}") from error

    async def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        documents: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> str:
        """The prompt. Raises TemplateError.

        Args:
            messages: plain JSON; keys whose value is None are left out, as in transformers.
            continue_final_message: end the text where the last message's content ends.
            variables: more names for the template; they hide special tokens of the same name.
        """
        messages = [_known_names(message) for message in messages]
        if continue_final_message:
            messages[-1]["content"] = _final_text(messages) + _CONTINUE

        def run(limit_s: float) -> str:
            self._environment.clock.deadline = time.monotonic() + limit_s
            return self._template.render(
                messages=messages,
                tools=tools,
                documents=documents,
                add_generation_prompt=add_generation_prompt,
                **(self._special_tokens | variables),
            )

        text = await self._bounded(run)
        return _cut(text, messages[-1]["content"]) if continue_final_message else text

    async def _bounded(self, run: Callable[[float], str]) -> str:
        try:
            try:
                text = run(INLINE_S)
            except _OutOfTime:
                text = await asyncio.get_running_loop().run_in_executor(self._executor, run, LIMIT_S)
        except _OutOfTime:
            raise TemplateError(f"not rendered within {LIMIT_S:g} s") from None
        except RecursionError:
            raise TemplateError("recursion limit exceeded") from None
        except Exception as error:  # code that came with a model: it may raise anything
            raise TemplateError(str(error) or type(error).__name__) from error
        if len(text) > MAX_TEXT_CHARACTERS:
            raise TemplateError(f"more than {MAX_TEXT_CHARACTERS} characters")
        return text


def _known_names(message: dict[str, Any]) -> dict[str, Any]:
    """Without empty keys, and with an assistant's reasoning under every name that templates read it by."""
    message = {key: value for key, value in message.items() if value is not None}
    reasoning = next((message[name] for name in _REASONING if name in message), None)
    return message if reasoning is None else {"thinking": reasoning, **message, "reasoning_content": reasoning}


def _final_text(messages: Sequence[dict[str, Any]]) -> str:
    text = messages[-1].get("content") if messages else None
    if not isinstance(text, str):
        raise TemplateError("the final message has no content to continue")
    return text


def _cut(text: str, marked: str) -> str:
    """``text`` up to the mark behind the final message. A template that trims the message takes the mark's space."""
    position = text.rfind(_CONTINUE.strip())
    if position < 0 or marked.removesuffix(_CONTINUE).strip() not in text:
        raise TemplateError("the template does not show the final message, so it cannot be continued")
    kept = text[:position]
    return kept if text.startswith(_CONTINUE, position) else kept.rstrip()
