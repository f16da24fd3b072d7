"""A recipe in, a trained, evaluated, shareable model out. `train()` is the whole flow, top to bottom."""

import errno
import logging
import math
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import torch
from datasets import IterableDataset
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoConfig,
    AutoTokenizer,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerState,
    set_seed,
)
from transformers.integrations import is_fsdp_enabled
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import get_model_param_count

from .arguments import DataArguments, MiniTrainingArguments, ModelArguments, parse_arguments
from .checkpoints import (
    ROWS,
    WorldSize,
    check_checkpoint,
    check_free_space,
    check_output_dir,
    check_same_run,
    latest_complete_checkpoint,
    set_aside,
    written_by,
)
from .configuration_mini import MiniConfig
from .data import Examples
from .divided import DDP, FSDP_SHARDED, divide, divided_by, save_whole_model
from .errors import UserError
from .hub import push
from .metrics import TextLoss
from .optim import MuonAdamWFactory
from .packing import EncodedData
from .presets import preset_path
from .report import write_report
from .repository import Repository
from .task import Task
from .tasks import task_class
from .tokenization import train_tokenizer


logger = logging.getLogger(__name__)

TOKENIZER_DOCUMENTS = 20_000  # of a stream; a stored corpus is read whole
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def train(argv: list[str], command: tuple[str, ...] = ("python", "train.py")) -> None:
    """Run a recipe. `command` is what started it, for the line that continues it.

    Raises:
        UserError: whatever the user can mend.
        Interrupted: after a signal and a checkpoint.
    """
    model_args, data_args, training_args = parse_arguments(argv)
    check_arguments(data_args, training_args)
    check_same_run(
        training_args.output_dir,
        fixed_arguments(model_args, data_args, training_args),
        training_args.is_resumed,
        write=training_args.should_save,
    )
    if training_args.push_to_hub and training_args.should_save:
        prepare_repository(training_args)
    checkpoint = resume_point(training_args)
    finished = checkpoint is not None and is_finished(checkpoint, training_args)
    task = task_class(data_args.task)(data_args)
    config = load_config(model_args, task)
    set_seed(training_args.seed)

    with training_args.main_process_first(local=False, desc="data"):
        examples = task.load()
        task.configure(config, examples["train"])
        tokenizer = load_tokenizer(model_args, training_args, config, task, examples["train"])
        task.check(tokenizer, training_args.prompt, max(config.max_position_embeddings, data_args.block_size))
        train_data = task.encode(examples["train"], tokenizer, "training")
        validation_data = task.encode(examples["validation"], tokenizer, "validation")
    warn_about_unknown_tokens(validation_data, tokenizer)

    if finished and written_by(checkpoint) == DDP:
        model = task.model_class.from_pretrained(checkpoint)
    else:
        model = build_model(task, config, tokenizer, model_args)
    check_free_space(training_args.output_dir, get_model_param_count(model))
    describe(model, train_data, validation_data, training_args)

    stop, speed = StopOnSignal(), Throughput()
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_data.rows,
        eval_dataset=validation_data.rows,
        processing_class=tokenizer,
        data_collator=task.collator(tokenizer),
        compute_metrics=RowLoss(validation_data.num_bytes if task.counts_bytes else None),
        preprocess_logits_for_metrics=task.row_loss,
        optimizer_cls_and_kwargs=muon_and_adamw(training_args) if training_args.use_muon else None,
        callbacks=[stop, speed, StopOnNaN(), WorldSize()],
    )
    if finished:  # only its report is missing; the Trainer would take one more update
        if trainer.is_fsdp_enabled:
            divide(trainer, checkpoint)
        trainer.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    stop.raise_if_stopped(trainer.state.global_step, [*command, *argv])

    metrics = trainer.evaluate()
    save_whole_model(trainer)
    metrics["tokens_per_update"] = tokens_per_update(train_data, training_args)
    metrics["tokens_per_second"] = speed.tokens_per_second(metrics["tokens_per_update"])
    set_seed(training_args.seed)
    # By every process, which may hold a shard of the model.
    scores, sample = task.report(trainer.model, tokenizer, examples["validation"], training_args.prompt)
    if trainer.is_world_process_zero():
        model_class = task.model_class.__name__
        write_report(trainer, model_class, metrics, scores, sample, model_args, data_args, training_args, train_data)
        if training_args.push_to_hub:
            push_result(training_args, trainer.hub_model_id)
    trainer.accelerator.wait_for_everyone()  # whoever ends early may take the others, and the report, along
    trainer.accelerator.end_training()


