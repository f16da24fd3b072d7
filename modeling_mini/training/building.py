"""Loads or creates the config, tokenizer, model and weights of a run."""

import logging
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset, IterableDataset
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_fsdp_enabled

from ..checkpoints import checkpoints
from ..configuration_mini import MiniConfig
from ..data.columns import name_some
from ..data.examples import Examples
from ..data.packing import EncodedData
from ..errors import UserError, one_line
from ..model_folders import (
    forget_place,
    has_tokenizer,
    local_folder,
    open_model,
    open_tokenizer,
    read_config,
    require_model_folder,
)
from ..presets import preset_path
from ..tasks.base import Task
from ..tokenization import train_tokenizer
from ..writing import complete_files
from .arguments import MiniTrainingArguments, ModelArguments
from .memory import require_memory
from .overrides import canonical_overrides


logger = logging.getLogger(__name__)

SHORT_DOCUMENT = 0.75  # of a row: a shorter longest document leaves much of the context untrained
TOKENIZER_DOCUMENTS = 20_000  # that are read from a stream; a corpus on disk is read completely


def load_config(args: ModelArguments, task: Task, training_args: MiniTrainingArguments) -> MiniConfig:
    """The config of a preset, path or checkpoint, with the overrides applied. Raises `UserError`.

    With `--init_from`, the checkpoint is judged completely, before any other work.
    """
    overrides = canonical_overrides(args.overrides())
    if args.init_from:
        folder, source = local_folder(args.init_from), f"--init_from {args.init_from}"
        require_model_folder(folder, source)
        config = read_config(folder, source, **overrides)
    else:
        config = read_shape(args.model, overrides)
        is_trained = args.tokenizer is None and not training_args.is_resumed
        if task.needs_causal and args.tokenizer_kind == "uncased" and is_trained:
            raise UserError(
                f"--tokenizer_kind uncased: a model of {task.name} would write without capitals; choose "
                "--tokenizer_kind bpe."
            )
    require_memory(config, args, training_args)
    if training_args.process_index == 0:
        existing_tokenizer(args, training_args)  # a damaged one is refused before the data are read
    task.configure(config)
    return config


def set_context(config: MiniConfig, args: ModelArguments, row_length: int) -> None:
    """Set `max_position_embeddings` to the positions that the model learns: those of a row, or of a longer base.

    A model is poor at positions that it has not seen in training, and all tools read this field as its context.

    Raises:
        UserError: `--config_overrides` gives another number.
    """
    stated = args.overrides().get("max_position_embeddings", row_length)
    if stated != row_length:
        raise UserError(
            f"--config_overrides: max_position_embeddings is {stated}, but the model learns the {row_length} "
            "positions of a row; leave it out, and set --block_size."
        )
    learned_by_base = config.max_position_embeddings if args.init_from else 0
    config.max_position_embeddings = max(row_length, learned_by_base)


def read_shape(model: str, overrides: dict) -> MiniConfig:
    """The config of a preset, or of the path of a config.json or of its folder. Raises `UserError`."""
    try:
        path = preset_path(model)
    except ValueError as error:
        raise UserError(f"--model {error}") from error
    if any(path.glob("*.safetensors")):
        raise UserError(
            f"--model {model} holds trained weights, but --model starts from new weights; use --init_from to start "
            "from its weights, or give the path of its config.json to reuse its shape."
        )
    return read_config(path, f"--model {model}", **overrides)


