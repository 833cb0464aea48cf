"""Grammars, in llguidance's dialect of Lark, of answers that call functions."""

import re
from typing import Any

import msgspec

from ....engine.messages import Grammar
from ...text.grammar import LARK_HEAD, grammar_rule
from ...text.json_schema import moved
from .formats import MAX_PARALLEL_CALLS, Schemas, TokenId, ToolFormat

# What may be one token: <|mark|>, </mark>, [MARK].
_MARKS = re.compile(r"(<[|｜][^>]*>|</?[a-z_]+>|\[/?[A-Z_]+\])")


def call_grammar(
    form: ToolFormat, schemas: Schemas, token_id: TokenId, *, parallel: bool, text_first: bool = False
) -> str:
    """Of an answer that calls one function after the other.

    Args:
        parallel: more than one call is allowed.
        text_first: any text may stand before, between and after calls; the form's opening must be one token.
    """
    if text_first:
        start = f"text (call text){{0,{MAX_PARALLEL_CALLS if parallel else 1}}}\ntext: <[^{token_id(form.opening)}]>*"
    else:
        start = "calls"
    return f"{LARK_HEAD}start: {start}\n{form.rules(schemas, token_id, parallel)}"


def text_or_call_grammar(
    form: ToolFormat, schemas: Schemas, token_id: TokenId, text: Grammar, *, parallel: bool
) -> str:
    """Of an answer that either matches ``text`` or calls functions. The rest is as in ``call_grammar``."""
    key = form.bare_object
    if text.kind != "json_schema" or key is None:
        rules = form.rules(schemas, token_id, parallel)
        return f"{LARK_HEAD}start: answer | calls\n{grammar_rule(text, 'answer')}{rules}"
    # A call is an object, as the answer may be: one schema for both, or the grammar's lexer could not tell them apart.
    parts: dict[str, Any] = {"text": msgspec.json.decode(text.text)} | {
        f"call_{index}": {
            "type": "object",
            "properties": {"name": {"const": name}, key: arguments},
            "required": ["name", key],
            "additionalProperties": False,
        }
        for index, (name, arguments) in enumerate(schemas.items())
    }
    document = {
        "x-guidance": {"whitespace_pattern": "[ ]?"},
        "anyOf": [{"$ref": f"#/$defs/{part}"} for part in parts],
        "$defs": {
            part: moved(one, f"#/$defs/{part}/properties/{key}" if part != "text" else "#/$defs/text")
            for part, one in parts.items()
        },
    }
    return f"{LARK_HEAD}start: %json {as_json(document)}\n"


def written(text: str, token_id: TokenId) -> str:
    """A text as terms of a rule: what is one token as that, the rest as it is."""
    terms = []
    for part in _MARKS.split(text):
        if part:
            found = token_id(part)
            terms.append(as_json(part) if found is None else f"<[{found}]>")
    return " ".join(terms)


def rule_up_to(name: str, marks: tuple[str, ...], token_id: TokenId) -> str:
    """A rule of a grammar: any text up to one of these marks, and the mark."""
    if (found := token_id(marks[0])) is not None:
        return f"{name}: <[^{found}]>* <[{found}]>\n"
    either = "|".join(re.escape(mark).replace("/", r"\/").replace("\\\n", r"\n") for mark in marks)
    return f"{name}[lazy]: /(?s:.*)({either})/\n"


def repeated(term: str, separator: str, parallel: bool) -> str:
    """A term once, or several times with something between."""
    return f"{term} ({separator} {term}){{0,{MAX_PARALLEL_CALLS - 1}}}" if parallel else term


def as_json(value: object) -> str:
    """JSON text, which a string of a rule is, too."""
    return msgspec.json.encode(value).decode()
