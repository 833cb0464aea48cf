"""Guesses how a text goes on from where its last tokens occurred before (n-gram look-up).

Saxena 2023, "Prompt lookup decoding" (github.com/apoorvumang/prompt-lookup-decoding). No model: code, tables, JSON and
summaries repeat their input, and a wrong guess costs only its rows.
"""

# Longest first: a longer match is right more often. One token alone matches nearly everywhere and is rarely right.
LENGTHS = (3, 2)


class NgramIndex:
    """Where each n-gram of one text last ended, kept up to date as the text grows.

    Memory is linear in the text, about 200 bytes a token. A call costs what was added to the text since the last.
    """

    def __init__(self) -> None:
        self._ends: tuple[dict[tuple[int, ...], int], ...] = tuple({} for _ in LENGTHS)
        self._indexed = 0  # n-grams that end at or before this position are known

    def guess(self, tokens: list[int], most: int) -> list[int]:
        """Up to ``most`` tokens that may follow ``tokens``; none if the text's end is new.

        ``tokens`` must begin with the tokens of the call before.
        """
        total = len(tokens)
        # The n-gram at the very end is what is looked for: it enters when its successor is known.
        for length, ends in zip(LENGTHS, self._ends, strict=True):
            for end in range(max(self._indexed + 1, length), total):
                ends[tuple(tokens[end - length : end])] = end
        self._indexed = max(self._indexed, total - 1)
        for length, ends in zip(LENGTHS, self._ends, strict=True):
            found = ends.get(tuple(tokens[-length:]))
            if found is not None:
                return self._continue(tokens, found, most)
        return []

    @staticmethod
    def _continue(tokens: list[int], start: int, most: int) -> list[int]:
        """``most`` tokens from ``start`` on; behind the end the guesses themselves go on, so a period repeats."""
        period = tokens[start : start + most]
        return (period * -(-most // len(period)))[:most] if most > 0 else []
