"""The `headwater bench` commands.

What a command needs is imported when it runs: `headwater serve` reads this file too.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..engine.checkpoint.errors import ModelError
from ..engine.checkpoint.quantized import QuantizeName
from ..engine.config import ActivationDtype, KvCacheDtype
from ..engine.log import configure_logging
from .options import LoadOptions, ReportOptions, parse_numbers, with_options

app = typer.Typer(
    help="Measure a server, or the engine alone.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Url = Annotated[str, typer.Argument(metavar="[PROTOCOL+]URL", help="For example http://127.0.0.1:8080.")]
Quantize = Annotated[QuantizeName | None, typer.Option(help="As for `headwater serve`.")]
Dtype = Annotated[Literal["bfloat16", "float16", "float32"] | None, typer.Option(help="As for `headwater serve`.")]
Activation = Annotated[ActivationDtype | None, typer.Option(help="As for `headwater serve`.")]
KvCache = Annotated[KvCacheDtype, typer.Option(help="As for `headwater serve`.")]
USAGE = 2  # exit code of what can't be meant


@contextmanager
def user_errors() -> Iterator[None]:
    """What the user can mend is a line, not a traceback."""
    try:
        yield
    except (ValueError, OSError, ModelError) as error:
        print(f"headwater bench: error: {error}", file=sys.stderr)
        raise typer.Exit(USAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


@app.command("serve")
@with_options
def serve_command(
    url: Url,
    load: LoadOptions,
    report: ReportOptions,
    concurrency: Annotated[
        str | None, typer.Option("--concurrency", "-c", help="Clients at a time, one run each; 1,8,32 if not given.")
    ] = None,
    rate: Annotated[
        str | None, typer.Option("--rate", "-r", help="Requests per second, one run each: 0.5,1,2,inf.")
    ] = None,
    arrivals: Annotated[Literal["poisson", "constant"], typer.Option(help="When requests by rate leave.")] = "poisson",
) -> None:
    """Put load on a server: so many clients at a time, or so many requests per second."""
    from .load.run import Load
    from .load.serve import serve

    if concurrency and rate:
        raise typer.BadParameter("give --concurrency or --rate, not both")
    with user_errors():
        loads = [Load(rate=each, arrivals=arrivals) for each in parse_numbers(rate, float)] if rate else []
        loads = loads or [Load(int(each)) for each in parse_numbers(concurrency or "1,8,32", int)]
        raise typer.Exit(serve(url, loads, load, report))


@app.command("compare")
@with_options
def compare_command(
    urls: Annotated[list[str], typer.Argument(metavar="[PROTOCOL+]URL...", help="Two servers or more.")],
    load: LoadOptions,
    report: ReportOptions,
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, help="Clients at a time.")] = 8,
    rate: Annotated[float | None, typer.Option("--rate", "-r", min=0.001, help="Or requests per second.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that every server gets its turn.")] = 5,
) -> None:
    """Ask several servers the same in turn, and give ratios round by round."""
    from .load.compare import compare
    from .load.run import Load

    with user_errors():
        if len(urls) < 2:
            raise ValueError("two servers or more are compared")
        raise typer.Exit(compare(urls, Load(rate=rate) if rate else Load(concurrency), rounds, load, report))


@app.command("sweep")
@with_options
def sweep_command(
    url: Url,
    load: LoadOptions,
    report: ReportOptions,
    over: Annotated[Literal["concurrency", "rate"], typer.Option(help="What grows.")] = "concurrency",
    most: Annotated[int, typer.Option(min=1, help="Concurrency to stop at.")] = 256,
    steps: Annotated[int, typer.Option(min=1, help="Rates between one request at a time and all at once.")] = 6,
) -> None:
    """Raise the load until the server gives no more."""
    from .load.sweep import sweep

    with user_errors():
        raise typer.Exit(sweep(url, over, most, steps, load, report))


@app.command("offline")
@with_options
def offline_command(
    report: ReportOptions,
    model: Annotated[str | None, typer.Argument(help="As for serve; the default model if not given.")] = None,
    batches: Annotated[str, typer.Option(help="Sequences in a step.")] = "1,2,4,8,16,32,64",
    contexts: Annotated[str, typer.Option(help="Tokens of each sequence.")] = "128,1024,4096,8192",
    steps: Annotated[int, typer.Option(min=1, help="Measured for each batch and context.")] = 16,
    prefill_limit: Annotated[
        float, typer.Option(min=0, help="Seconds that the prompts of a context may take; fewer sequences if need be.")
    ] = 60.0,
    device: Annotated[Literal["cpu", "cuda"] | None, typer.Option(help="A GPU if there is one.")] = None,
    dtype: Dtype = None,
    activation_dtype: Activation = None,
    kv_cache_dtype: KvCache = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the cpu backend.")] = None,
    quantize: Quantize = None,
    lora_adapters: Annotated[str, typer.Option(help="As for serve; the sequences have them in turn.")] = "",
) -> None:
    """Step the engine in this process, without HTTP: times, tokens per second, and share of what memory allows."""
    from .offline.offline import offline

    configure_logging(json_output=False)
    with user_errors():
        offline(
            model,
            [int(each) for each in parse_numbers(batches, int)],
            [int(each) for each in parse_numbers(contexts, int)],
            steps,
            prefill_limit,
            device,
            dtype,
            activation_dtype,
            kv_cache_dtype,
            threads,
            quantize,
            lora_adapters,
            report,
        )


@app.command("accuracy")
@with_options
def accuracy_command(
    report: ReportOptions,
    model: Annotated[str | None, typer.Argument(help="As for serve; the default model if not given.")] = None,
    text: Annotated[Path | None, typer.Option(metavar="FILE", help="To read; UTF-8.")] = None,
    tokens: Annotated[int, typer.Option(min=1, help="Of the text, at most.")] = 16384,
    context: Annotated[int, typer.Option(min=4, help="Tokens of a window; its second half is evaluated.")] = 1024,
    dtype: Dtype = None,
    activation_dtype: Activation = None,
    kv_cache_dtype: KvCache = "auto",
    quantize: Quantize = None,
    baseline_model: Annotated[str | None, typer.Option(help="The same if not given.")] = None,
    baseline_dtype: Dtype = None,
    baseline_activation_dtype: Activation = None,
    baseline_kv_cache_dtype: KvCache = "auto",
    baseline_quantize: Quantize = None,
    baseline_logits: Annotated[
        Path | None, typer.Option(metavar="FILE", help="From `llama-perplexity --kl-divergence-base`, text and all.")
    ] = None,
    device: Annotated[Literal["cpu", "cuda"] | None, typer.Option(help="A GPU if there is one.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of the cpu backend.")] = None,
) -> None:
    """Compare two settings' next-token distributions over a text: KL divergence and perplexities."""
    from .accuracy.accuracy import accuracy
    from .accuracy.engine_logprobs import Settings

    configure_logging(json_output=False)
    with user_errors():
        accuracy(
            Settings(
                model=model, dtype=dtype, activation_dtype=activation_dtype, kv_cache_dtype=kv_cache_dtype,
                quantize=quantize,
            ),
            Settings(
                model=baseline_model or model, dtype=baseline_dtype, activation_dtype=baseline_activation_dtype,
                kv_cache_dtype=baseline_kv_cache_dtype, quantize=baseline_quantize,
            ),
            baseline_logits, text, tokens, context, device, threads, report,
        )  # fmt: skip


