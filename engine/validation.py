"""Why a sequence can't be taken. The API has checked all of it; it may be wrong, and kernels must not be misled."""

from itertools import pairwise

from .limits import Limits
from .messages import MAX_TOP_N, SamplingParams, Submit
from .sampling_buffers import MAX_STOP_TOKENS


def refuse(submit: Submit, limits: Limits, vocab_size: int) -> str | None:
    """The reason, or None."""
    total = len(submit.prompt_ids) + submit.sampling.max_new_tokens
    if not submit.prompt_ids or submit.sampling.max_new_tokens < 1:
        return "a sequence needs at least one prompt token and one new token"
    if total > limits.max_total_tokens:
        return f"{total} tokens asked for, {limits.max_total_tokens} is the most"
    if len(submit.emitted_ids) >= submit.sampling.max_new_tokens:
        return "all tokens were emitted already"
    if not all(0 <= token < vocab_size for ids in (submit.prompt_ids, submit.emitted_ids) for token in ids):
        return f"token ids must be in [0, {vocab_size})"
    return _refuse_sampling(submit.sampling, limits, vocab_size)


def _refuse_sampling(sampling: SamplingParams, limits: Limits, vocab_size: int) -> str | None:
    biased = [token for token, _ in sampling.logit_bias]
    if len(biased) > limits.max_logit_bias:
        return f"{len(biased)} tokens have a bias, {limits.max_logit_bias} is the most"
    if any(a >= b for a, b in pairwise(biased)):
        return "the tokens of a logit bias must ascend"
    ids = (*biased, *sampling.stop_token_ids)
    if not all(0 <= token < vocab_size for token in ids):
        return f"token ids must be in [0, {vocab_size})"
    if sampling.min_new_tokens > 0 and len(sampling.stop_token_ids) > MAX_STOP_TOKENS:
        return f"{len(sampling.stop_token_ids)} stop tokens, {MAX_STOP_TOKENS} is the most beside min_new_tokens"
    if not (0 <= sampling.top_n <= MAX_TOP_N and 0 <= sampling.prompt_top_n <= MAX_TOP_N):
        return f"top_n and prompt_top_n must be in [0, {MAX_TOP_N}]"
    if not 0 <= sampling.seed < 1 << 64:
        return "a seed has 64 bits"
    return None
