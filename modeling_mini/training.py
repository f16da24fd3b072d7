"""A recipe in, a trained, evaluated, shareable model out. `train()` is the whole flow, top to bottom."""

import errno
import json
import logging
import math
import shlex
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    EvalPrediction,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    default_data_collator,
    set_seed,
)

from .arguments import DataArguments, MiniTrainingArguments, ModelArguments, parse_arguments
from .checkpoints import check_free_space, check_output_dir, latest_complete_checkpoint
from .configuration_mini import MiniConfig
from .data import PackedText, check_training_rows, load_documents, pack
from .errors import UserError
from .modeling_mini import IGNORED_LABEL, MiniForCausalLM
from .optim import MuonAdamWFactory
from .presets import preset_path
from .report import write_report
from .tokenization import train_tokenizer


logger = logging.getLogger(__name__)

TOKENIZER_DOCUMENTS = 20_000  # of a stream; a stored corpus is read whole
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def train(argv: list[str]) -> None:
    """Run a recipe. Raises `UserError` for whatever the user can mend, and `Interrupted` after a signal."""
    model_args, data_args, training_args = parse_arguments(argv)
    check_output_dir(training_args.output_dir, training_args.resume)
    config = load_config(model_args)
    if data_args.streaming and training_args.max_steps <= 0:
        raise UserError("--streaming has no end to an epoch; say how long to train with --max_steps.")
    set_seed(training_args.seed)

    with training_args.main_process_first(desc="data"):
        train_documents, validation_documents = load_documents(data_args)
        tokenizer = load_tokenizer(model_args, training_args, config, train_documents)
        train_text = pack(train_documents, tokenizer, data_args, "training")
        validation_text = pack(validation_documents, tokenizer, data_args, "validation")
    check_training_rows(train_text, data_args)

    model = build_model(config, tokenizer, data_args.block_size, model_args.attn_implementation)
    check_free_space(training_args.output_dir, model.num_parameters())
    checkpoint = resume_point(model_args, data_args, training_args)
    describe(model, train_text, validation_text, data_args, training_args)

    stop, speed = StopOnSignal(), Throughput()
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_text.rows,
        eval_dataset=validation_text.rows,
        processing_class=tokenizer,
        data_collator=default_data_collator,
        compute_metrics=TextMetrics(validation_text.num_bytes),
        preprocess_logits_for_metrics=target_nll,
        optimizer_cls_and_kwargs=muon_and_adamw(training_args) if training_args.use_muon else None,
        callbacks=[stop, speed, StopOnNaN()],
    )
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    stop.raise_if_stopped(trainer.state.global_step, argv)

    trainer.save_model()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        metrics["tokens_per_second"] = speed.tokens_per_second(tokens_per_update(data_args, training_args))
        write_report(trainer, tokenizer, metrics, model_args, data_args, training_args, train_text)


def load_config(args: ModelArguments) -> MiniConfig:
    """Config of a preset or path with the overrides applied. Raises `UserError` for what MiniConfig refuses."""
    overrides = args.overrides()
    try:
        config = AutoConfig.from_pretrained(preset_path(args.model), **overrides)
    except ValueError as error:
        raise UserError(f"--model {error}") from error
    except StrictDataclassError as error:
        raise UserError(f"--model {args.model}: {error.__cause__ or error}") from error
    unknown = [name for name in overrides if not hasattr(config, name)]
    if unknown:
        raise UserError(f"--config_overrides: MiniConfig has no field {', '.join(map(repr, unknown))}.")
    if not isinstance(config, MiniConfig):
        raise UserError(f"--model {args.model} is a {config.model_type} model; train.py builds modeling_mini models.")
    if not config.is_causal:
        raise UserError(
            f"--model {args.model} has is_causal=False, and this recipe predicts the next word, which such a model "
            "sees; choose a causal preset."
        )
    return config


def load_tokenizer(
    model_args: ModelArguments, training_args: MiniTrainingArguments, config: MiniConfig, documents
) -> PreTrainedTokenizerBase:
    """The tokenizer that is named, that of the run which is resumed, or a new one trained on the documents.

    The first process trains and saves it, and the others load it.
    """
    saved = Path(training_args.output_dir) / "tokenizer.json"
    is_there = saved.exists() and (training_args.resume or training_args.process_index > 0)
    if model_args.tokenizer is not None or is_there:
        source = model_args.tokenizer or training_args.output_dir
        try:
            return AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise UserError(f"--tokenizer {source} could not be loaded: {str(error).splitlines()[0]}") from error
    logger.info("Training a %s tokenizer of up to %d tokens", model_args.tokenizer_kind, config.vocab_size)
    texts = (document["text"] for document in documents.take(TOKENIZER_DOCUMENTS))
    tokenizer = train_tokenizer(
        texts, model_args.tokenizer_kind, config.vocab_size, model_max_length=config.max_position_embeddings
    )
    if training_args.should_save:
        tokenizer.save_pretrained(training_args.output_dir)
    return tokenizer


def build_model(
    config: MiniConfig, tokenizer: PreTrainedTokenizerBase, block_size: int, attn_implementation: str | None = None
) -> MiniForCausalLM:
    """A new model whose vocabulary and special tokens are the tokenizer's and whose context holds a row."""
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    config.max_position_embeddings = max(config.max_position_embeddings, block_size)
    try:
        config.validate()
        return MiniForCausalLM._from_config(config, attn_implementation=attn_implementation)
    except StrictDataclassError as error:
        raise UserError(f"Tokenizer and model do not fit together: {error.__cause__}") from error
    except (ImportError, ValueError) as error:
        raise UserError(f"--attn_implementation {attn_implementation}: {error}") from error


def resume_point(
    model_args: ModelArguments, data_args: DataArguments, training_args: MiniTrainingArguments
) -> Path | None:
    """The checkpoint to continue from, or None for a new run, whose arguments are then kept beside its checkpoints.

    Raises:
        UserError: the run to continue was started with another model or other data.
    """
    recorded = Path(training_args.output_dir) / "run.json"
    arguments = {"model": asdict(model_args), "data": asdict(data_args)}
    checkpoint = latest_complete_checkpoint(training_args.output_dir) if training_args.resume else None
    if checkpoint is not None and recorded.exists():
        earlier = json.loads(recorded.read_text(encoding="utf-8"))
        for group, values in arguments.items():
            for name, value in values.items():
                if earlier[group].get(name) != value:
                    raise UserError(
                        f"{recorded} says that this run was started with --{name} {earlier[group].get(name)}, and now "
                        f"it is {value}; resume with the same arguments, or choose another --output_dir."
                    )
    if training_args.should_save:
        recorded.write_text(json.dumps(arguments, indent=2) + "\n", encoding="utf-8")
    if checkpoint is not None:
        logger.info("Continuing from %s", checkpoint)
    elif training_args.resume:
        logger.info("No complete checkpoint in %s: starting from the beginning", training_args.output_dir)
    return checkpoint


def tokens_per_update(data_args: DataArguments, args: MiniTrainingArguments) -> int:
    """Tokens that one optimizer step sees, over all devices and accumulated batches."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size * data_args.block_size


def describe(
    model: MiniForCausalLM, train_text: PackedText, validation_text: PackedText, data_args: DataArguments, args
) -> None:
    """Say what is about to be trained, on what, and how much of it one update sees."""
    if not args.should_log:
        return
    logger.info("Model: %s parameters", f"{model.num_parameters():,}")
    for name, text in (("Training", train_text), ("Validation", validation_text)):
        if text.num_tokens is not None:
            logger.info(
                "%s text: %s documents, %s bytes, %s tokens, %s rows of %d",
                name,
                *(f"{n:,}" for n in (text.num_documents, text.num_bytes, text.num_tokens, len(text.rows))),
                data_args.block_size,
            )
    logger.info(
        "Tokens per update: %s (%d rows x %d accumulated x %d devices x %d tokens)",
        f"{tokens_per_update(data_args, args):,}",
        args.train_batch_size,
        args.gradient_accumulation_steps,
        args.world_size,
        data_args.block_size,
    )


def muon_and_adamw(args: MiniTrainingArguments) -> tuple[type, dict]:
    """`optimizer_cls_and_kwargs` for the Trainer."""
    return MuonAdamWFactory, {
        "muon_learning_rate": args.muon_learning_rate,
        "muon_momentum": args.muon_momentum,
        "learning_rate": args.learning_rate,
        "betas": (args.adam_beta1, args.adam_beta2),
        "eps": args.adam_epsilon,
        "weight_decay": args.weight_decay,
    }


def target_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Logits `[B, T, V]` and labels `[B, T]` -> `[B, 2]`: summed nats and number of targets of each row.

    Only these two numbers a row are gathered from the devices, never the logits.
    """
    targets = labels[:, 1:]
    nll = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), targets, ignore_index=IGNORED_LABEL, reduction="none"
    )  # [B, T - 1]
    return torch.stack([nll.sum(-1), (targets != IGNORED_LABEL).sum(-1)], dim=-1)


class TextMetrics:
    """Loss in nats per token, perplexity, and bits per byte, each over all targets rather than a mean of batches."""

    def __init__(self, num_bytes: int):
        self.num_bytes = num_bytes

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        nats, targets = np.asarray(prediction.predictions, dtype=np.float64).sum(axis=0)
        loss = nats / targets
        return {
            "token_loss": loss,
            "perplexity": math.exp(min(loss, 700)),  # beyond, a float overflows
            "bits_per_byte": nats / math.log(2) / self.num_bytes,
        }


class Interrupted(Exception):
    """Training stopped on a signal, after a checkpoint."""

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopOnSignal(TrainerCallback):
    """On Ctrl-C or SIGTERM: finish the update, write a checkpoint, stop. A second signal stops at once.

    In a run of several processes each may get the signal at another update, so there the last regular checkpoint is
    what a resumed run starts from.
    """

    def __init__(self):
        self.signal_number = None
        self._previous = {}

    def on_train_begin(self, args, state, control, **kwargs):
        if args.world_size == 1:
            self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number, frame):
        logger.warning("%s: finishing this update and writing a checkpoint", signal.Signals(number).name)
        self.signal_number = number
        self._restore()

    def _restore(self):
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def on_step_end(self, args, state, control, **kwargs):
        if self.signal_number is not None:
            control.should_save = True
            control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        self._restore()

    def raise_if_stopped(self, step: int, argv: list[str]) -> None:
        """Raise `Interrupted` with the command that continues the run."""
        if self.signal_number is None:
            return
        command = shlex.join([sys.argv[0], *argv] + ([] if "--resume" in argv else ["--resume"]))
        raise Interrupted(
            f"Stopped after update {step}, with a checkpoint. Continue with: {command}", self.signal_number
        )


class StopOnNaN(TrainerCallback):
    """Ends a run whose loss is no longer a number."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise UserError(
                f"The loss is {loss} at update {state.global_step}; lower --learning_rate (and --muon_learning_rate), "
                "or warm up longer with --warmup_steps, and start again."
            )


class Throughput(TrainerCallback):
    """Time of the updates alone, with their data: without evaluation, checkpoints, and the first, slower update."""

    def __init__(self):
        self.seconds, self.updates, self._mark = 0.0, 0, None

    def on_step_end(self, args, state, control, **kwargs):
        now = time.perf_counter()
        if self._mark is not None:
            self.seconds += now - self._mark
            self.updates += 1
        self._mark = now

    def _pause(self, args, state, control, **kwargs):
        self._mark = None

    on_evaluate = on_save = on_epoch_begin = _pause

    def tokens_per_second(self, tokens_per_update: int) -> float | None:
        return tokens_per_update * self.updates / self.seconds if self.updates else None


def main(argv: list[str] | None = None) -> int:
    """`train()` as a command: every foreseen failure ends in one sentence and an exit code, without a traceback."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("modeling_mini").setLevel(logging.INFO)
    try:
        train(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        logger.error("Error: %s", error)
        return 1
    except Interrupted as stopped:
        logger.warning("%s", stopped)
        return stopped.exit_code
    except KeyboardInterrupt:
        logger.warning("Stopped.")
        return 128 + signal.SIGINT
    except Exception as error:
        if not _is_disk_full(error):
            raise
        logger.error(
            "Error: the disk is full, and the last file could not be written whole (%s); free some space and "
            "continue with --resume from the last complete checkpoint.",
            error,
        )
        return 1
    return 0


def _is_disk_full(error: BaseException) -> bool:
    """Whether writing failed for want of space; torch and safetensors raise errors of their own kinds for it."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return True
    text = str(error)
    return any(
        words in text for words in ("No space left", "File too large", "PytorchStreamWriter failed", "quota exceeded")
    )
