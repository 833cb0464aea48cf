"""The stretches that an answer is made of, in their order: what dialects call content blocks or items."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

from msgspec import Struct

from ..text.text_sequence import SequenceOutput
from .answer import AnswerReader
from .part import Part

BlockKind = Literal["reasoning", "text", "call"]


class Block(Struct):
    """A stretch of an answer that is all of one kind.

    Attributes:
        text: thoughts, text, or the arguments of a call, as far as they came.
        id, name: of a call.
        tokens: of its text, as somebody wants them described.
    """

    kind: BlockKind
    index: int
    text: str = ""
    id: str = ""
    name: str = ""
    tokens: list[Any] = []


class BlockChange(Struct, gc=False):
    """A block begins (``opens``), grows by a piece, or ends (``closes``)."""

    block: Block
    piece: str = ""
    opens: bool = False
    closes: bool = False
    tokens: list[Any] = []  # of the piece, if it is text


Describe = Callable[[SequenceOutput, int], list[Any]]  # of the token at a position; nothing of special ones


class BlockReader:
    """The blocks of one answer, as they come.

    Attributes:
        blocks: begun so far.
    """

    def __init__(self, reader: AnswerReader, describe: Describe | None = None) -> None:
        """``describe``: what is to be kept of a token of text."""
        self._reader = reader
        self._describe = describe
        self._tokens: list[tuple[Any, str]] = []  # description and text of those that gave nothing so far
        self.blocks: list[Block] = []
        self._open: Block | None = None

    def read(self, output: SequenceOutput) -> list[BlockChange]:
        """What became of them."""
        found: list[BlockChange] = []
        thoughts = self._reader.reasoning_tokens
        for position, parts in enumerate(self._reader.read(output)):
            if self._describe is not None:
                self._tokens += [(one, output.tokens[position].text) for one in self._describe(output, position)]
                if self._reader.reasoning_tokens > thoughts:  # this was one
                    thoughts, self._tokens = self._reader.reasoning_tokens, []
            for part in parts:
                found += self._take(part)
        if output.sequence.finish_reason is not None:
            found += self._close()
        return found

    def _take(self, part: Part) -> Iterable[BlockChange]:
        changes: list[BlockChange] = []
        pieces: tuple[tuple[BlockKind, str], ...] = (("reasoning", part.reasoning), ("text", part.text))
        for kind, piece in pieces:
            if piece:
                if self._open is None or self._open.kind != kind:
                    changes += self._begin(Block(kind, len(self.blocks)))
                changes.append(self._grow(piece))
        if part.name is not None:
            changes += self._begin(Block("call", len(self.blocks), id=self._reader.new_id(), name=part.name))
        if part.arguments:
            changes.append(self._grow(part.arguments))
        return changes

    def _begin(self, block: Block) -> list[BlockChange]:
        closed = self._close()
        self.blocks.append(block)
        self._open = block
        return [*closed, BlockChange(block, opens=True)]

    def _grow(self, piece: str) -> BlockChange:
        assert self._open is not None, "arguments follow a name"
        block, tokens = self._open, self._tokens
        if block.kind == "text" and not block.text and not piece[0].isspace():
            while tokens and tokens[0][1].isspace():  # between a mark and the text, and no part of it
                tokens = tokens[1:]
        block.text += piece
        self._tokens = []
        change = BlockChange(block, piece)
        if block.kind == "text":
            change.tokens = [described for described, _ in tokens]
            block.tokens += change.tokens
        return change

    def _close(self) -> list[BlockChange]:
        if self._open is None:
            return []
        closed, self._open = self._open, None
        return [BlockChange(closed, closes=True)]


def blocks_of(reader: AnswerReader, output: SequenceOutput) -> list[Block]:
    """Those of a whole answer."""
    blocks = BlockReader(reader)
    blocks.read(output)
    return blocks.blocks
