"""Closed-loop load on /generate_stream: so many clients, each sends its next request when the last one has ended.

    python -m headwater.bench.load http://127.0.0.1:8080 --clients 1,8,32

Prints, per number of clients: output tokens per second from the first request to the last token, time to first token
and gap between events, median and 90th percentile. Times are taken where the socket is read, in this process.
"""

import argparse
import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field

import httpx2

# Words that the default model continues for hundreds of tokens; each client starts elsewhere, so no two prompts agree.
_WORDS = "the river ran down from the hills past the old mill and the people of the valley told a story about it "


@dataclass
class Answer:
    """One stream: when its request left and when each event came, seconds."""

    start: float
    events: list[float] = field(default_factory=list)
    input_tokens: int = 0
    output_tokens: int = 0


def prompt(client: int, words: int) -> str:
    """A text of about ``words`` words (a token or a little more each for the default model)."""
    source = _WORDS.split()
    return f"Story number {client}: " + " ".join(source[(client + i) % len(source)] for i in range(words))


async def stream(http: httpx2.AsyncClient, inputs: str, new_tokens: int) -> Answer:
    """Send one request and read its stream to the end. Raises httpx2.HTTPError."""
    body = {"inputs": inputs, "parameters": {"max_new_tokens": new_tokens, "details": True}}
    answer = Answer(time.perf_counter())
    async with http.stream("POST", "/generate_stream", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data:"):
                answer.events.append(time.perf_counter())
                event = json.loads(line[5:])
                if event.get("details"):
                    answer.input_tokens = event["details"]["input_length"]
                    answer.output_tokens = event["details"]["generated_tokens"]
    return answer


async def run(url: str, clients: int, requests: int, words: int, new_tokens: int) -> list[Answer]:
    """``requests`` streams from each of ``clients`` clients."""
    async with httpx2.AsyncClient(base_url=url, timeout=600) as http:

        async def client(number: int) -> list[Answer]:
            return [await stream(http, prompt(number + clients * i, words), new_tokens) for i in range(requests)]

        return [answer for answers in await asyncio.gather(*map(client, range(clients))) for answer in answers]


def percentiles_ms(seconds: list[float]) -> str:
    """Median and 90th percentile, in words."""
    if len(seconds) < 2:
        return f"{seconds[0] * 1e3:.0f} ms" if seconds else "-"
    return f"{statistics.median(seconds) * 1e3:.0f} ms (p90 {statistics.quantiles(seconds, n=10)[-1] * 1e3:.0f})"


def report(clients: int, answers: list[Answer]) -> str:
    """One line of figures."""
    tokens = sum(answer.output_tokens for answer in answers)
    seconds = max(answer.events[-1] for answer in answers) - min(answer.start for answer in answers)
    first = [answer.events[0] - answer.start for answer in answers]
    gaps = [b - a for answer in answers for a, b in zip(answer.events, answer.events[1:], strict=False)]
    inputs = statistics.mean(answer.input_tokens for answer in answers)
    return (
        f"{clients:3d} clients: {tokens / seconds:6.1f} tokens/s, first token {percentiles_ms(first)}, "
        f"gap {percentiles_ms(gaps)}, {len(answers)} requests of {inputs:.0f} + {tokens / len(answers):.0f} tokens"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--clients", default="1,8,32", help="numbers of clients, one run each")
    parser.add_argument("--requests", type=int, default=1, help="per client")
    parser.add_argument("--words", type=int, default=120, help="of a prompt")
    parser.add_argument("--new-tokens", type=int, default=128)
    args = parser.parse_args()
    asyncio.run(run(args.url, 1, 1, 16, 8))  # connections and caches, once
    for clients in (int(number) for number in args.clients.split(",")):
        answers = asyncio.run(run(args.url, clients, args.requests, args.words, args.new_tokens))
        print(report(clients, answers), flush=True)


if __name__ == "__main__":
    main()
