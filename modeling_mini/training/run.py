"""Turns a recipe into a trained and evaluated model. `train()` is the whole flow, from top to bottom."""

import errno
import logging
import signal
import sys
from pathlib import Path

from transformers import PreTrainedModel, Trainer, set_seed
from transformers.trainer_pt_utils import get_model_param_count

from ..checkpoints import DDP, WorldSize, trainer_state, written_by
from ..data.packing import EncodedData
from ..errors import UserError
from ..model_folders import open_model
from ..tasks import task_class
from ..tasks.base import TaskArguments
from .arguments import MiniTrainingArguments, ModelArguments, parse_arguments
from .building import build_model, load_config, load_tokenizer, warn_about_unknown_tokens
from .callbacks import Interrupted, RowLoss, StopOnNaN, StopOnSignal, Throughput
from .distributed import save_whole_model, shard
from .locking import locked
from .optim import optimizer_of
from .report import write_report
from .resuming import (
    check_free_space,
    check_output_dir,
    check_run_of_checkpoint,
    check_same_rows,
    check_same_run,
    fixed_arguments,
    is_finished,
    resume_point,
)
from .sharing import prepare_repository, push_result


logger = logging.getLogger(__name__)

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def train(argv: list[str], command: tuple[str, ...] = ("python", "train.py")) -> None:
    """Run a recipe: train, evaluate, save, report, push.

    Args:
        argv: `[RECIPE] [--argument value ...]`.
        command: the words before `argv`, for the message that says how to continue an interrupted run.

    Raises:
        UserError: anything that the user can fix.
        Interrupted: a signal stopped the run, after a checkpoint.
    """
    model_args, data_args, training_args = parse_arguments(argv)
    with locked(training_args.output_dir, training_args.should_save):
        run(model_args, data_args, training_args, [*command, *argv])


def run(
    model_args: ModelArguments, data_args: TaskArguments, training_args: MiniTrainingArguments, command: list[str]
) -> None:
    """The run with parsed arguments; `command` is the command line. Raises the same errors as `train`."""
    check_arguments(data_args, training_args)
    task = task_class(data_args.task)(data_args)
    config = load_config(model_args, task, training_args)
    arguments = fixed_arguments(model_args, data_args, training_args)
    check_run_of_checkpoint(training_args, arguments)
    check_same_run(training_args.output_dir, arguments, training_args.is_resumed, write=training_args.should_save)
    if training_args.push_to_hub and training_args.should_save:
        prepare_repository(training_args)
    checkpoint = resume_point(training_args)
    finished = checkpoint is not None and is_finished(checkpoint, training_args)
    set_seed(training_args.seed)

    with training_args.main_process_first(local=False, desc="data"):
        examples = task.load()
        task.configure(config, examples["train"])
        tokenizer = load_tokenizer(model_args, training_args, config, task, examples["train"])
        task.check(tokenizer, training_args.prompt, max(config.max_position_embeddings, data_args.block_size))
        train_data = task.encode(examples["train"], tokenizer, "training")
        validation_data = task.encode(examples["validation"], tokenizer, "validation")
    warn_about_unknown_tokens(validation_data, tokenizer)
    check_same_rows(training_args, getattr(train_data, "fingerprint", None))

    if finished and written_by(checkpoint) == DDP:
        model = open_model(Path(checkpoint), task.model_class, checkpoint)
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
        optimizer_cls_and_kwargs=optimizer_of(training_args).for_trainer(training_args),
        callbacks=[stop, speed, StopOnNaN(), WorldSize()],
    )
    if finished:  # only the report is missing, and `trainer.train` would run one more update
        if trainer.is_fsdp_enabled:
            shard(trainer, checkpoint)
        trainer.state = trainer_state(checkpoint)
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    stop.raise_if_stopped(trainer.state.global_step, command)

    metrics = trainer.evaluate()
    save_whole_model(trainer)
    metrics["tokens_per_update"] = tokens_per_update(train_data, training_args)
    metrics["tokens_per_second"] = speed.tokens_per_second(metrics["tokens_per_update"])
    set_seed(training_args.seed)
    # All processes compute the report, because each may hold a shard of the model.
    scores, sample = task.report(trainer.model, tokenizer, examples["validation"], training_args.prompt)
    if trainer.is_world_process_zero():
        model_class = task.model_class.__name__
        write_report(trainer, model_class, metrics, scores, sample, model_args, data_args, training_args, train_data)
        if training_args.push_to_hub:
            push_result(training_args, trainer.hub_model_id)
    trainer.accelerator.wait_for_everyone()  # a process that exits early may abort the report
    trainer.accelerator.end_training()


def check_arguments(data_args: TaskArguments, args: MiniTrainingArguments) -> None:
    """Refuse arguments that would fail, or give wrong results, after long work. Raises `UserError`."""
    check_output_dir(args.output_dir, args.is_resumed, args.resume_from_checkpoint)
    if data_args.streaming and args.max_steps <= 0:
        raise UserError("--streaming: a stream has no epochs; set the length of the training with --max_steps.")
    if args.save_on_each_node:
        raise UserError(
            "--save_on_each_node would write a part of each checkpoint on each machine; use a shared --output_dir."
        )
    if args.dataloader_drop_last:
        raise UserError("--dataloader_drop_last would drop validation rows from the metrics; leave it out.")
    optimizer_of(args).check(args)


def describe(
    model: PreTrainedModel, train_data: EncodedData, validation_data: EncodedData, args: MiniTrainingArguments
) -> None:
    """Log the sizes of model and data, and the number of tokens in one update."""
    if not args.should_log:
        return
    logger.info("Model: %s parameters", f"{get_model_param_count(model):,}")
    for name, data in (("Training", train_data), ("Validation", validation_data)):
        if data.num_tokens is not None:
            logger.info(
                "%s text: %s documents, %s bytes, %s tokens, %s rows of %d",
                name,
                *(f"{count:,}" for count in (data.num_documents, data.num_bytes, data.num_tokens, len(data.rows))),
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


def tokens_per_update(data: EncodedData, args: MiniTrainingArguments) -> int:
    """Tokens in one optimizer step, over all devices and accumulated batches; the mean if rows differ in length."""
    return args.rows_per_update * data.row_length


def main(argv: list[str] | None = None, command: tuple[str, ...] = ("python", "train.py")) -> int:
    """Run `train()` as a command: an expected failure logs one sentence and returns an exit code."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("modeling_mini").setLevel(logging.INFO)
    try:
        train(sys.argv[1:] if argv is None else argv, command)
    except UserError as error:
        logger.error("Error: %s", error)
        return 1
    except Interrupted as interruption:
        logger.warning("%s", interruption)
        return interruption.exit_code
    except KeyboardInterrupt:
        logger.warning("Stopped.")
        return 128 + signal.SIGINT
    except Exception as error:
        if not _is_disk_full(error):
            raise
        logger.error(
            "Error: the disk is full, and the last file is incomplete (%s); free some space, and continue from the "
            "last complete checkpoint with --resume.",
            error,
        )
        return 1
    return 0


def _is_disk_full(error: BaseException) -> bool:
    """Whether writing failed because the disk is full; torch and safetensors raise their own errors for it."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return True
    text = str(error)
    return any(
        phrase in text
        for phrase in ("No space left", "File too large", "PytorchStreamWriter failed", "quota exceeded")
    )
