"""Token ids to text, one token at a time, without ever showing half a character.

A token may hold part of a UTF-8 character, and some decoders change a token's text by what stands before it (the
leading space of SentencePiece models). So each new token is decoded together with the few before it, and what the
decode of the earlier ones already gave is cut off. The window moves on as soon as its text is
complete, so the cost of a token does not grow with the length of the sequence.

Two decisions that differ from TGI. Text before an unfinished character is given at once, not held back with it.
Bytes that never become a character, because the sequence ends or a special token follows, give no text at all: TGI then
returns an empty ``generated_text``, others a U+FFFD that the model did not write.

``tokenizers.decoders.DecodeStream`` works alike and isn't used: it holds text back with an unfinished character, keeps
bytes that are no text without bound, and gives the end of a prompt as text if that ends inside a character.
"""

from .tokenizer import Tokenizer

_CONTEXT_TOKENS = 5  # of the prompt, as in TGI: enough for every decoder that looks back
_MAX_PENDING_TOKENS = 16  # a character has at most 4 bytes: more pending tokens than this are no character
_REPLACEMENT = "\ufffd"


class Detokenizer:
    """Text of one sequence's tokens, given as they come."""

    def __init__(self, tokenizer: Tokenizer, prompt_ids: list[int]) -> None:
        self._tokenizer = tokenizer
        self._joins_bytes = tokenizer.joins_bytes
        self._window = prompt_ids[-_CONTEXT_TOKENS:]  # tokens decoded together
        self._read = len(self._window)  # of them: tokens whose text was given completely
        self._prefix: str | None = None  # text of those; None: not decoded yet
        self._given = 0  # characters given of the text after the prefix

    def feed(self, token_id: int) -> str:
        """Text that this token completes; empty while its last character is unfinished.

        A special token gives its own text (``<|im_end|>``), which is no part of the generated text.
        """
        special = self._tokenizer.special_tokens.get(token_id)
        if special is not None:
            self._restart([token_id])
            return special
        if self._joins_bytes and self._read == len(self._window):
            text = self._tokenizer.token_text(token_id)
            if text and _REPLACEMENT not in text:  # a third of the time that decoding a window takes
                self._restart([token_id])
                return text
        if self._prefix is None:
            window = self._window  # of one token as a rule, whose text is known
            decode = self._tokenizer.decode
            self._prefix = self._tokenizer.token_text(window[0]) if len(window) == 1 else decode(window)
        self._window.append(token_id)
        text = self._tokenizer.decode(self._window)[len(self._prefix) :]
        complete = text.rstrip(_REPLACEMENT)
        if complete and len(complete) == len(text):
            piece = text[self._given :]
            self._restart(self._window[self._read :])
            return piece
        if len(self._window) - self._read >= _MAX_PENDING_TOKENS:
            piece = text[self._given :]
            self._restart([])  # no context: what follows must not join with bytes that were given up
            return piece
        piece = complete[self._given :]
        self._given = max(self._given, len(complete))
        return piece

    def _restart(self, window: list[int]) -> None:
        self._window = window
        self._read = len(window)
        self._prefix = None
        self._given = 0