def load_tokenizer(
    model_args: ModelArguments,
    training_args: MiniTrainingArguments,
    config: MiniConfig,
    task: Task,
    examples: Examples,
) -> PreTrainedTokenizerBase:
    """The tokenizer of `--tokenizer`, of `--init_from`, or of the resumed run; otherwise a new one.

    The first process trains a new tokenizer on the examples and saves it, and the other processes load it. It also
    saves the tokenizer of a checkpoint of another folder. Raises `UserError` if a tokenizer cannot be loaded, or if
    the run has checkpoints and its tokenizer is gone.
    """
    if (tokenizer := existing_tokenizer(model_args, training_args)) is not None:
        tokenizer.model_max_length = config.max_position_embeddings
        is_elsewhere = training_args.is_resumed and not has_tokenizer(Path(training_args.output_dir))
        if is_elsewhere and training_args.should_save:
            save_tokenizer(tokenizer, training_args.output_dir)  # where the next --resume looks for it
        return tokenizer
    logger.info("Training a tokenizer (%s) of up to %d tokens", model_args.tokenizer_kind, config.vocab_size)
    if isinstance(examples, IterableDataset):
        examples = examples.take(TOKENIZER_DOCUMENTS)
    tokenizer = train_tokenizer(
        task.texts(examples),
        model_args.tokenizer_kind,
        config.vocab_size,
        model_max_length=config.max_position_embeddings,
    )
    if training_args.should_save:
        save_tokenizer(tokenizer, training_args.output_dir)
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, output_dir: str) -> None:
    """Write a tokenizer of which a resumed run finds either nothing or everything."""
    with complete_files(output_dir) as folder:
        tokenizer.save_pretrained(folder)


def existing_tokenizer(
    model_args: ModelArguments, training_args: MiniTrainingArguments
) -> PreTrainedTokenizerBase | None:
    """The tokenizer that a run does not train itself, or None. Raises `UserError` if it cannot be loaded."""
    output_dir = Path(training_args.output_dir)
    if model_args.tokenizer is None and model_args.init_from is not None:
        return open_tokenizer(local_folder(model_args.init_from), f"--init_from {model_args.init_from}")
    if model_args.tokenizer is not None:
        try:
            return forget_place(AutoTokenizer.from_pretrained(model_args.tokenizer, trust_remote_code=False))
        except Exception as error:  # a damaged file can raise any exception of its parser
            reason = one_line(error)
            raise UserError(f"The tokenizer of {model_args.tokenizer} could not be loaded: {reason}") from error
    checkpoint = Path(training_args.resume_from_checkpoint or "")
    if training_args.resume_from_checkpoint and not has_tokenizer(output_dir) and has_tokenizer(checkpoint):
        return open_tokenizer(checkpoint, f"--resume_from_checkpoint {checkpoint}")
    is_continued = training_args.is_resumed and bool(checkpoints(output_dir))
    is_complete = (output_dir / "tokenizer.json").exists() and (output_dir / "tokenizer_config.json").exists()
    is_saved = is_complete and (training_args.is_resumed or training_args.process_index > 0)
    if is_continued or is_saved:
        return open_tokenizer(output_dir, f"--output_dir {output_dir}")
    return None


