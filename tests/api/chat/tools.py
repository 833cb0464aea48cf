"""The tools, and calls of them, of the tests of tools."""

from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from headwater.api.chat.part import Part

SCHEMA = {
    "type": "object",
    "properties": {"city": {"$ref": "#/$defs/city"}, "days": {"type": "integer"}},
    "required": ["city"],
    "$defs": {"city": {"type": "string", "enum": ["Zürich", "Oslo"]}},
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "weather_map"}},
]
NAMES = frozenset(["weather", "weather_map"])
ARGUMENTS = '{"city": "Zürich", "days": 3}'
CALL = '{"name": "weather", "arguments": ' + ARGUMENTS + "}"
MAP = '{"name": "weather_map", "arguments": {}}'
W, M = ("weather", ARGUMENTS), ("weather_map", "{}")
SCHEMAS: dict[str, dict[str, object]] = {"weather": SCHEMA, "weather_map": {"type": "object", "properties": {}}}
WRONG = [
    '{"name": "weather", "arguments": {"city": "Rome"}}',
    '{"name": "other", "arguments": {}}',
    '{"name": "weather"}',
]


def tagged(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


def accepts(grammar: str, text: str, tokenizer: Tokenizer) -> bool:
    """Whether the grammar takes the text, and allows it to end there."""
    guide = LLTokenizer(tokenizer.to_str(), eos_token=257)
    assert not LLMatcher.validate_grammar(grammar, guide)
    matcher = LLMatcher(guide, grammar)
    tokens = tokenizer.encode(text, add_special_tokens=False).ids
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


Found = tuple[str, str, list[tuple[str, str]]]  # thoughts, text, calls


def joined(parts: list[Part]) -> Found:
    calls: list[list[str]] = []
    for part in parts:
        if part.name is not None:
            calls.append([part.name, ""])
        elif part.arguments:
            calls[-1][1] += part.arguments
    thoughts, text = "".join(part.reasoning for part in parts), "".join(part.text for part in parts)
    return thoughts, text, [(name, arguments) for name, arguments in calls]
