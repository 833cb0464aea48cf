"""Calls that are JSON objects, alone, in marks, or in a list.

Hermes, Qwen        <tool_call>\n{"name": "f", "arguments": {...}}\n</tool_call>
Mistral to v7       [TOOL_CALLS] [{"name": "f", "arguments": {...}}]
Llama 3, others     {"name": "f", "parameters": {...}}, or <|python_tag|> in front of it
Granite             <|tool_call|>[{"name": "f", "arguments": {...}}]
Phi-4-mini          <|tool_call|>[{"name": "f", "arguments": {...}}]<|/tool_call|>
Command R, R+       Action: ```json\n[{"tool_name": "f", "parameters": {...}}]\n```
Command R7B, A      <|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {...}}]<|END_ACTION|>
"""

from msgspec import Struct

from ..part import PartParser
from .formats import Schemas, TokenId
from .grammar import as_json, repeated, written
from .json_parser import JsonCallParser


class JsonFormat(Struct, frozen=True):
    """One of them; see ToolFormat."""

    names: tuple[str, ...]
    shows: tuple[str, ...]
    arguments: str  # key of the arguments
    opening: str = ""
    closing: str = ""
    is_list: bool = False  # one opening, then a JSON list of calls
    head: str = '{"name": '  # what stands in front of a function's name

    @property
    def bare_object(self) -> str | None:
        """See ToolFormat."""
        return None if self.opening else self.arguments

    def parser(self, schemas: Schemas, *, only_calls: bool, parallel: bool) -> PartParser:
        """See ToolFormat."""
        names = frozenset(schemas)
        return JsonCallParser(self.opening, self.closing.strip(), names, only_calls=only_calls, parallel=parallel)

    def rules(self, schemas: Schemas, token_id: TokenId, parallel: bool) -> str:
        """See ToolFormat."""
        bodies = []
        rules = []
        for index, (name, schema) in enumerate(schemas.items()):
            head = as_json(f'{self.head}{as_json(name)}, "{self.arguments}": ')
            bodies.append(f"call_{index}")
            rules.append(f'call_{index}: {head} arguments_{index} "}}"\narguments_{index}: %json {as_json(schema)}\n')
        body = " | ".join(bodies)
        opening, closing = (written(mark, token_id) for mark in (self.opening, self.closing))
        calls = repeated("call", as_json(", " if self.is_list else "\n"), parallel)
        if self.is_list:
            calls = f'{opening} " "? "[" {calls} "]" {closing}'
        elif self.opening:
            body = f'{opening} "\\n" ({body}) "\\n" {closing}'
        return f"calls: {calls}\ncall: {body}\n{''.join(rules)}"


HERMES = JsonFormat(("hermes",), ("<tool_call>",), "arguments", "<tool_call>", "</tool_call>")
MISTRAL = JsonFormat(("mistral",), ("[TOOL_CALLS]",), "arguments", "[TOOL_CALLS]", is_list=True)
JSON = JsonFormat(("llama3_json", "llama4_json"), ("<|python_tag|>",), "parameters")
GRANITE = JsonFormat(("granite",), ("<|tool_call|>",), "arguments", "<|tool_call|>", is_list=True)
PHI4 = JsonFormat(("phi4_mini_json",), ("<|tool|>",), "arguments", "<|tool_call|>", "<|/tool_call|>", is_list=True)
COMMAND = JsonFormat(
    ("cohere_command3",), ("<|START_ACTION|>",), "parameters", "<|START_ACTION|>", "<|END_ACTION|>", is_list=True,
    head='{"tool_call_id": "0", "tool_name": ',
)  # fmt: skip
COMMAND_R = JsonFormat(
    ("command_r",), ("Action:", "tool_name"), "parameters", "Action: ```json\n", "\n```", is_list=True,
    head='{"tool_name": ',
)  # fmt: skip
