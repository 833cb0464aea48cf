"""The value of a region of a message, by the means that a ``response_template`` names; see response_template.py."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import regex

TIMEOUT_S = 1.0  # of a pattern, which a checkpoint brings
_PLACEHOLDER = regex.compile(r"\{(\w+(?:\.\w+)*)\}")
_BARE_KEY = regex.compile(r"(?<=[{,])(\w+):")


def _stripped(text: str, args: Mapping[str, Any]) -> str:
    return text.strip() if args.get("strip", True) else text


def _json(text: str, args: Mapping[str, Any]) -> Any:
    """JSON, or what a model writes like it: keys without quotes, other marks around strings."""
    strings: list[str] = []

    def hold(match: regex.Match[str]) -> str:
        strings.append(match[1])
        return f"\x01{len(strings) - 1}\x02"

    written = text
    for opening, closing in args.get("string_delims", ()):
        written = regex.sub(f"{regex.escape(opening)}(.*?){regex.escape(closing)}", hold, written, flags=regex.DOTALL)
    if args.get("unquoted_keys"):
        written = _BARE_KEY.sub(r'"\1":', written)
    if strings:
        written = regex.sub("\x01([0-9]+)\x02", lambda match: json.dumps(strings[int(match[1])]), written)
    try:
        return json.loads(written)
    except (ValueError, RecursionError):
        if args.get("allow_non_json"):
            return _stripped(text, args)
        raise ValueError("not JSON") from None


def _tags(text: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """An entry for each match of ``tag_pattern``, by its group ``key``."""
    found: dict[str, Any] = {}
    for match in regex.finditer(args["tag_pattern"], text, flags=regex.DOTALL, timeout=TIMEOUT_S):
        key, value = match["key"], _inner(match["value"] or "", args)
        if key not in found or not args.get("merge_duplicates"):
            found[key] = value
        else:
            before = found[key] if isinstance(found[key], list) else [found[key]]
            found[key] = [*before, value]
    return found


def _lines(text: str, args: Mapping[str, Any]) -> dict[str, Any]:
    """An entry a line."""
    found = {}
    for line in text.split(args.get("line_sep", "\n")):
        key, separator, value = _stripped(line, args).partition(args.get("kv_sep", ":"))
        if separator:
            found[_stripped(key, args)] = _inner(_stripped(value, args), args)
    return found


def _inner(text: str, args: Mapping[str, Any]) -> Any:
    parser = args.get("value_parser")
    return text if parser is None else PARSERS[parser.get("name", "text")](text, parser.get("args", {}))


PARSERS: dict[str, Callable[[str, Mapping[str, Any]], Any]] = {
    "text": _stripped,
    "int": lambda text, args: int(_stripped(text, args)),
    "float": lambda text, args: float(_stripped(text, args)),
    "bool": lambda text, args: _stripped(text, args).lower() in ("true", "1"),
    "json": _json,
    "xml-inline": _tags,
    "kv-lines": _lines,
}


def check_transform(where: str, transform: Any) -> None:
    """Raises ValueError: a placeholder stands alone in its string."""
    if isinstance(transform, dict | list):
        for one in transform.values() if isinstance(transform, dict) else transform:
            check_transform(where, one)
    elif isinstance(transform, str) and _PLACEHOLDER.search(transform) and not _PLACEHOLDER.fullmatch(transform):
        raise ValueError(f"{where}: {transform!r} has text beside its placeholder")


def transformed(transform: Any, names: Mapping[str, Any]) -> Any:
    """The same with the values that its placeholders name. Raises LookupError, TypeError."""
    if isinstance(transform, dict):
        return {key: transformed(one, names) for key, one in transform.items()}
    if isinstance(transform, list):
        return [transformed(one, names) for one in transform]
    if not isinstance(transform, str) or (match := _PLACEHOLDER.fullmatch(transform)) is None:
        return transform
    value: Any = names
    for key in match[1].split("."):
        value = value[key]
    return value


def cast(value: Any, schema: Mapping[str, Any]) -> Any:
    """A text as what a schema wants it to be, if it can be read as that."""
    if not isinstance(value, str):
        return value
    for kind in _kinds(schema):
        try:
            match kind:
                case "string":
                    return value
                case "integer":
                    number = float(value)
                    if number.is_integer():
                        return int(value) if value.strip().lstrip("+-").isdigit() else int(number)
                case "number":
                    return json.loads(value.strip(), parse_constant=_refuse) + 0
                case "boolean" if value.strip().lower() in ("true", "false", "1", "0"):
                    return value.strip().lower() in ("true", "1")
                case "null" if value.strip() in ("null", "None"):
                    return None
                case "object" | "array":
                    found = json.loads(value)
                    if isinstance(found, dict if kind == "object" else list):
                        return found
        except (ValueError, TypeError, OverflowError, RecursionError):
            continue
    return value


def _refuse(name: str) -> float:
    raise ValueError(name)


def _kinds(schema: Any) -> list[str]:
    if not isinstance(schema, Mapping):
        return []
    given = schema.get("type")
    kinds = [given] if isinstance(given, str) else list(given or ())
    for union in ("anyOf", "oneOf"):
        for choice in schema.get(union) or ():
            kinds += _kinds(choice)
    return [*kinds, "null"] if schema.get("nullable") else kinds
