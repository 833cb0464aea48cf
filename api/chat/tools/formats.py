"""How a model writes a call: the forms of the common families, recognised by what the chat template says.

Each is an object of one of these kinds: JSON in marks (json_calls.py), JSON behind a name (named_calls.py), tags
(tagged_calls.py), Python (pythonic_calls.py, tool_code.py).
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from ..part import PartParser

MAX_PARALLEL_CALLS = 16  # a small model that is free to go on calls until its tokens are used up

Schemas = Mapping[str, dict[str, Any]]  # of the arguments, by function name
TokenId = Callable[[str], int | None]  # of a text that is one token, None if it is not


class ToolFormat(Protocol):
    """One way to write calls."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parser for it, as vLLM has them."""
        ...

    @property
    def shows(self) -> tuple[str, ...]:
        """What a template has in it that asks for this form."""
        ...

    @property
    def opening(self) -> str:
        """What shows that text is over and a call begins; empty: a call is the whole answer."""
        ...

    @property
    def bare_object(self) -> str | None:
        """Key of the arguments, where a call is a JSON object with nothing around it; else None."""
        ...

    def parser(self, schemas: Schemas, *, only_calls: bool, parallel: bool) -> PartParser:
        """What finds calls in one answer.

        Args:
            schemas: of the functions that may be called.
            only_calls: the answer begins with a call.
            parallel: there may be more than one; if not, those after the first are left out.
        """
        ...

    def rules(self, schemas: Schemas, token_id: TokenId, parallel: bool) -> str:
        """Rules ``calls``, of an answer that is nothing else, and ``call``, in llguidance's dialect of Lark.

        Each schema stays a document of its own, so that ``$ref`` works in it.
        """
        ...
