"""The regions of an answer that a ``response_template`` describes, each told as far as it is certain."""

from collections.abc import Mapping
from typing import Any, Protocol

from ..text.response_template import THOUGHTS, Field
from ..text.response_values import PARSERS, cast, transformed
from .part import Part
from .tools.formats import Schemas
from .tools.grammar import as_json
from .tools.json_parser import JsonCallParser


class Region(Protocol):
    """One of them."""

    def add(self, text: str, shown: str) -> list[Part]:
        """More of its text; ``shown``: without special tokens, and without what the prompt has of it."""
        ...

    def close(self, written: str) -> list[Part]:
        """It ends; ``written``: all of it with its opening and its closing."""
        ...


def region_of(field: Field, groups: Mapping[str, str], schemas: Schemas, before: str) -> Region:
    """A region of that field which begins.

    Args:
        groups: of the opening's match.
        schemas: of the functions that may be called.
        before: stands between it and the one before.
    """
    plain = field.content == "text" and field.transform is None
    if field.name == "content" or field.name in THOUGHTS:
        is_thought = field.name in THOUGHTS
        strips = bool(field.content_args.get("strip", True))
        return _Text(before, is_thought, strips) if plain else _Value(field, groups, is_thought)
    if field.name != "tool_calls":
        return _Unknown()
    function = field.transform.get("function") if isinstance(field.transform, dict) else None
    if field.content == "json" and not field.content_args and not field.transform_each:
        if function == "{content}":
            return _Object(schemas)
        named = [name for name in groups if function == {"name": f"{{{name}}}", "arguments": "{content}"}]
        if named and groups[named[0]] in schemas:
            return _Arguments(groups[named[0]])
    return _Calls(field, groups, schemas)


class _Unknown:
    """Of a field that no protocol has."""

    def add(self, text: str, shown: str) -> list[Part]:  # noqa: ARG002
        return []

    def close(self, written: str) -> list[Part]:  # noqa: ARG002
        return []


class _Text:
    """Text or thoughts, without the spaces at their ends if so wanted."""

    def __init__(self, before: str, is_thought: bool, strips: bool) -> None:
        self._before = before
        self._is_thought = is_thought
        self._strips = strips
        self._begun = False
        self._held = ""  # spaces that may be the end

    def add(self, text: str, shown: str) -> list[Part]:  # noqa: ARG002
        held = self._held + shown
        if self._strips:
            held = held if self._begun else held.lstrip()
            sure = held.rstrip()
        else:
            sure = held
        self._held = held[len(sure) :]
        if not sure:
            return []
        if not self._begun:
            self._begun, sure = True, self._before + sure
        return [_said(sure, self._is_thought)]

    def close(self, written: str) -> list[Part]:  # noqa: ARG002
        return []


class _Whole:
    """One that is told at its end."""

    def __init__(self, field: Field, groups: Mapping[str, str]) -> None:
        self._field = field
        self._groups = groups
        self._text = ""

    def add(self, text: str, shown: str) -> list[Part]:  # noqa: ARG002
        self._text += text
        return []

    def _value(self) -> Any:
        """What its parser and its transform make of it. Raises what _FAILURES has."""
        field = self._field
        value = PARSERS[field.content](self._text, field.content_args)
        if field.transform is None:
            return value
        if field.transform_each:
            return [transformed(field.transform, {**self._groups, **one}) for one in value]
        return transformed(field.transform, {**self._groups, "content": value})


class _Value(_Whole):
    """Text or thoughts that are made of the whole region; as they were written if that can't be done."""

    def __init__(self, field: Field, groups: Mapping[str, str], is_thought: bool) -> None:
        super().__init__(field, groups)
        self._is_thought = is_thought

    def close(self, written: str) -> list[Part]:
        try:
            value = self._value()
        except _FAILURES:
            value = written
        text = value if isinstance(value, str) else as_json(value)
        return [_said(text, self._is_thought)] if text else []


class _Object:
    """A call that is a JSON object with a name in it."""

    def __init__(self, schemas: Schemas) -> None:
        self._parser = JsonCallParser("", "", frozenset(schemas), only_calls=True, parallel=False)

    def add(self, text: str, shown: str) -> list[Part]:  # noqa: ARG002
        return [part for part in self._parser.feed(text) if not part.text]

    def close(self, written: str) -> list[Part]:
        return [] if self._parser.calls else [Part(written)]


class _Arguments:
    """The arguments of a call, as JSON, which its opening has named."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._begun = False
        self._held = ""

    def add(self, text: str, shown: str) -> list[Part]:  # noqa: ARG002
        held = self._held + text if self._begun else (self._held + text).lstrip()
        sure = held.rstrip()
        self._held = held[len(sure) :]
        if not sure:
            return []
        begin = [] if self._begun else [Part(name=self._name)]
        self._begun = True
        return [*begin, Part(arguments=sure)]

    def close(self, written: str) -> list[Part]:  # noqa: ARG002
        return [] if self._begun else [Part(name=self._name), Part(arguments="{}")]


class _Calls(_Whole):
    """Calls that are made of the whole region."""

    def __init__(self, field: Field, groups: Mapping[str, str], schemas: Schemas) -> None:
        super().__init__(field, groups)
        self._schemas = schemas

    def close(self, written: str) -> list[Part]:
        try:
            value = self._value()
            calls = [self._call(one) for one in (value if isinstance(value, list) else [value])]
        except _FAILURES:
            return [Part(written)]
        return [part for name, arguments in calls for part in (Part(name=name), Part(arguments=arguments))]

    def _call(self, value: Any) -> tuple[str, str]:
        """Name and arguments. Raises what _FAILURES has."""
        function = value["function"]
        name, arguments = function["name"], function.get("arguments", {})
        properties = self._schemas[name].get("properties", {})
        if isinstance(arguments, dict):
            arguments = as_json({key: cast(one, properties.get(key, {})) for key, one in arguments.items()})
        return name, arguments if isinstance(arguments, str) else as_json(arguments)


_FAILURES = (ValueError, LookupError, TypeError, AttributeError, TimeoutError)


def _said(text: str, is_thought: bool) -> Part:
    return Part(reasoning=text) if is_thought else Part(text)