def check_arguments(data_args: DataArguments, args: MiniTrainingArguments) -> None:
    """Refuse what would fail or mislead only after long work. Raises `UserError`."""
    check_output_dir(args.output_dir, args.is_resumed)
    if data_args.streaming and args.max_steps <= 0:
        raise UserError("--streaming has no end to an epoch; say how long to train with --max_steps.")
    if args.save_on_each_node:
        raise UserError("--save_on_each_node would leave each machine parts of a checkpoint; share --output_dir.")
    if args.dataloader_drop_last:
        raise UserError("--dataloader_drop_last would leave validation rows out of the bits per byte; leave it off.")
    if args.use_muon and args.deepspeed_plugin is not None:
        raise UserError(
            "DeepSpeed divides matrices into flat pieces, and Muon orthogonalises whole ones; train with --use_muon "
            "false, or divide the model with FSDP2."
        )
    if args.use_muon and os.environ.get("FSDP_OFFLOAD_PARAMS") == "true":
        raise UserError(
            "Weights are kept in the memory of the host, and Muon orthogonalises on the device; train with --use_muon "
            "false."
        )


def prepare_repository(args: MiniTrainingArguments) -> None:
    """Make the repository that the run pushes to ready for the first checkpoint. Raises `UserError`."""
    repo_id = args.hub_model_id or Path(args.output_dir).absolute().name
    if "/" not in repo_id:
        user = Repository(f"USER/{repo_id}", token=args.hub_token)
        repo_id = f"{user.ask(user.api.whoami)['name']}/{repo_id}" if user.has_token else user.id
    repository = Repository(repo_id, args.hub_revision, token=args.hub_token)
    repository.check_login()
    repository.check_visibility(bool(args.hub_private_repo))
    repository.create(bool(args.hub_private_repo))
    if divided_by(args) == FSDP_SHARDED:
        logger.warning("Checkpoints are sharded: while this run trains, its commits hold no weights. The last does.")


def push_result(args: MiniTrainingArguments, repo_id: str) -> None:
    """Push the report with the model, and verify both. Raises `UserError`, with the command that does it again."""
    words = ["push", args.output_dir, repo_id]
    try:
        if args.deepspeed_plugin is not None:
            push_apart(args, words)
            return
        push(
            args.output_dir,
            repo_id,
            private=bool(args.hub_private_repo),
            revision=args.hub_revision,
            token=args.hub_token,
        )
    except UserError as error:
        again = shlex.join(["modeling-mini", *words])
        raise UserError(f"{error} The model is in {args.output_dir}; share it with: {again}") from error


def push_apart(args: MiniTrainingArguments, words: list[str]) -> None:
    """Push in a new process: DeepSpeed changes for good how one computes, and what arrives is compared bit for bit."""
    words = [*words, *(["--private"] if args.hub_private_repo else [])]
    words += ["--revision", args.hub_revision] if args.hub_revision else []
    environment = os.environ | ({"HF_TOKEN": args.hub_token} if args.hub_token else {})
    environment.pop("ACCELERATE_USE_DEEPSPEED", None)
    program = "from modeling_mini.cli import main; raise SystemExit(main())"
    if subprocess.run([sys.executable, "-c", program, *words], env=environment, check=False).returncode != 0:
        raise UserError("The model could not be pushed, for the reason above.")