@app.command("null-server")
def null_server_command(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0 is a free one.")] = 0,
    pace_ms: Annotated[float, typer.Option(min=0, help="Between events of a stream; 0: as fast as they go.")] = 20.0,
    first_ms: Annotated[float, typer.Option(min=0, help="Before the first event of a stream.")] = 0.0,
    check: Annotated[bool, typer.Option("--check", help="Measure the client against it instead, and end.")] = False,
) -> None:
    """Serve streams that nothing is computed for, to measure clients."""
    import uvloop

    from .load.client_check import check_client
    from .load.null_server import serve_null

    if check:
        found = uvloop.run(check_client())
        print(found)
        raise typer.Exit(0 if found.passes else 1)
    with user_errors():
        serve_null(host, port, pace_ms, first_ms, lambda at: print(f"null server at http://{host}:{at}", flush=True))


@app.command("profile")
def profile_command(
    model: Annotated[str | None, typer.Argument(help="As for `headwater serve`.")] = None,
    batches: Annotated[str, typer.Option(help="Sequences in a step, one table each.")] = "1,8,32",
    context: Annotated[int, typer.Option(min=1, help="Tokens of each prompt.")] = 128,
    steps: Annotated[int, typer.Option(min=1, help="That are measured.")] = 50,
    activation_dtype: Activation = None,
    quantize: Quantize = None,
) -> None:
    """Where the time of a decoding step goes: the host's share, and each kernel's (cpu backend)."""
    from .offline.step_profile import profile

    configure_logging(json_output=False)
    with user_errors():
        profile(model, [int(each) for each in parse_numbers(batches, int)], context, steps, activation_dtype, quantize)
