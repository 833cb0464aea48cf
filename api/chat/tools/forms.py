"""Which form a model's calls have: what its chat template shows, unless somebody says otherwise."""

from ..harmony import HARMONY_CALLS
from .formats import ToolFormat
from .json_calls import COMMAND, COMMAND_R, GRANITE, HERMES, JSON, MISTRAL, PHI4
from .json_parser import OPENINGS as JSON_OPENINGS
from .named_calls import DEEPSEEK_V3, DEEPSEEK_V31, GLM4, MISTRAL_ARGS
from .pythonic_calls import PYTHONIC
from .tagged_calls import GLM, QWEN_CODER
from .tool_code import TOOL_CODE

# What begins a call; none of it is ever a thought.
OPENINGS = frozenset({*JSON_OPENINGS, DEEPSEEK_V3.opening})

# The first whose marks are all in a template is its; what shows nothing is told to write plain JSON.
FORMS: tuple[ToolFormat, ...] = (
    HARMONY_CALLS, QWEN_CODER, GLM, MISTRAL_ARGS, DEEPSEEK_V3, DEEPSEEK_V31, COMMAND, HERMES, MISTRAL, GRANITE, PHI4,
    GLM4, COMMAND_R, TOOL_CODE, PYTHONIC, JSON,
)  # fmt: skip


def tool_format(template: str, parser: str | None = None) -> ToolFormat:
    """The form that a template asks for.

    Args:
        parser: a name that overrides it; some models of a family write one form, some another.
    """
    forms = [form for form in FORMS if parser is None or parser in form.names]
    return next((form for form in forms if all(mark in template for mark in form.shows)), forms[-1])
