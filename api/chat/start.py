"""From the request of a conversation to sequences that run, and the reader of what they give: every dialect's way."""

from collections.abc import Callable

from ...engine.messages import Grammar
from ..generation.request import GenerationRequest
from ..generation.service import Service
from ..text.grammar import LARK_HEAD, RequestGrammar, grammar_rule
from ..text.response_template import ResponseTemplate
from ..text.tokenizer import Tokenizer
from .answer import AnswerReader
from .constraints import wanted_grammar
from .conversation import Prompt, prompt_of
from .errors import InvalidRequestError
from .harmony import HarmonyParser, harmony_grammar, in_final_channel
from .part import PartParser, TextParser
from .reasoning import HARMONY, ReasoningParser, Thinking, thinking_of
from .request import ChatRequest
from .response_parser import ResponseParser
from .sampling import check
from .tools.choice import Tools, tools_of
from .tools.formats import ToolFormat
from .tools.forms import tool_format


async def start_chat(service: Service, generation: GenerationRequest, request: ChatRequest) -> AnswerReader:
    """Check, render, submit. Returns the reader of the answers. Raises ApiError."""
    generation.schedule(request)
    tools = tools_of(request)
    wanted = wanted_grammar(request)
    if request.top_logprobs and request.logprobs is None:
        raise InvalidRequestError("`top_logprobs` needs `logprobs: true`", "top_logprobs")
    prompt = await prompt_of(request, tools, service.chat_templates)
    generation.stats.input_characters += len(prompt.text)
    limits, tokenizer = service.limits(), service.tokenizer
    form = tool_format(prompt.template, service.config.tool_call_parser)
    thinking = thinking_of(prompt, service.config.reasoning_parser)
    if wanted is not None and thinking is not None and thinking.form is HARMONY:
        wanted = wanted._replace(grammar=in_final_channel(wanted.grammar, tokenizer.token_id))
    named = service.config.tool_call_parser or service.config.reasoning_parser
    template = None if named else service.chat_templates.response
    if tools is not None:
        wanted = tools.grammar(form, tokenizer, wanted)
        if wanted is not None:
            template = None  # what binds calls has the form that is known of
    if thinking is not None and wanted is not None:
        wanted = _behind_thoughts(wanted, thinking, tokenizer)
    grammar = generation.grammar(wanted)
    checked = check(request, limits, tokenizer.eos_ids, grammar, request.top_logprobs or 0)
    prompt_ids = await tokenizer.encode(prompt.text, add_special_tokens=False)
    sampling = checked.for_prompt(len(prompt_ids), limits)
    generation.start(prompt_ids, sampling, checked.stops, count=checked.choices, keep_stop=False)
    if template is not None:
        return AnswerReader(_by_template(template, prompt, tools), form, reasons=template.has_thoughts)
    return AnswerReader(_by_form(form, thinking, tools), form, reasons=thinking is not None)


def _by_template(template: ResponseTemplate, prompt: Prompt, tools: Tools | None) -> Callable[[], PartParser]:
    schemas = None if tools is None else tools.schemas
    return lambda: ResponseParser(template, prompt.text, schemas, parallel=tools is None or tools.parallel)


def _by_form(form: ToolFormat, thinking: Thinking | None, tools: Tools | None) -> Callable[[], PartParser] | None:
    if tools is None and thinking is None:
        return None
    parallel = tools is None or tools.parallel
    if thinking is not None and thinking.form is HARMONY:
        names = frozenset(() if tools is None else tools.names)
        return lambda: HarmonyParser(names, parallel=parallel)

    def parser() -> PartParser:
        said: PartParser = TextParser()
        if tools is not None:
            said = form.parser(tools.schemas, only_calls=tools.must_call, parallel=parallel)
        return said if thinking is None else ReasoningParser(thinking, said)

    return parser


def _behind_thoughts(wanted: RequestGrammar, thinking: Thinking, tokenizer: Tokenizer) -> RequestGrammar:
    """The grammar of an answer that thinks as it likes, then matches ``wanted``."""
    prefix = harmony_grammar if thinking.form is HARMONY else thinking.grammar
    lark = LARK_HEAD + prefix(tokenizer.token_id, "bound") + grammar_rule(wanted.grammar, "bound")
    return RequestGrammar(Grammar("lark", lark), wanted.loosened)
