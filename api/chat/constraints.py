"""What an answer has to match: OpenAI's ``response_format``, and vLLM's fields for the same."""

from typing import Any

from ..text.grammar import RegexGrammar, RequestGrammar, choice_grammar, request_grammar, schema_grammar
from .errors import InvalidRequestError
from .request import SamplingFields

# vLLM's ways to constrain that have no counterpart: its EBNF is not the grammar compiler's language.
_REFUSED = ("guided_grammar", "guided_whitespace_pattern", "structural_tag")


def wanted_grammar(request: SamplingFields) -> RequestGrammar | None:
    """The one constraint of a request, None if there is none. Raises InvalidRequestError, ValidationError."""
    given: dict[str, Any] = {}
    for name in ("response_format", "guided_json", "guided_regex", "guided_choice"):
        if (value := getattr(request, name)) is not None:
            given[name] = value
    if request.structured_outputs is not None:
        for name, value in request.structured_outputs.items():
            if value is not None and value is not False and name not in _OPTIONS:
                given[f"structured_outputs.{name}"] = value
    for name in _REFUSED:
        if getattr(request, name, None) is not None:
            given[name] = None
    if len(given) > 1:
        raise InvalidRequestError(f"only one of {', '.join(given)} can hold for an answer", next(iter(given)))
    compact = bool((request.structured_outputs or {}).get("disable_any_whitespace"))
    for name, value in given.items():
        return _grammar(name, value, compact)
    return None


# Of vLLM's structured_outputs: how, not what. The first two ask for what is so anyway.
_OPTIONS = frozenset({"disable_fallback", "disable_additional_properties", "disable_any_whitespace"})


def _grammar(name: str, value: Any, compact: bool) -> RequestGrammar | None:
    match name.removeprefix("guided_").removeprefix("structured_outputs."), value:
        case "response_format", _:
            return request_grammar(value)
        case "json", dict() | str():
            return schema_grammar(value, compact=compact)
        case "json_object", True:
            return schema_grammar({"type": "object"}, compact=compact)
        case "regex", str():
            return request_grammar(RegexGrammar(value))
        case "choice", list() if all(isinstance(one, str) for one in value):
            return choice_grammar(value)
    raise InvalidRequestError(f"`{name}` is not supported, or not in this form", name.split(".")[0])