def fixed_arguments(
    model_args: ModelArguments, data_args: DataArguments, args: MiniTrainingArguments
) -> dict[str, dict]:
    """What a resumed run must have in common with the run that it continues.

    Of the batch that is the rows of an update: where the data go on is counted in updates.
    """
    names = ["seed", "use_muon", "optim", "train_sampling_strategy"]
    if args.train_sampling_strategy == "group_by_length":  # whose order depends on the batch of a process
        names += ["per_device_train_batch_size", "gradient_accumulation_steps"]
    training = {name: str(getattr(args, name)) for name in names}
    training[ROWS] = rows_per_update(args)
    return {"model": asdict(model_args), "data": asdict(data_args), "training": training}


def load_config(args: ModelArguments, task: Task) -> MiniConfig:
    """Config of a preset, path or checkpoint with the overrides applied. Raises `UserError` for what is refused."""
    overrides = args.overrides()
    source = f"--init_from {args.init_from}" if args.init_from else f"--model {args.model}"
    try:
        config = AutoConfig.from_pretrained(args.init_from or preset_path(args.model), **overrides)
    except OSError as error:  # a folder without a config.json, or one that is not JSON
        is_remote = args.init_from and not Path(args.init_from).exists()
        found = " there is no such folder, and on the Hub:" if is_remote else ""
        raise UserError(f"{source}:{found} {str(error).splitlines()[0]}") from error
    except ValueError as error:
        raise UserError(f"{source}: {error}" if args.init_from else f"--model {error}") from error
    except StrictDataclassError as error:
        raise UserError(f"{source}: {error.__cause__ or error}") from error
    if not args.init_from and any(Path(args.model).glob("*.safetensors")):
        raise UserError(
            f"--model {args.model} holds trained weights, and training starts from new ones; to start from its "
            "weights, give it to --init_from, and to reuse its shape, give the path of its config.json."
        )
    for name in overrides:
        if not hasattr(config, name):
            nearest = get_close_matches(name, MiniConfig.__dataclass_fields__, n=1, cutoff=0)[0]
            raise UserError(f"--config_overrides: there is no field {name!r}; the nearest is {nearest!r}.")
    if not isinstance(config, MiniConfig):
        raise UserError(f"{source} is a {config.model_type} model; train.py builds modeling_mini models.")
    task.configure(config)
    return config


def load_tokenizer(
    model_args: ModelArguments,
    training_args: MiniTrainingArguments,
    config: MiniConfig,
    task: Task,
    examples: Examples,
) -> PreTrainedTokenizerBase:
    """The tokenizer that is named, that of the run or model which is continued, or a new one trained on the examples.

    The first process trains and saves it, and the others load it. Raises `UserError` if it cannot be loaded.
    """
    saved = Path(training_args.output_dir) / "tokenizer.json"
    is_there = saved.exists() and (training_args.is_resumed or training_args.process_index > 0)
    source = model_args.tokenizer or model_args.init_from or (training_args.output_dir if is_there else None)
    if source is not None:
        try:
            return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        except Exception as error:  # a damaged file raises whatever its parser raises
            raise UserError(f"--tokenizer {source} could not be loaded: {str(error).splitlines()[0]}") from error
    logger.info("Training a %s tokenizer of up to %d tokens", model_args.tokenizer_kind, config.vocab_size)
    if isinstance(examples, IterableDataset):
        examples = examples.take(TOKENIZER_DOCUMENTS)
    tokenizer = train_tokenizer(
        task.texts(examples),
        model_args.tokenizer_kind,
        config.vocab_size,
        model_max_length=max(config.max_position_embeddings, task.args.block_size),
    )
    if training_args.should_save:
        tokenizer.save_pretrained(training_args.output_dir)
    return tokenizer