def warn_about_unknown_tokens(data: EncodedData, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn if the tokenizer replaces characters with the unknown token, which loses text and lowers the loss."""
    if tokenizer.unk_token_id is None:
        return
    rows = data.rows.with_format("numpy")["input_ids"]
    unknown = sum(int((row == tokenizer.unk_token_id).sum()) for row in rows)
    if unknown:
        logger.warning(
            "%d tokens of the validation text are unknown to the tokenizer and easy to predict: the loss will be too "
            "low. Use a larger vocabulary or --tokenizer_kind bpe.",
            unknown,
        )


def warn_about_short_documents(data: EncodedData) -> None:
    """Warn if packed documents are so short that the end of the context is never trained.

    Positions restart at each document, so a model is as poor beyond its longest document as beyond its rows.
    """
    if not isinstance(data.rows, Dataset) or len(data.rows) == 0:  # a stream
        return
    if "starts" not in data.rows.column_names or "prompt_lengths" in data.rows.column_names:  # rows of examples
        return
    longest = longest_document(data.rows, data.row_length, enough=SHORT_DOCUMENT * data.row_length)
    if longest < SHORT_DOCUMENT * data.row_length:
        logger.warning(
            "The longest training document has %d tokens, but the context of the model is %d (--block_size): the "
            "positions after %d are never trained, and tools may use them. Set --block_size %d, or train on longer "
            "documents (--text_unit paragraph or document).",
            longest,
            data.row_length,
            longest,
            max(8, longest),
        )


def longest_document(rows: Dataset, block_size: int, enough: float) -> int:
    """Tokens of the longest document in packed rows, where a row cuts it; or the first number that is `enough`."""
    longest = 0
    for batch in rows.select_columns(["starts", "padding"]).with_format("numpy").iter(1000):
        for starts, padding in zip(batch["starts"], batch["padding"], strict=True):
            edges = np.concatenate([[0], np.asarray(starts, dtype=np.int64), [block_size - int(padding)]])
            longest = max(longest, int(np.diff(edges).max()))
            if longest >= enough:
                return longest
    return longest


def build_model(
    task: Task, config: MiniConfig, tokenizer: PreTrainedTokenizerBase, args: ModelArguments
) -> PreTrainedModel:
    """A model with the vocabulary and special tokens of the tokenizer.

    With `--init_from` the model has the weights of that checkpoint; a head that is missing there gets new weights.

    Raises:
        UserError: the model and the tokenizer do not match, or the attention backend does not exist.
    """
    if args.init_from and config.vocab_size != len(tokenizer):
        raise UserError(
            f"--init_from {args.init_from}: the model has a vocabulary of {config.vocab_size}, but the tokenizer has "
            f"{len(tokenizer)} tokens; leave out --tokenizer, and vocab_size in --config_overrides."
        )
    config.vocab_size = len(tokenizer)
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    try:
        config.pad_token_id = tokenizer.pad_token_id
        config.validate()
        if args.init_from:
            model = load_weights(task, config, args)
        else:
            # FSDP copies the weights from the first process; the others need only names and shapes.
            is_copied = is_fsdp_enabled() and torch.distributed.get_rank() > 0
            with torch.device("meta") if is_copied else nullcontext():
                model = task.model_class._from_config(config, attn_implementation=args.attn_implementation)
    except StrictDataclassError as error:
        raise UserError(f"Tokenizer and model do not match: {error.__cause__}") from error
    except (ImportError, ValueError) as error:
        raise _no_backend(args, error) from error
    if model.device.type == "meta":
        # accelerate identifies the optimizer's parameters by their address. An empty tensor has an address, and takes
        # no memory until it is written.
        model.to_empty(device="cpu").tie_weights()
    return model


def _no_backend(args: ModelArguments, error: Exception) -> UserError:
    return UserError(f"--attn_implementation {args.attn_implementation}: {error}")


def load_finished(task: Task, checkpoint: str, args: ModelArguments) -> PreTrainedModel:
    """The model of a finished run, to evaluate it. Raises `UserError`."""
    try:
        return open_model(Path(checkpoint), task.model_class, checkpoint, **_backend(args))
    except (ImportError, ValueError) as error:
        raise _no_backend(args, error) from error


def _backend(args: ModelArguments) -> dict[str, str]:
    return {} if args.attn_implementation is None else {"attn_implementation": args.attn_implementation}


def load_weights(task: Task, config: MiniConfig, args: ModelArguments) -> PreTrainedModel:
    """The task's model with the weights of a checkpoint, without its head if that is for other labels.

    Raises:
        UserError: a layer does not get its weights.
    """
    folder, source = local_folder(args.init_from), f"--init_from {args.init_from}"
    other_shapes = UserError(f"{source} holds weights of other shapes; leave sizes out of --config_overrides.")
    try:
        if not has_other_labels(folder, source, task, config):
            return open_model(folder, task.model_class, source, config, **_backend(args)).train()
        model = task.model_class._from_config(config, attn_implementation=args.attn_implementation)
        model.base_model.load_state_dict(open_model(folder, task.model_class, source).base_model.state_dict())
        return model
    except RuntimeError as error:
        raise other_shapes from error
    except UserError as error:
        if "size mismatch" not in str(error.__cause__) and "ignore_mismatched_sizes" not in str(error.__cause__):
            raise
        raise other_shapes from error


def has_other_labels(folder: Path, source: str, task: Task, config: MiniConfig) -> bool:
    """Whether the checkpoint in a folder has the head of the task for other labels than the config; logs them."""
    start = read_config(folder, source)
    if task.model_class.__name__ not in (start.architectures or []) or start.id2label == config.id2label:
        return False
    labels, new_labels = (name_some(names.values()) for names in (start.id2label, config.id2label))
    logger.warning(
        "%s predicts the labels %s; the training examples have %s. So its head is not used.",
        *(source, labels, new_labels),
    )
    return True
