"""JSON schemas as the grammar compiler takes them, by one function for every way in: grammar, response_format, tools.

What clients write is looser than what a grammar needs: types are left to keywords, objects are left open, strings have
no end, and some keywords can't be held token by token.
"""

import re
from collections.abc import Callable
from itertools import combinations
from typing import Any, NamedTuple

from ..http.errors import ValidationError

Schema = dict[str, Any]

# The keywords that hold subschemas: one, a list, or one for each name.
_ONE = frozenset({"items", "additionalProperties", "additionalItems", "contains", "propertyNames", "not", "if", "then",
                  "else", "unevaluatedItems", "unevaluatedProperties"})  # fmt: skip
_LISTS = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})
_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions"})

_IMPLIED = {
    "object": {"properties", "required", "additionalProperties", "patternProperties", "propertyNames", "minProperties",
               "maxProperties", "dependentRequired", "dependentSchemas"},
    "array": {"items", "prefixItems", "minItems", "maxItems", "uniqueItems", "contains"},
    "string": {"minLength", "maxLength", "pattern", "format"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"},
}  # fmt: skip
_TYPED = frozenset({"type", "enum", "const", "$ref", "$dynamicRef"})  # what says itself which values there may be

# What llguidance does not hold. Only annotations may go without a word.
_NOT_HELD = frozenset({"uniqueItems", "not", "if", "then", "else", "propertyNames", "dependentRequired",
                       "dependentSchemas", "dependencies", "contains", "minContains", "maxContains",
                       "unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$dynamicAnchor",
                       "$recursiveRef"})  # fmt: skip
_HARMLESS_IF_FALSE = frozenset({"uniqueItems", "unevaluatedProperties"})  # says nothing; what closing does anyway
# The formats it holds, with the longest text of each that has no end by itself: RFC 3339 with nanoseconds, RFC 5321,
# RFC 1035, and what browsers take. A small model else goes on to its limit and leaves broken JSON.
_FORMATS = {"date-time": 35, "time": 24, "date": None, "duration": 64, "email": 254, "hostname": 253, "ipv4": None,
            "ipv6": None, "uuid": None, "uri": 2048, "unknown": None}  # fmt: skip
_NOT_REGULAR = re.compile(r"\(\?<?[=!]|(?<!\\)(?:\\\\)*\\[1-9]")  # look-around, references to groups
_NUMBERS = frozenset({"int32", "int64", "float", "double"})  # OpenAPI's

# Where one of these is left, an object's properties are not all listed in one place.
_OPEN = frozenset({"if", "dependentSchemas", "unevaluatedProperties", "$dynamicRef"})
_OTHERS = frozenset({"additionalProperties", "patternProperties", "propertyNames"})  # what they may be is said
_ANNOTATIONS = frozenset({"title", "description", "$comment", "default", "examples", "deprecated", "readOnly",
                          "writeOnly", "$schema", "$id"})  # fmt: skip
_PARTS = frozenset({"allOf", "additionalProperties"})
_MERGED = frozenset({"type", "properties", "required", "allOf", "additionalProperties", "$ref"}) | _ANNOTATIONS


class PreparedSchema(NamedTuple):
    """A schema to be compiled, and the keywords of the client's that it does not hold."""

    schema: Schema
    loosened: tuple[str, ...]


def prepare_schema(schema: Schema, *, strict: bool = False) -> PreparedSchema:
    """The schema with the types that its keywords imply, its objects closed and its strings bounded.

    An object that lists its properties has no others unless something is said of them: TGI generates none, and a small
    model goes on to invent them.

    Args:
        strict: refuse what cannot be held; else it is left out.

    Raises ValidationError, RecursionError.
    """
    preparation = _Preparation(schema, strict)
    prepared = preparation.prepare(schema, "#")
    return PreparedSchema(prepared if preparation.open else _closed(prepared), tuple(sorted(preparation.loosened)))


class _Preparation:
    """One schema on its way.

    Attributes:
        loosened: keywords that were left out.
        open: somewhere the properties of an object are not all listed in one place, so nothing may be closed.
    """

    def __init__(self, root: Schema, strict: bool) -> None:
        """``root`` is what references point into."""
        self._root = root
        self._strict = strict
        self.loosened: set[str] = set()
        self.open = False

    def prepare(self, schema: Any, path: str) -> Any:
        if not isinstance(schema, dict):
            return schema
        found = self._merged(schema)
        self.open = self.open or _is_open(found)
        for keyword in sorted(_NOT_HELD & found.keys()):
            if not (found.pop(keyword) is False and keyword in _HARMLESS_IF_FALSE):
                self._loosen(keyword, path)
        for keyword in _not_held_here(found):
            del found[keyword]
            self._loosen(keyword, path)
        if isinstance(found.get("oneOf"), list):
            if not self._exclusive(found["oneOf"]):
                self._loosen("oneOf", path)
            parts = [{"anyOf": found.pop("oneOf")}, *([{"anyOf": found.pop("anyOf")}] if "anyOf" in found else [])]
            found |= parts[0] if len(parts) == 1 else {"allOf": [*found.get("allOf", ()), *parts]}
        implied = [name for name, keywords in _IMPLIED.items() if keywords & schema.keys()]
        if schema.get("format") in _NUMBERS:
            implied = ["number"]
        if implied and not _TYPED & schema.keys():
            found["type"] = implied[0] if len(implied) == 1 else implied
        _bound_format(found)
        return _map_children(found, lambda child, place: self.prepare(child, f"{path}/{place}"))

    def _loosen(self, keyword: str, path: str) -> None:
        if self._strict:
            raise ValidationError(f"grammar is not valid: `{keyword}` at {path} cannot be held with `strict`")
        self.loosened.add(keyword)

    def _exclusive(self, branches: list[Any]) -> bool:
        """Whether no value fits two of them, so that ``anyOf`` means the same: other types, or a discriminator."""
        known = [self._resolve(one["$ref"]) if isinstance(one, dict) and "$ref" in one else one for one in branches]
        return all(_disjoint(a, b) for a, b in combinations(known, 2))

    def _merged(self, schema: Schema) -> Schema:
        """An ``allOf`` of objects as one object: else none of its parts could be closed."""
        parts = self._parts(schema, ()) if isinstance(schema.get("allOf"), list) else None
        if parts is None:
            return dict(schema)
        merged = {keyword: value for keyword, value in schema.items() if keyword not in _PARTS}
        properties: dict[str, Any] = {}
        for part in parts:
            for name, value in part.get("properties", {}).items():
                both = name in properties and properties[name] != value
                properties[name] = {"allOf": [properties[name], value]} if both else value
        required = dict.fromkeys(name for part in parts for name in part.get("required", ()))
        if any("additionalProperties" in part for part in parts):
            merged["additionalProperties"] = True
        return merged | {"type": "object", "properties": properties, "required": list(required)}

    def _parts(self, schema: Any, seen: tuple[str, ...]) -> list[Schema] | None:
        """What an object is made of, references followed; None if it isn't made of plain objects alone."""
        if not isinstance(schema, dict):
            return None
        extra = schema.keys() - _MERGED - ({"$defs", "definitions", "x-guidance"} if not seen else set())
        if extra or schema.get("type", "object") != "object" or schema.get("additionalProperties", True) is not True:
            return None
        if not isinstance(schema.get("properties", {}), dict) or not isinstance(schema.get("required", []), list):
            return None
        parts: list[Schema] = []
        inner = list(schema.get("allOf", ()))
        if isinstance(reference := schema.get("$ref"), str):
            if reference in seen:
                return None
            inner.append(self._resolve(reference))
            seen = (*seen, reference)
        for one in inner:
            found = self._parts(one, seen or ("#",))
            if found is None:
                return None
            parts += found
        return [*parts, schema]  # a base class's properties come first

    def _resolve(self, reference: str) -> Any:
        """What a reference within the document points at, None if nothing."""
        place: Any = self._root
        if not reference.startswith("#/"):
            return self._root if reference == "#" else None
        for key in reference[2:].split("/"):
            key = key.replace("~1", "/").replace("~0", "~")
            place = place.get(key) if isinstance(place, dict) else None
        return place


def moved(schema: Any, place: str) -> Any:
    """A document as a part of another one: its references point below ``place``."""
    if isinstance(schema, list):
        return [moved(one, place) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {keyword: moved(value, place) for keyword, value in schema.items() if keyword != "x-guidance"}
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#"):
        found["$ref"] = place + reference[1:]
    return found


def _not_held_here(schema: Schema) -> list[str]:
    """Keywords that llguidance holds in other schemas only."""
    found = []
    if isinstance(pattern := schema.get("pattern"), str) and _NOT_REGULAR.search(pattern):
        found.append("pattern")
    listed = schema.get("properties")
    if isinstance(listed, dict) and not listed.keys() <= set(schema.get("required", ())):
        found += [keyword for keyword in ("minProperties", "maxProperties") if keyword in schema]
    return found


def _bound_format(schema: Schema) -> None:
    name = schema.get("format")
    if name is None:
        return
    if name not in _FORMATS:
        del schema["format"]  # an annotation, by the standard
    elif (most := _FORMATS[name]) is not None and "maxLength" not in schema:
        schema["maxLength"] = most


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    closed = _map_children(schema, lambda child, _: _closed(child))
    listed = schema.get("properties")
    if isinstance(listed, dict) and _OTHERS.isdisjoint(schema) and listed.keys() >= set(schema.get("required", ())):
        closed["additionalProperties"] = False
    return closed


def _is_open(schema: Schema) -> bool:
    parts = schema.get("allOf", ())
    return bool(_OPEN & schema.keys() and schema.get("unevaluatedProperties") is not False) or any(
        _may_be_object(part) for part in parts
    )


def _may_be_object(schema: Any) -> bool:
    return isinstance(schema, dict) and bool({"$ref", "anyOf", "oneOf", "allOf", *_IMPLIED["object"]} & schema.keys())


def _map_children(schema: Schema, function: Callable[[Any, str], Any]) -> Schema:
    """The schema with each of its direct subschemas replaced; ``function`` gets it and its place."""
    mapped: Schema = {}
    for keyword, value in schema.items():
        if keyword in _BY_NAME and isinstance(value, dict):
            value = {name: function(one, f"{keyword}/{name}") for name, one in value.items()}
        elif keyword in _LISTS and isinstance(value, list):
            value = [function(one, f"{keyword}/{index}") for index, one in enumerate(value)]
        elif keyword in _ONE:
            value = function(value, keyword)
        mapped[keyword] = value
    return mapped


def _disjoint(one: Any, other: Any) -> bool:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    if isinstance(one.get("type"), str) and isinstance(other.get("type"), str) and one["type"] != other["type"]:
        return {one["type"], other["type"]} != {"integer", "number"}
    shared = set(one.get("required", ())) & set(other.get("required", ()))
    for name in shared:
        a, b = (_values(each.get("properties", {}).get(name)) for each in (one, other))
        if a is not None and b is not None and not any(value in b for value in a):
            return True
    return False


def _values(schema: Any) -> list[Any] | None:
    """The values that a schema lists, None if it doesn't."""
    if not isinstance(schema, dict):
        return None
    return [schema["const"]] if "const" in schema else schema.get("enum")
