"""The folder of a trained model: whether it is complete, safe to open and fits its config, and opening it.

Every command opens a model through this module, so that each of them refuses the same folders with the same sentences.
Only safetensors files and JSON inside the folder are read, and no code in the folder runs.
"""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
    StrictDataclassError,
)
from safetensors import safe_open
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging
from transformers.utils.quantization_config import QuantizationMethod

from . import modeling_mini
from .checkpoints import RUN_NAME, TRAINER_STATE_NAME, checkpoints, is_whole_safetensors
from .configuration_mini import AUTO_CLASSES, MiniConfig
from .errors import UserError, one_line, shortened
from .json_files import is_lfs_pointer, read_object
from .modeling_mini import MiniModel


logger = logging.getLogger(__name__)

INDEX_NAME = "model.safetensors.index.json"
WEIGHT_FILES = ["model.safetensors", "model-*-of-*.safetensors", INDEX_NAME]
TOKENIZER_FILES = [
    "chat_template.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
]
PICKLES = [
    "pytorch_model*.bin",
    "*model.bin",
    "model.pt",
    "model.pth",
    "*.ckpt",
    "*.pkl",
    "*.pickle",
    "*.joblib",
]
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
# Fields with which a config or a tokenizer names code of others, for transformers to run.
_REFERENCES_TO_CODE = ("auto_map", "custom_pipelines")
# Fields of a config that may name a repository of kernels.
_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation")
# Arguments of a tokenizer that name a file, which might be outside the folder.
_TOKENIZER_PATHS = ("tokenizer_file", "vocab_file", "merges_file", "spm_file", "added_tokens_file")
# What transformers records of the place that a tokenizer was loaded from.
_PLACE_OF_TOKENIZER = ("is_local", "local_files_only")
_MERGE = "merge it (PEFT's merge_and_unload, then save_pretrained with the tokenizer), or use it with PEFT alone"
_FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file at the top level of a repository matches one of the patterns, ignoring case."""
    return "/" not in name and any(fnmatchcase(name.lower(), pattern) for pattern in patterns)


def refuse_files(files: Iterable[str], source: str) -> None:
    """Refuse files that transformers would open instead of our weights, or with them. Raises `UserError`."""
    for file in files:
        if matches(file, PICKLES):
            raise UserError(
                f"{source} contains {file!r}, a pickle, which can run code when it is opened; delete it, and keep the "
                "weights in safetensors files only (save_pretrained writes them)."
            )
        if file in ADAPTER_FILES:
            raise UserError(
                f"{source} contains an adapter ({file}), which transformers would apply to the model next to it; "
                f"{_MERGE}."
            )


def refuse_links(folder: Path, source: str) -> None:
    """Refuse a folder with a file that leads outside it, or with a pipe or a device among its files.

    In the cache of the Hub, the files of a repository are links to its blobs, which are allowed.

    Raises:
        UserError: names the file.
    """
    roots = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        roots.append(folder.resolve().parent.parent / "blobs")
    for path in (*folder.iterdir(), *folder.glob("additional_chat_templates/*")):
        is_readable = path.is_dir() and path.name == "additional_chat_templates"  # others are not part of a model
        if path.is_dir() and not is_readable:
            if matches(path.name, (*WEIGHT_FILES, *TOKENIZER_FILES, "config.json", "generation_config.json")):
                raise UserError(f"{path.name} in {source} is a folder, not a file; copy the model again.")
            continue
        if path.is_symlink() and not any(path.resolve().is_relative_to(root) for root in roots):
            raise UserError(
                f"{path.name} in {source} is a link that leads out of the folder; copy the folder with `cp -rL`, and "
                "use the copy."
            )
        if not is_readable and not path.is_file():
            raise UserError(
                f"{path.name} in {source} is not a file, but a pipe, a device or a broken link; delete it."
            )


def local_folder(checkpoint: str | Path, **hub: str | None) -> Path:
    """The folder of a checkpoint: itself, or the downloaded files of the model from a repository on the Hub.

    `hub` may hold `revision` and `token`. Raises `UserError` if there is neither.
    """
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    if Path(checkpoint).exists():
        raise UserError(f"{checkpoint} is a file; give the folder of a trained model.")
    patterns = [*WEIGHT_FILES, *TOKENIZER_FILES, *ADAPTER_FILES, "config.json", "generation_config.json"]
    with hub_errors(checkpoint):
        return Path(snapshot_download(str(checkpoint), allow_patterns=patterns, **hub))


def config_folder(checkpoint: str | Path, **hub: str | None) -> Path:
    """As `local_folder`, but downloads only config.json."""
    if Path(checkpoint).exists():
        return local_folder(checkpoint)
    with hub_errors(checkpoint):
        return Path(hf_hub_download(str(checkpoint), "config.json", **hub)).parent


@contextmanager
def hub_errors(checkpoint: str | Path) -> Iterator[None]:
    """Turn the errors of a download into `UserError`."""
    prefix = f"{checkpoint}: there is no such folder, and on the Hub:"
    try:
        yield
    except HFValidationError as error:
        raise UserError(f"{prefix} {str(checkpoint)!r} is not a valid name; give USER/REPO.") from error
    except EntryNotFoundError as error:
        raise UserError(
            f"{prefix} the repository has no config.json, or is not in the cache of this machine."
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(f"{prefix} there is no repository of this name that this login can see.") from error
    except (HTTPError, OSError, ValueError) as error:  # no connection, no such revision, a full disk
        raise UserError(f"{prefix} {one_line(error)}") from error


def require_model_folder(folder: Path, source: str) -> MiniConfig:
    """The config of a folder that contains a model of ours: complete safetensors files that fit it.

    Args:
        source: how the user named the folder.

    Raises:
        UserError: the folder contains no such model, a file that leads outside it, a pickle, weights that are
            truncated, do not fit the config or are not finite, or JSON that is damaged.
    """
    refuse_links(folder, source)
    files = [path.name for path in folder.iterdir()]
    refuse_files(files, source)
    config = read_config(folder, source)
    for name in files:
        if name.endswith(".json") and matches(name, ("generation_config.json", *TOKENIZER_FILES)):
            settings = read_object(folder / name, source)
            if name == "generation_config.json":
                check_generation_config(settings, source)
    weights = weight_files(folder, files, source)
    names = config.architectures
    if not (isinstance(names, list) and names and names[0] in AUTO_CLASSES):
        raise UserError(
            f"config.json in {source} names the architectures {names!r}, of which the first must be one of "
            f"{', '.join(AUTO_CLASSES)}; save the model again with save_pretrained."
        )
    check_finite(weights, source)
    if not hasattr(config, "quantization_config"):  # quantized weights have names and types of their own
        check_weights(weights, config, source)
    return config


def _best_or_latest(runs: list[Path]) -> Path:
    """The best of the checkpoints of a run as far as its latest one knows, or the latest."""
    try:
        best = read_object(runs[0] / TRAINER_STATE_NAME).get("best_model_checkpoint")
    except UserError:
        best = None
    return next((path for path in runs if path.name == Path(str(best)).name), runs[0])


def read_config(folder: Path, source: str, **overrides) -> MiniConfig:
    """The config of a model of ours, which names no code but ours.

    Args:
        folder: contains the config.json, or is the path of a JSON file of this kind.
        source: how the user named it.
        overrides: fields to replace.

    Raises:
        UserError: config.json is missing, is damaged, or describes another model or one that cannot exist.
    """
    path = folder if folder.is_file() else folder / "config.json"
    if not path.exists():
        runs = checkpoints(folder)
        hint = "give the folder of a trained model"
        if (folder / ADAPTER_FILES[0]).exists():
            hint = f"it is an adapter: {_MERGE}"
        elif runs:
            hint = f"give a checkpoint in it, such as {_best_or_latest(runs)}"
            if (folder / RUN_NAME).exists():
                hint = f"the run did not finish: continue it with --resume, or {hint}"
        raise UserError(f"{source} contains no config.json; {hint}.")
    fields = read_object(path, source)
    model_type = fields.get("model_type")
    if model_type != MiniConfig.model_type:
        kind = f"a {model_type} model" if model_type else "a config.json without model_type"
        raise UserError(f"{source} contains {kind}; this command is for modeling_mini models only.")
    refuse_kernels(fields, f"{path.name} in {source}")
    try:
        config = MiniConfig.from_pretrained(path, **overrides)
    except Exception as error:  # a field can raise whatever its reader raises
        if isinstance(error, StrictDataclassError):  # names the field
            reason = one_line(error.__cause__ or error)
            advice = "" if reason.endswith(".") else "; correct the entry."
            raise UserError(f"{path.name} in {source}: {reason}{advice}") from error
        entry = wrong_entry(fields, MiniConfig.from_dict)
        raise UserError(f"{path.name} in {source}: {entry}{one_line(error)}; correct the entry.") from error
    remove_references_to_code(config, fields)
    check_quantization(config, f"{path.name} in {source}")
    return config


def refuse_kernels(fields: dict, source: str) -> None:
    """Refuse a config that names kernels of a repository, which transformers would download and run.

    transformers does not save these entries. Raises `UserError`.
    """
    for name in _KERNELS:
        if "/" in str(fields.get(name)):
            raise UserError(
                f"{source}: {name} is {fields[name]!r}, which is code of another repository; delete the entry."
            )


def check_quantization(config: MiniConfig, source: str) -> None:
    """Refuse a quantization that transformers does not know and would skip. Raises `UserError`."""
    settings = getattr(config, "quantization_config", None)
    method = settings.get("quant_method") if isinstance(settings, dict) else None
    if hasattr(config, "quantization_config") and method not in list(QuantizationMethod):
        raise UserError(
            f"{source}: quantization_config does not name a quant_method of transformers, but {method!r}; delete the "
            "entry if the weights are not quantized."
        )


def check_generation_config(settings: dict, source: str) -> None:
    """Refuse a generation_config.json that transformers cannot use. Raises `UserError`."""
    try:
        GenerationConfig.from_dict(settings)
    except Exception as error:  # a field can raise whatever its check raises
        entry = wrong_entry(settings, GenerationConfig.from_dict)
        raise UserError(
            f"generation_config.json in {source}: {entry}{one_line(error)}; correct the entry, or delete it."
        ) from error


def wrong_entry(fields: dict, build: Callable[[dict], object]) -> str:
    """The first entry from which nothing can be built, as the beginning of a sentence; "" if each is valid alone."""
    for name, value in fields.items():
        try:
            build({name: value})
        except Exception:  # as of all fields together
            return f"{name} is {shortened(repr(value), 60)}: "
    return ""


def remove_references_to_code(config: MiniConfig, fields: dict) -> None:
    """Keep only our own references to code in a config, so that those of others are neither used nor saved."""
    ours = dict(MiniConfig().auto_map)
    foreign = [
        f"{name} {value!r}" for name, value in (fields.get("auto_map") or {}).items() if ours.get(name) != value
    ]
    for name in _REFERENCES_TO_CODE:
        if hasattr(config, name):
            delattr(config, name)
    config.auto_map = ours
    if foreign:
        logger.warning("config.json names code of others, which is neither run nor kept: %s", ", ".join(foreign))


def weight_files(folder: Path, files: list[str], source: str) -> list[Path]:
    """The files of the weights, each of which is complete. Raises `UserError`."""
    parts = _indexed_files(folder, files, source) if INDEX_NAME in files else None
    names = sorted(name for name in files if matches(name, WEIGHT_FILES) and name.endswith(".safetensors"))
    if not names:
        raise UserError(
            f"{source} contains no weights in safetensors files (model*.safetensors); save the model with "
            "save_pretrained."
        )
    for name in names:
        if is_lfs_pointer(folder / name):
            raise UserError(
                f"{name} in {source} is a Git LFS pointer, not the weights; run `git lfs pull` there, or download the "
                "folder with `hf download`."
            )
        if not is_whole_safetensors(folder / name):
            raise UserError(f"{name} in {source} is truncated or damaged; copy it again, or use another checkpoint.")
    if "model.safetensors" in names:  # transformers prefers it to the index
        return [folder / "model.safetensors"]
    if parts is None:
        raise UserError(f"{source} contains {names[0]}, but no {INDEX_NAME}; copy the folder again.")
    return [folder / name for name in parts]


def _indexed_files(folder: Path, files: list[str], source: str) -> list[str]:
    """The files that an index of weights names, all of them next to it. Raises `UserError`."""
    try:
        parts = set(read_object(folder / INDEX_NAME, source)["weight_map"].values())
    except (UserError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{INDEX_NAME} in {source} is not a valid weight index; save the model again.") from error
    if strangers := sorted(str(part) for part in parts if part not in files or not matches(part, WEIGHT_FILES)):
        raise UserError(
            f"{INDEX_NAME} in {source} names {strangers[0]!r}, which is not a file next to it; save the model again."
        )
    return sorted(parts)


def check_finite(weights: list[Path], source: str) -> None:
    """Refuse weights that hold nan or inf, quantized or not. Raises `UserError` with a name."""
    not_finite = []
    for path in weights:
        with safe_open(path, framework="pt") as file:
            not_finite += [name for name in file.keys() if not _is_finite(file.get_tensor(name))]  # noqa: SIM118
    if not_finite:
        raise UserError(
            f"The weights in {source} are not finite: {not_finite[0]} holds nan or inf ({len(not_finite)} such names "
            "in total); use a checkpoint from before the training diverged."
        )


def check_weights(weights: list[Path], config: MiniConfig, source: str) -> None:
    """Refuse weights whose names or shapes do not fit the config. Raises `UserError` with a name."""
    present = {}
    for path in weights:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                part = file.get_slice(name)
                present[name] = list(part.get_shape())
                if "F" not in part.get_dtype():  # F32, BF16, F8_E4M3
                    raise UserError(
                        f"The weights in {source} hold {name} as {part.get_dtype()}, which is not a type of floating "
                        "point numbers; save the model again."
                    )
    expected, tied = _expected_weights(config, present, source)
    for names, verb, relation in (
        (expected.keys() - present.keys() - tied, "lack", "requires"),
        (present.keys() - expected.keys(), "contain", "does not describe"),
    ):
        if names:
            raise UserError(
                f"The weights in {source} {verb} {min(names)}, which config.json {relation} ({len(names)} such names "
                "in total); save the model again."
            )
    for name, shape in present.items():
        if shape != expected[name]:
            raise UserError(
                f"The weights in {source} hold {name} of shape {shape}, but config.json requires {expected[name]}; "
                "use the config.json that was saved with the weights."
            )


def _is_finite(weight: torch.Tensor) -> bool:
    return weight.dtype not in _FLOATS or bool(torch.isfinite(weight).all())


def _expected_weights(
    config: MiniConfig, present: Iterable[str], source: str
) -> tuple[dict[str, list[int]], set[str]]:
    """Shapes by name of the weights that a config describes, and the names that a file may omit because they are tied.

    A config can claim any number of layers, and each costs time. One layer more than the file holds is enough to see
    that some are missing.
    """
    layers = {int(number) for name in present for number in re.findall(r"(?:^|\.)layers\.(\d+)\.", name)[:1]}
    shape = deepcopy(config)
    shape.num_hidden_layers = min(config.num_hidden_layers, len(layers) + 1)
    try:
        with torch.device("meta"):
            model = getattr(modeling_mini, config.architectures[0])(shape)
    except Exception as error:  # sizes that no tensor can have
        raise UserError(
            f"config.json in {source} describes a model that cannot be built: {one_line(error)}"
        ) from error
    expected = {name: list(weight.shape) for name, weight in model.state_dict().items()}
    return expected, set(model.all_tied_weights_keys)


@contextmanager
def without_bars() -> Iterator[None]:
    """Hide the progress bars of transformers and huggingface_hub."""
    has_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if has_bars:
            transformers_logging.enable_progress_bar()


def open_model(
    folder: Path, model_class: type, source: str, config: MiniConfig | None = None, **options
) -> PreTrainedModel:
    """The model in a folder that `require_model_folder` has accepted, in evaluation mode.

    Args:
        model_class: a class, or an Auto class. A head that the folder does not contain gets new weights.
        source: how the user named the folder.
        config: replaces the config of the folder.
        options: further arguments of `from_pretrained`.

    Raises:
        UserError: the model does not open, or the layers would not all get weights from the folder.
        ImportError, ValueError: there is no such `attn_implementation`.
    """
    try:
        with without_bars():  # a small model is loaded before the bar is read
            model, report = model_class.from_pretrained(
                folder,
                config=config or read_config(folder, source),
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # a damaged file raises whatever its reader raises
        if options.get("attn_implementation") and isinstance(error, ImportError | ValueError):
            raise
        raise UserError(f"{source} does not open: {shortened(one_line(error), 300)}") from error
    names = {name for kind in ("missing_keys", "unexpected_keys") for name in report[kind]}
    trunk = f"{model.base_model_prefix}."
    if strangers := sorted(name for name in names if name.startswith(trunk) or isinstance(model, MiniModel)):
        raise UserError(
            f"The weights in {source} do not fit the model: {strangers[0]} ({len(strangers)} such names in total); "
            "leave the sizes as they are in its config.json."
        )
    return model.eval()


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder contains a tokenizer, or a part of one."""
    return any(folder.glob("tokenizer*.json"))