def warn_about_unknown_tokens(data: EncodedData, tokenizer: PreTrainedTokenizerBase) -> None:
    """Say that a tokenizer which writes one unknown token for many characters loses text and flatters the loss."""
    if tokenizer.unk_token_id is None:
        return
    rows = data.rows.with_format("numpy")["input_ids"]
    unknown = sum(int((row == tokenizer.unk_token_id).sum()) for row in rows)
    if unknown:
        logger.warning(
            "%d tokens of the validation text are unknown to the tokenizer and count as one cheap token each: the "
            "loss will be too low. A larger vocabulary or --tokenizer_kind bpe avoids it.",
            unknown,
        )


def build_model(
    task: Task, config: MiniConfig, tokenizer: PreTrainedTokenizerBase, args: ModelArguments
) -> PreTrainedModel:
    """A model whose vocabulary and special tokens are the tokenizer's and whose context holds a row.

    With the weights of `--init_from`, if it is given; a head that it does not hold starts new.
    """
    if args.init_from and config.vocab_size != len(tokenizer):
        raise UserError(
            f"--init_from {args.init_from}: the model is to have a vocabulary of {config.vocab_size}, and its "
            f"tokenizer has {len(tokenizer)}; leave --tokenizer out, and vocab_size out of --config_overrides."
        )
    config.vocab_size = len(tokenizer)
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    config.max_position_embeddings = max(config.max_position_embeddings, task.args.block_size)
    try:
        config.pad_token_id = tokenizer.pad_token_id
        config.validate()
        if args.init_from:
            model = load_weights(task, config, args)
        else:
            # FSDP copies the weights of the first process; the others need only names and shapes.
            is_copied = is_fsdp_enabled() and torch.distributed.get_rank() > 0
            with torch.device("meta") if is_copied else nullcontext():
                model = task.model_class._from_config(config, attn_implementation=args.attn_implementation)
    except StrictDataclassError as error:
        raise UserError(f"Tokenizer and model do not fit together: {error.__cause__}") from error
    except (ImportError, ValueError) as error:
        raise UserError(f"--attn_implementation {args.attn_implementation}: {error}") from error
    if model.device.type == "meta":
        # Addresses, by which accelerate finds what the optimizer updates: no memory is taken before it is written to.
        model.to_empty(device="cpu").tie_weights()
    return model


def load_weights(task: Task, config: MiniConfig, args: ModelArguments) -> PreTrainedModel:
    """The task's model with the weights of a checkpoint. Raises `UserError` where their shapes do not fit."""
    try:
        return task.model_class.from_pretrained(
            args.init_from, config=config, attn_implementation=args.attn_implementation
        )
    except OSError as error:
        raise UserError(f"--init_from {args.init_from}: {str(error).splitlines()[0]}") from error
    except RuntimeError as error:  # a size mismatch, whose table of shapes follows in later lines
        raise UserError(
            f"--init_from {args.init_from} holds weights of other shapes; leave sizes out of --config_overrides, and "
            "start a classifier with other labels from the model that it was fine-tuned from."
        ) from error


def resume_point(args: MiniTrainingArguments) -> str | None:
    """The checkpoint to continue from, or None for a new run. Raises `UserError` if this run cannot read it."""
    if not args.is_resumed:
        return None
    checkpoint = args.resume_from_checkpoint or latest_complete_checkpoint(args.output_dir)
    if checkpoint is None:
        logger.warning("No complete checkpoint in %s: starting from the beginning", args.output_dir)
        if args.should_save:
            set_aside(args.output_dir)
        return None
    check_checkpoint(checkpoint, args)
    logger.info("Continuing from %s", checkpoint)
    return str(checkpoint)


