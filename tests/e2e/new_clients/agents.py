"""openai-agents, langchain-huggingface and outlines. Argument: address. Writes what they got, as JSON."""

import asyncio
import json
import os
import sys
from typing import Any, Literal

import openai
import outlines
from agents import Agent, Model, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from huggingface_hub import InferenceClient
from langchain_huggingface import ChatHuggingFace, HuggingFaceEndpoint
from pydantic import BaseModel

QUESTION = "It is 21 degrees in Paris. Report the weather."


class Report(BaseModel):
    city: str
    degrees: int


async def with_agents(model: str | Model) -> dict[str, Any]:
    """Tools beside an output type; when it called once, the tool is gone: a small model would call for ever."""
    set_tracing_disabled(True)
    called: list[str] = []

    @function_tool(is_enabled=lambda *_: not called)
    def weather(city: str) -> str:
        """The weather of a city."""
        called.append(city)
        return "sunny, 21 degrees"

    agent = Agent(
        name="reporter",
        instructions="You report the weather.",
        tools=[weather],
        output_type=Report,
        model=model,
        model_settings=ModelSettings(temperature=0, max_tokens=200, parallel_tool_calls=False),
    )
    whole = await Runner.run(agent, "What is the weather in Paris?", max_turns=3)
    called_whole = called.copy()
    called.clear()
    streamed = Runner.run_streamed(agent, "What is the weather in Paris?", max_turns=3)
    async for _ in streamed.stream_events():
        pass
    return {
        "whole": {"report": whole.final_output.model_dump(), "called": called_whole},
        "streamed": {"report": streamed.final_output.model_dump(), "called": called},
    }


def with_langchain(url: str) -> dict[str, Any]:
    endpoint = HuggingFaceEndpoint(endpoint_url=url, max_new_tokens=100, seed=7, task="text-generation")
    chat = ChatHuggingFace(llm=endpoint)
    structured = chat.with_structured_output(Report.model_json_schema(), method="json_schema")
    return {
        "text": endpoint.invoke("Once upon a time", max_new_tokens=12),
        "streamed_text": "".join(endpoint.stream("Once upon a time", max_new_tokens=12)),
        "report": structured.invoke(QUESTION),
    }


def with_outlines(url: str) -> dict[str, Any]:
    vllm = outlines.from_vllm(openai.OpenAI(base_url=f"{url}/v1", api_key="-"), "default")
    tgi = outlines.from_tgi(InferenceClient(url))
    greedy = {"max_tokens": 100, "temperature": 0}
    return {
        "vllm_report": json.loads(vllm(QUESTION, Report, **greedy)),
        "vllm_streamed": json.loads("".join(vllm.stream(QUESTION, Report, **greedy))),
        "vllm_choice": vllm("Is snow white?", Literal["yes", "no"], **greedy),
        "vllm_regex": vllm("When was it?", outlines.types.Regex(r"[0-9]{4}-[0-9]{2}"), **greedy),
        "tgi_report": json.loads(tgi(QUESTION, Report, max_new_tokens=100)),
        "tgi_choice": tgi("Is snow white?", Literal["yes", "no"], max_new_tokens=20),
    }


def main() -> None:
    url = sys.argv[1]
    os.environ.update({"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "-"})  # of the default constructors
    got = {
        "agents": asyncio.run(with_agents("default")),
        "agents_over_chats": asyncio.run(with_agents(OpenAIChatCompletionsModel("default", openai.AsyncOpenAI()))),
        "langchain": with_langchain(url),
        "outlines": with_outlines(url),
    }
    print(json.dumps(got))


if __name__ == "__main__":
    main()
