"""The tokens of a text, as /tokenize and /chat_tokenize answer."""

from msgspec import Struct

from .tokenizer import Tokenizer


class SimpleToken(Struct, gc=False):
    """One token of a text; a special token that was added around it has none of it."""

    id: int
    text: str
    start: int  # bytes of UTF-8 before it
    stop: int


async def token_list(tokenizer: Tokenizer, text: str, *, add_special_tokens: bool = True) -> list[SimpleToken]:
    """Every token of ``text``, with its place in it."""
    data = text.encode()
    spans = await tokenizer.spans(text, add_special_tokens=add_special_tokens)
    return [SimpleToken(i, data[start:stop].decode(errors="replace"), start, stop) for i, start, stop in spans]