def open_tokenizer(folder: Path, source: str, vocab_size: int | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer that was saved in the folder of a model.

    Args:
        source: how the user named the folder.
        vocab_size: of the model, which must have a row for each token.

    Raises:
        UserError: the tokenizer is missing, incomplete or damaged, or has more tokens than the model.
    """
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (folder / name).exists():
            raise UserError(
                f"{source} contains no {name}, so the model cannot read text; copy the tokenizer that it was trained "
                "with next to it (tokenizer.json and tokenizer_config.json)."
            )
        settings = read_object(folder / name, source)
    if paths := [name for name in _TOKENIZER_PATHS if isinstance(settings.get(name), str)]:
        raise UserError(
            f"tokenizer_config.json in {source} names another file with {paths[0]!r}: {settings[paths[0]]!r}; delete "
            "the entry."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # a damaged file can raise any exception of its parser
        raise UserError(f"The tokenizer in {source} does not open: {shortened(one_line(error), 300)}") from error
    if not isinstance(tokenizer.model_max_length, (int, float)):
        raise UserError(
            f"tokenizer_config.json in {source}: model_max_length is {tokenizer.model_max_length!r}; give a number."
        )
    if vocab_size is not None and len(tokenizer) > vocab_size:
        raise UserError(
            f"The tokenizer in {source} has {len(tokenizer)} tokens, but the model has a vocabulary of {vocab_size}; "
            "copy the tokenizer that it was trained with next to it."
        )
    return forget_place(tokenizer)


def forget_place(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The tokenizer without what would be saved of the place that it came from, or of code there."""
    for name in (*_REFERENCES_TO_CODE, *_PLACE_OF_TOKENIZER):
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer
