"""Chat templates put together at random, and conversations of any shape: a text or a TemplateError."""

import asyncio
from contextlib import suppress
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headwater.api.text.chat_template import ChatTemplate, TemplateError

PIECES = [
    "{% for m in messages %}",
    "{% endfor %}",
    "{{ m.content }}",
    "{{ m['role'] | upper }}",
    "{% if tools %}",
    "{% endif %}",
    "{{ tools | tojson(indent=2) }}",
    "{{ messages[0].content[1:] }}",
    "{{ 'a' * 99999 }}",
    "{{ 2 ** 9999 }}",
    "{{ range(10) | list }}",
    "{% set ns = namespace(x=1) %}",
    "{% set ns.x = ns.x + 1 %}",
    "{{ ns.x }}",
    "{{ loop.index }}",
    "{{ ''.__class__ }}",
    "{{ messages.append(1) }}",
    "{{ raise_exception('no') }}",
    "{{ strftime_now('%Y') }}",
    "{% macro f(a) %}",
    "{% endmacro %}",
    "{{ f(1) }}",
    "{% generation %}",
    "{% endgeneration %}",
    "{{ 1 // 0 }}",
    "{{ m.content.split('x')[-1] }}",
    "{{ '%s' % m }}",
    "{{ '{0.__class__}'.format(m) }}",
    "{{ bos_token }}",
    "{%",
    "}}",
    "\n",
    "{{ dict(a=1) | items | list }}",
    "{{ m.content | replace('a', 'b' * 999) }}",
    "{{ self }}",
    "{{ cycler }}",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "tool_calls", "name", "thinking"]), VALUES, max_size=4),
    min_size=1,
    max_size=4,
)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    pieces=st.lists(st.sampled_from(PIECES), max_size=10),
    messages=MESSAGES,
    tools=st.none() | st.lists(VALUES, max_size=2),
)
@example(["{{ 'a' * 99999 }}"], [{"role": "user", "content": "x"}], None)
def test_a_template_gives_a_text_or_its_error(pieces: list[str], messages: list[dict[str, Any]], tools: Any) -> None:
    try:
        template = ChatTemplate("".join(pieces), {"bos_token": "<s>"})
    except ValueError:
        return
    with suppress(TemplateError):
        assert isinstance(asyncio.run(template.render(messages, tools=tools)), str)
