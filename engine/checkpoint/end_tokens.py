"""Which tokens end a text: one reading of a model directory for the API, for grammars and for converted files.

Publishers say it in four places that rarely agree. A chat model whose generation_config.json has kept the base model's
token runs on past its turn unless tokenizer_config.json's counts too, so they all count.
"""

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from .json_files import read_json

_FILES = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")


def end_token_ids(model_dir: Path, tokenizer: Tokenizer) -> tuple[int, ...]:
    """The union of what every file says, each id once, the first file's first; empty if none is known.

    Ids that the tokenizer doesn't have are left out: no model could write them. Raises ModelError, which names a file
    that is no JSON.
    """
    found: list[int] = []
    for name in _FILES:
        said = read_json(model_dir / name, dict[str, Any]) or {}
        found += _ids(said, tokenizer)
        if isinstance(text_config := said.get("text_config"), dict):
            found += _ids(text_config, tokenizer)
    return tuple(dict.fromkeys(found))


def _ids(said: dict[str, Any], tokenizer: Tokenizer) -> list[int]:
    given = said.get("eos_token_id")
    ids = [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, int) and one >= 0]
    token = said.get("eos_token")
    if isinstance(token, dict):  # an AddedToken written out
        token = token.get("content")
    if isinstance(token, str) and (named := tokenizer.token_to_id(token)) is not None:
        ids.append(named)
    return [one for one in ids if tokenizer.id_to_token(one) is not None]
