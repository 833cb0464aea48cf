"""What a sampling batch says of each row: one table of 32-bit fields, in the order in which they lie in memory.

The runtime fills a block int32 [fields, rows] of them, both backends read it; fp32 values keep their bits. A new
sampling parameter is a line here, and a line where each backend processes logits.
"""

from typing import Literal, NamedTuple


class Field(NamedTuple):
    """One field of every row."""

    kind: Literal["int", "float"]
    neutral: float  # what switches it off
    # Few requests use it: GPU kernels are compiled without all such fields, and with all of them (SamplingBatch.full).
    optional: bool = False


FIELDS: dict[str, Field] = {
    "greedy": Field("int", 0),  # 1: no noise; temperature and the allowed set's bounds are ignored
    "temperature": Field("float", 1.0),  # > 0
    "top_k": Field("int", 0),  # ties at the edge are kept
    "top_p": Field("float", 1.0),
    "repetition_penalty": Field("float", 1.0),  # of tokens in prompt or output
    "seed_low": Field("int", 0),  # halves of a u64
    "seed_high": Field("int", 0),
    "position": Field("int", 0),  # index in its sequence of the token that is drawn
    "counts_row": Field("int", -1),  # of the tables of counts, where the sequence's tokens are; -1: no penalty wanted
    "min_p": Field("float", 0.0, optional=True),  # least probability relative to the best token's
    "typical_p": Field("float", 1.0, optional=True),
    "frequency_penalty": Field("float", 0.0, optional=True),  # times a token's share of prompt and output (TGI)
    "output_frequency_penalty": Field("float", 0.0, optional=True),  # times its occurrences in the output (OpenAI)
    "presence_penalty": Field("float", 0.0, optional=True),  # for tokens that occur in the output (OpenAI)
    "bias_start": Field("int", 0, optional=True),  # the row's biases: bias_start .. bias_end
    "bias_end": Field("int", 0, optional=True),
    "grammar_row": Field("int", -1, optional=True),  # row of ``grammar_bits``; -1: everything is allowed
    "top_n": Field("int", -1, optional=True),  # best tokens wanted; -1: nothing but token and logprob is looked at
}

INDEX = {name: index for index, name in enumerate(FIELDS)}