def is_finished(checkpoint: str, args: MiniTrainingArguments) -> bool:
    """Whether a checkpoint stands at the end of the run, killed before its report.

    Raises:
        UserError: the report is there as well, so that nothing is left to do; or DeepSpeed, which evaluates no model
            before it has trained it, would have to write it.
    """
    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    end = args.max_steps if args.max_steps > 0 else state.max_steps
    if state.global_step < end:
        return False
    if (Path(args.output_dir) / "metrics.json").exists():
        raise UserError(
            f"The run in {args.output_dir} is finished ({state.global_step} of {end} updates); choose another "
            "--output_dir for a new one, or a larger --max_steps to go on."
        )
    if args.deepspeed_plugin is not None:
        raise UserError(
            f"The run in {args.output_dir} is finished, and DeepSpeed cannot write the report that is missing; the "
            f"model is in {checkpoint}: score it with modeling-mini eval {checkpoint}, or go on with a larger "
            "--max_steps."
        )
    return True


def rows_per_update(args: MiniTrainingArguments) -> int:
    """Rows that one optimizer step sees, over all devices and accumulated batches."""
    return args.train_batch_size * args.gradient_accumulation_steps * args.world_size


def tokens_per_update(data: EncodedData, args: MiniTrainingArguments) -> int:
    """Tokens that one optimizer step sees, over all devices and accumulated batches; a mean where rows differ."""
    return rows_per_update(args) * data.row_length


def describe(
    model: PreTrainedModel, train_data: EncodedData, validation_data: EncodedData, args: MiniTrainingArguments
) -> None:
    """Say what is about to be trained, on what, and how much of it one update sees."""
    if not args.should_log:
        return
    logger.info("Model: %s parameters", f"{get_model_param_count(model):,}")
    for name, data in (("Training", train_data), ("Validation", validation_data)):
        if data.num_tokens is not None:
            logger.info(
                "%s text: %s documents, %s bytes, %s tokens, %s rows of %d",
                name,
                *(f"{n:,}" for n in (data.num_documents, data.num_bytes, data.num_tokens, len(data.rows))),
                data.row_length,
            )
    logger.info(
        "Tokens per update: %s (%d rows x %d accumulated x %d devices x %d tokens)",
        f"{tokens_per_update(train_data, args):,}",
        args.train_batch_size,
        args.gradient_accumulation_steps,
        args.world_size,
        train_data.row_length,
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


class RowLoss:
    """`compute_metrics` of the Trainer: `TextLoss` of what `Task.row_loss` gathered."""

    def __init__(self, num_bytes: int | None = None):
        self.num_bytes = num_bytes
        self.metric = TextLoss(keep_in_memory=True)  # the Trainer has gathered from all processes

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        nats, targets = np.asarray(prediction.predictions, dtype=np.float64).T
        return self.metric.compute(nats=nats, targets=targets.astype(int), num_bytes=self.num_bytes)


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

    def raise_if_stopped(self, step: int, command: list[str]) -> None:
        """Raise `Interrupted` with the command that continues the run."""
        if self.signal_number is None:
            return
        continued = shlex.join([*without_token(command), *([] if "--resume" in command else ["--resume"])])
        raise Interrupted(
            f"Stopped after update {step}, with a checkpoint. Continue with: {continued}", self.signal_number
        )


def without_token(command: list[str]) -> list[str]:
    """A command line with the value of --hub_token left for the user to fill in, because it may end up in a log."""
    hidden = []
    for argument in command:
        if hidden and re.fullmatch("--hub[_-]token", hidden[-1]):
            argument = "TOKEN"
        hidden.append(re.sub(r"(?s)^(--hub[_-]token)=.*", r"\1=TOKEN", argument))
    return hidden


class StopOnNaN(TrainerCallback):
    """Ends a run whose loss or gradient is no longer a number."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in ("loss", "grad_norm", "eval_token_loss"):
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                raise UserError(
                    f"The {name} is {value} at update {state.global_step}; lower --learning_rate (and "
                    "--muon_learning_rate), or warm up longer with --warmup_steps, and start again."
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


def main(argv: list[str] | None = None, command: tuple[str, ...] = ("python", "train.py")) -> int:
    """`train()` as a command: every foreseen failure ends in one sentence and an exit code, without a traceback."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("modeling_mini").setLevel(logging.INFO)
    try:
        train(sys.argv[1:] if argv is None else argv, command)
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
