"""What llama.cpp's `llama-perplexity --kl-divergence-base FILE` writes: its distributions over a text.

    "_logits_", int32 n_ctx, n_vocab, n_windows, int32 tokens [n_windows, n_ctx]
    for each window, n_ctx - 1 - n_ctx // 2 times: fp32 scale, fp32 lowest, uint16 q [n_vocab, one more if odd]

    logprob = scale * q + lowest

Rows are those of a window's second half, but for its last token. What is more than 16 below the best logprob is raised
to that. Tens of thousands of raised tokens have a share that shows, so llama.cpp leaves logprobs of at most -16 out of
its divergences. Numbers are little-endian.
"""

from pathlib import Path

import numpy as np
import torch

_MAGIC = b"_logits_"
_HEADER_BYTES = len(_MAGIC) + 3 * 4
_ROW_HEADER = 4  # uint16: scale and lowest


class LogitsFile:
    """The distributions of a text, window by window. The file is mapped.

    Attributes:
        windows: token ids of the text, int32 [windows, context].
    """

    least_logprob = -16.0

    def __init__(self, path: Path) -> None:
        """Raises ValueError if it isn't such a file, or is cut off."""
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
            raise ValueError(f"{path}: not what `llama-perplexity --kl-divergence-base` writes")
        context, self.vocab_size, count = (int(n) for n in np.frombuffer(header, "<i4", offset=len(_MAGIC)))
        if context < 4 or self.vocab_size < 1 or count < 1:
            raise ValueError(f"{path}: {count} windows of {context} tokens out of {self.vocab_size}: it is damaged")
        rows, width = context - 1 - context // 2, _ROW_HEADER + 2 * ((self.vocab_size + 1) // 2)
        at = _HEADER_BYTES + count * context * 4
        if path.stat().st_size < at + count * rows * width * 2:
            raise ValueError(f"{path}: cut off: {count} windows of {context} tokens were announced")
        self.windows = np.memmap(path, "<i4", "r", _HEADER_BYTES, (count, context))
        self._rows = np.memmap(path, "<u2", "r", at, (count, rows, width))
        self._window = 0

    def read(self, window: int, token_ids: list[int]) -> None:
        """Turn to a window."""
        del token_ids  # the file's own
        self._window = window

    def logprobs(self, start: int, end: int) -> torch.Tensor:
        """Natural logs, fp64 [rows, vocab], of some rows of the window's second half."""
        rows = np.ascontiguousarray(self._rows[self._window, start:end])
        scale, lowest = rows[:, :_ROW_HEADER].copy().view("<f4").astype(np.float64).T[:, :, None]
        return torch.from_numpy(scale * rows[:, _ROW_HEADER:][:, : self.vocab_size] + lowest)
