"""The real runner on a CUDA device that is not there: ``python -m headwater.bench.device.dry_run [SHAPE ...]``.

For the shapes of real models, on each architecture: runs decode steps and mixed steps, and says what each would have
the device do (launches per layer, bytes against the least possible, copies), whether the host would wait before the
step is launched, whether any launch is specialised anew when batch or lengths change, and whether every launch
compiles. Each step is launched while another is under way, whose tokens nobody has read. Ends with status 1 if a launch
does not compile, if the host waits, or if a step would have to compile something that another one did not.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ....engine.chunk import Chunk
from ....engine.messages import SamplingParams, Submit
from ....engine.models.kv_cache import KVCache
from ....engine.runner import Launched, Runner
from ....engine.sequence import Sequence, SequenceKey
from ....kernels import load_backend
from ..audit.gpus import AUDITED_GPUS
from ..audit.launches import Launch
from .fake_device import DEVICE, recorded_device
from .memory import divide
from .models import SHAPES, load_shape, make_runner
from .traffic import Traffic, traffic_of
from .work import LAUNCHES, WAITS, Work

_SAMPLING = (
    SamplingParams(64, greedy=True),
    SamplingParams(64, greedy=False, temperature=0.7, top_p=0.9, seed=1 << 63),
    SamplingParams(64, greedy=False, top_k=40, repetition_penalty=1.1),
)
_RARE = (SamplingParams(64, greedy=False, min_p=0.1), SamplingParams(64, greedy=True, top_n=5), *_SAMPLING)


@dataclass(frozen=True)
class StepShape:
    """The sequences of a step: decoding ones by their lengths, and chunks as (first token, tokens)."""

    name: str
    lengths: tuple[int, ...]
    chunks: tuple[tuple[int, int], ...] = ()
    sampling: tuple[SamplingParams, ...] = _SAMPLING  # of its sequences in turn

    def sequences(self, cache: KVCache) -> list[Sequence]:
        """Those of the step, before it. Each has pages of its own, as far as there are enough."""
        made: list[Sequence] = []
        page = 0
        for start, count in [(length - 1, 1) for length in self.lengths] + list(self.chunks):
            total, index = start + count, len(made)
            first, page = page, page - (-total // cache.page_size)
            sampling = self.sampling[index % len(self.sampling)]
            pages = [1 + each % (cache.num_pages - 1) for each in range(first, page)]
            key = SequenceKey(0, index)
            made.append(Sequence(key, [0] * total, total, sampling, 0.0, computed=start, pages=pages, slot=index))
        return made


def begin(runner: Runner, step: StepShape) -> tuple[Launched | None, list[Chunk]]:
    """Launch the step before a step: it draws the tokens that the decoding sequences continue with.

    Returns it, and the chunks of the step that is to follow.
    """
    sequences = step.sequences(runner.cache)
    before = []
    for sequence in sequences:
        runner.start(sequence)
        if sequence.pending == 1 and sequence.computed > 0:
            sequence.tokens.pop()
            before.append(Chunk(sequence, sequence.computed - 1, 1))
    launched = runner.launch(before) if before else None
    for chunk in before:
        chunk.sequence.in_flight = 1
    return launched, [Chunk(sequence, sequence.computed, sequence.pending) for sequence in sequences]


STEPS = (
    StepShape("chunk of 512 and decode 8", (1000,) * 8, ((0, 512),)),
    StepShape("decode 1, rare parameters", (1,), sampling=_RARE),
    StepShape("decode 1", (1,)),
    StepShape("decode 8", tuple(range(1000, 1008))),
    StepShape("decode 7, rare parameters", (1000,) * 7, sampling=_RARE),
    StepShape("decode 64", (4096,) * 64),
    StepShape("decode 77, other lengths", (1, 16, 17, 255, 256, 257, 9000) * 11),
    StepShape("chunks of 1900, 31, 7 and decode 33", (2048,) * 33, ((4096, 1900), (100, 31), (5, 7))),
)
_FIRST_OF_LAYER = ("_rope_and_write_kernel", "qkv_kernel")  # each layer has one of them
WARM_UP = 2  # of the steps: what they need is compiled before there are any requests
GRAPH_ROWS = (1, 8, 64, 80)


@dataclass
class StepRecord:
    """What one step had the device do."""

    step: StepShape
    chunks: list[Chunk]
    work: list[Work]
    traffic: Traffic
    captured: dict[str, Launch]  # specialisations that were compiled at the start, to capture graphs

    @property
    def signatures(self) -> dict[str, Launch]:
        """The step's specialisations."""
        return signatures_of(self.work)

    @property
    def layer(self) -> list[str]:
        """The kernels between one layer's write to the cache and the next one's: a layer's, as a rule."""
        names = [each.name for each in self.work if each.kind in LAUNCHES]
        first, second = [i for i, name in enumerate(names) if name in _FIRST_OF_LAYER][:2]
        return names[first:second]

    def count(self, *kinds: str) -> int:
        """How many things of those kinds it did."""
        return sum(each.kind in kinds for each in self.work)


