from pathlib import Path

import pytest
from transformers import LlamaForCausalLM

from .tiny import save_tiny_llama


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    """The tiny model's directory, and transformers' instance of it."""
    directory = tmp_path_factory.mktemp("tiny-llama")
    return directory, save_tiny_llama(directory)
