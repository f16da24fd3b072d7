"""Loads or creates the config, tokenizer, model and weights of a run."""

import logging
from contextlib import nullcontext
from difflib import get_close_matches
from pathlib import Path

import torch
from datasets import IterableDataset
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.integrations import is_fsdp_enabled

from ..configuration_mini import MiniConfig
from ..data.examples import Examples
from ..data.packing import EncodedData
from ..errors import UserError
from ..presets import preset_path
from ..tasks.base import Task
from ..tokenization import train_tokenizer
from .arguments import MiniTrainingArguments, ModelArguments


logger = logging.getLogger(__name__)

TOKENIZER_DOCUMENTS = 20_000  # that are read from a stream; a corpus on disk is read completely


def load_config(args: ModelArguments, task: Task) -> MiniConfig:
    """The config of a preset, path or checkpoint, with the overrides applied. Raises `UserError`."""
    overrides = args.overrides()
    source = f"--init_from {args.init_from}" if args.init_from else f"--model {args.model}"
    try:
        config = AutoConfig.from_pretrained(args.init_from or preset_path(args.model), **overrides)
    except OSError as error:  # config.json is missing, or is not JSON
        is_remote = args.init_from and not Path(args.init_from).exists()
        where = " there is no such folder, and on the Hub:" if is_remote else ""
        raise UserError(f"{source}:{where} {str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise UserError(f"{source}: {error}" if args.init_from else f"--model {error}") from error
    except StrictDataclassError as error:
        raise UserError(f"{source}: {error.__cause__ or error}") from error
    if not args.init_from and any(Path(args.model).glob("*.safetensors")):
        raise UserError(
            f"--model {args.model} holds trained weights, but --model starts from new weights; use --init_from to "
            "start from its weights, or give the path of its config.json to reuse its shape."
        )
    for name in overrides:
        if not hasattr(config, name):
            nearest = get_close_matches(name, MiniConfig.__dataclass_fields__, n=1, cutoff=0)[0]
            raise UserError(f"--config_overrides: there is no field {name!r}; the nearest is {nearest!r}.")
    if not isinstance(config, MiniConfig):
        raise UserError(f"{source} is a {config.model_type} model; train.py builds modeling_mini models.")
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


def load_tokenizer(
    model_args: ModelArguments,
    training_args: MiniTrainingArguments,
    config: MiniConfig,
    task: Task,
    examples: Examples,
) -> PreTrainedTokenizerBase:
    """The tokenizer of `--tokenizer`, of `--init_from`, or of the resumed run; otherwise a new one.

    The first process trains a new tokenizer on the examples and saves it, and the other processes load it. Raises
    `UserError` if a tokenizer cannot be loaded.
    """
    saved = Path(training_args.output_dir) / "tokenizer.json"
    is_saved = saved.exists() and (training_args.is_resumed or training_args.process_index > 0)
    source = model_args.tokenizer or model_args.init_from or (training_args.output_dir if is_saved else None)
    if source is not None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # a damaged file can raise any exception of its parser
            raise UserError(f"The tokenizer of {source} could not be loaded: {str(error).splitlines()[0]}") from error
        tokenizer.model_max_length = config.max_position_embeddings
        return tokenizer
    logger.info("Training a %s tokenizer of up to %d tokens", model_args.tokenizer_kind, config.vocab_size)
    if isinstance(examples, IterableDataset):
        examples = examples.take(TOKENIZER_DOCUMENTS)
    tokenizer = train_tokenizer(
        task.texts(examples),
        model_args.tokenizer_kind,
        config.vocab_size,
        model_max_length=config.max_position_embeddings,
    )
    if training_args.should_save:
        tokenizer.save_pretrained(training_args.output_dir)
    return tokenizer


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
        raise UserError(f"--attn_implementation {args.attn_implementation}: {error}") from error
    if model.device.type == "meta":
        # accelerate identifies the optimizer's parameters by their address. An empty tensor has an address, and takes
        # no memory until it is written.
        model.to_empty(device="cpu").tie_weights()
    return model


def load_weights(task: Task, config: MiniConfig, args: ModelArguments) -> PreTrainedModel:
    """The task's model with the weights of a checkpoint. Raises `UserError` if their shapes differ."""
    try:
        return task.model_class.from_pretrained(
            args.init_from, config=config, attn_implementation=args.attn_implementation
        )
    except OSError as error:
        raise UserError(f"--init_from {args.init_from}: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:  # a size mismatch; the text of the error is a long table of shapes
        raise UserError(
            f"--init_from {args.init_from} holds weights of other shapes; leave sizes out of --config_overrides, and "
            "start a classifier with other labels from the language model it was fine-tuned from."
        ) from error