def signature(launch: Launch) -> str:
    """What a launch is specialised for, as text; equal for launches that share a binary."""
    fields = (launch.signature, launch.constexprs, launch.attrs, launch.options)
    return json.dumps([launch.name, *([str(item) for item in sorted(field.items(), key=str)] for field in fields)])


def signatures_of(work: list[Work]) -> dict[str, Launch]:
    """The specialisations of some launches."""
    return {signature(each.launch): each.launch for each in work if each.launch is not None}


def record_steps(
    shape: str, arch: int, num_layers: int | None = None, steps: Iterable[StepShape] = STEPS, **settings: Any
) -> list[StepRecord]:
    """Run steps on the model of that shape, and list what each does from its launch to its end.

    ``settings``: of EngineConfig.
    """
    records = []
    with recorded_device(arch) as work:
        backend = load_backend("triton")
        runner = make_runner(
            shape, backend, DEVICE, lambda size: torch.empty(size, dtype=torch.bfloat16, device=DEVICE), num_layers,
            graph_rows=GRAPH_ROWS, **settings,
        )  # fmt: skip
        captured = signatures_of(work)
        for step in steps:
            before, chunks = begin(runner, step)
            work.clear()
            launched = runner.launch(chunks)
            records.append(StepRecord(step, chunks, list(work), traffic_of(work, chunks), captured))
            for each in (before, launched):
                if each is not None:
                    runner.collect(each)
    return records


def new_signatures(records: list[StepRecord]) -> list[str]:
    """Where a step needs a specialisation that neither the warm-up nor a capture did: a line each, what differs."""
    first = records[0].captured | {
        key: launch for record in records[:WARM_UP] for key, launch in record.signatures.items()
    }
    found = {}
    for record in records[WARM_UP:]:
        for key, launch in record.signatures.items():
            if key not in first and key not in found:
                known = [old for old in first.values() if old.name == launch.name]
                found[key] = f"{launch.name} anew for '{record.step.name}': {_difference(known, launch)}"
    return list(found.values())


def unprepared(shape: str, arch: int, num_layers: int | None = None) -> list[str]:
    """Specialisations that requests need and that the start of an engine did not compile: a line each, empty is right.

    The engine itself, started as ``headwater serve`` does, then requests of every kind that has launches of its own.
    """
    with recorded_device(arch) as work:
        loaded = load_shape(
            shape, load_backend("triton"), DEVICE, lambda size: torch.empty(size, dtype=torch.bfloat16, device=DEVICE),
            num_layers, kv_cache_bytes=1 << 30, max_total_tokens=4096, max_batch_size=16, max_batch_prefill_tokens=512,
        )  # fmt: skip
        engine = loaded.start(loaded.limits())
        known = signatures_of(work)
        work.clear()
        for batch in _REQUESTS:
            for request_id, (prompt_tokens, sampling) in enumerate(batch):
                failed = engine.submit(0, Submit(request_id, [1] * prompt_tokens, sampling))
                assert failed is None, failed
            while engine.has_work:
                engine.step()
        new = {key: launch for key, launch in signatures_of(work).items() if key not in known}
    found = []
    for launch in new.values():
        old = [each for each in known.values() if each.name == launch.name]
        found.append(f"{launch.name} anew on a request: {_difference(old, launch)}")
    return found


_GREEDY = SamplingParams(4, greedy=True)
_REQUESTS: tuple[tuple[tuple[int, SamplingParams], ...], ...] = (
    ((1, _GREEDY),),
    ((3, SamplingParams(4, greedy=False, seed=5)),),
    tuple((1 + 37 * index, _SAMPLING[index % len(_SAMPLING)]) for index in range(16)),
    tuple((500 + index, _RARE[index % len(_RARE)]) for index in range(3)),
    ((40, _GREEDY), (1, SamplingParams(2, greedy=True, prompt_logprobs=False, logit_bias=((7, 1.0),)))),
    ((300, SamplingParams(2, greedy=True, prompt_logprobs=True)),),
    ((3, SamplingParams(2, greedy=True, prompt_logprobs=True, prompt_top_n=5)),),
    ((1900, SamplingParams(2, greedy=False, presence_penalty=0.5, output_frequency_penalty=0.5, typical_p=0.9)),),
)


def _difference(known: list[Launch], launch: Launch) -> str:
    if not known:
        return "a kernel that the warm-up does not have"
    names = launch.kernel.arg_names
    differences = []
    for field in ("signature", "constexprs", "attrs", "options"):
        old, new = getattr(known[0], field), getattr(launch, field)
        for key in sorted({*old, *new}, key=str):
            if old.get(key) != new.get(key):
                name = names[key[0]] if isinstance(key, tuple) else key
                differences.append(f"{name} {old.get(key)} -> {new.get(key)}")
    return ", ".join(differences)


def compile_all(launches: dict[str, Launch], arch: int) -> list[str]:
    """Compile each for ``arch``. Returns a line for each that does not."""
    failures = []
    for launch in launches.values():
        source = ASTSource(launch.kernel, launch.signature, launch.constexprs, launch.attrs)
        try:
            triton.compile(source, target=GPUTarget("cuda", arch, 32), options=launch.options)
        except Exception as error:  # whatever the compiler raises is the finding
            failures.append(f"{launch.name}: {type(error).__name__}: {error}")
    return failures


def describe(record: StepRecord) -> list[str]:
    """What a step has the device do, in a few lines."""
    traffic, layer = record.traffic, Counter(record.layer)
    gigabytes = "weights {:.2f}, KV {:.2f}, rows {:.2f} GB".format(
        *(part / 1e9 for part in (traffic.weights, traffic.kv, traffic.rows))
    )
    launches = record.count(*LAUNCHES)
    copies = [f"{each.kind} {each.traffic_bytes / 1024:.0f} KiB" for each in record.work if each.kind not in LAUNCHES]
    return [
        f"  {record.step.name}",
        f"    launches: {sum(layer.values())} a layer, {launches} a step",
        f"    bytes: {traffic.moved / 1e9:.2f} GB, {traffic.moved / traffic.least:.3f} of the least ({gigabytes})",
        "    host: " + ", ".join(copies),
    ]


def report(shape: str, arch: int, num_layers: int | None, compiles: bool) -> int:
    """Print everything about one model on one architecture. Returns how many things are wrong."""
    records = record_steps(shape, arch, num_layers)
    print(f"{shape} on sm_{arch} ({AUDITED_GPUS[arch].card})")
    for record in records:
        print(*describe(record), sep="\n")
    print("  a layer: " + ", ".join(f"{name} x {count}" for name, count in Counter(records[0].layer).items()))
    wrong = [f"RECOMPILED: {line}" for line in new_signatures(records) + unprepared(shape, arch, num_layers)]
    wrong += [
        f"THE HOST WAITS in '{record.step.name}': {each.kind}, {each.name}"
        for record in records for each in record.work if each.kind in WAITS
    ]  # fmt: skip
    if compiles:
        launches = {key: launch for record in records for key, launch in record.signatures.items()}
        failures = compile_all(launches, arch)
        print(f"  compiled {len(launches) - len(failures)} of {len(launches)} specialisations")
        wrong += [f"DOES NOT COMPILE: {line}" for line in failures]
    for line in wrong:
        print(f"  {line}")
    sys.stdout.flush()
    return len(wrong)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        prog="python -m headwater.bench.device.dry_run", description=__doc__.splitlines()[0]
    )
    parser.add_argument("shape", nargs="*", help=f"of {', '.join(SHAPES)}; all if none is given")
    parser.add_argument("--arch", type=int, choices=list(AUDITED_GPUS), nargs="+", default=list(AUDITED_GPUS))
    parser.add_argument("--layers", type=int, help="of each model, instead of all that it has")
    parser.add_argument("--no-compile", action="store_true", help="only record")
    parser.add_argument(
        "--memory", type=float, metavar="GIB",
        help="instead, how the engine divides a card of that size, and whether its largest step fits",
    )  # fmt: skip
    arguments = parser.parse_args()
    unknown = [shape for shape in arguments.shape if shape not in SHAPES]
    if unknown:
        parser.error(f"no shape {', '.join(unknown)}; there are {', '.join(SHAPES)}")
    if arguments.memory is not None:
        for shape in arguments.shape or SHAPES:
            print(f"{shape}: {divide(shape, arguments.arch[0], int(arguments.memory * 2**30), arguments.layers)}")
        return 0
    wrong = 0
    for shape in arguments.shape or SHAPES:
        for arch in arguments.arch:
            wrong += report(shape, arch, arguments.layers, not arguments.no_compile)
    print(f"{wrong} things wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    if knobs.runtime.interpret:
        sys.exit("TRITON_INTERPRET is set: kernels would be interpreted, not compiled")
    sys.exit(main())
