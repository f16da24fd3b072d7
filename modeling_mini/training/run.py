"""Turns a recipe into a trained and evaluated model. `train()` is the whole flow, from top to bottom."""

import logging
import sys
from pathlib import Path

from transformers import PreTrainedModel, Trainer, TrainerState, set_seed
from transformers.trainer_pt_utils import get_model_param_count

from ..checkpoints import DDP, TRAINER_STATE_NAME, WorldSize, written_by
from ..commands import finish
from ..data.packing import EncodedData
from ..errors import UserError
from ..tasks import task_class
from ..tasks.base import TaskArguments
from .arguments import MiniTrainingArguments, parse_arguments
from .building import build_model, load_config, load_tokenizer, warn_about_unknown_tokens
from .callbacks import RowLoss, StopOnNaN, StopOnSignal, Throughput
from .distributed import save_whole_model, shard
from .optim import optimizer_of
from .report import write_report
from .resuming import (
    check_free_space,
    check_output_dir,
    check_same_run,
    fixed_arguments,
    is_finished,
    resume_point,
)
from .sharing import prepare_repository, push_result
from .values import check_together


logger = logging.getLogger(__name__)


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
        optimizer_cls_and_kwargs=optimizer_of(training_args).for_trainer(training_args),
        callbacks=[stop, speed, StopOnNaN(), WorldSize()],
    )
    if finished:  # only the report is missing, and `trainer.train` would run one more update
        if trainer.is_fsdp_enabled:
            shard(trainer, checkpoint)
        trainer.state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    stop.raise_if_stopped(trainer.state.global_step, [*command, *argv])

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
    check_output_dir(args.output_dir, args.is_resumed)
    if data_args.streaming and args.max_steps <= 0:
        raise UserError("--streaming: a stream has no epochs; set the length of the training with --max_steps.")
    if args.save_on_each_node:
        raise UserError(
            "--save_on_each_node would write a part of each checkpoint on each machine; use a shared --output_dir."
        )
    if args.dataloader_drop_last:
        raise UserError("--dataloader_drop_last would drop validation rows from the metrics; leave it out.")
    optimizer_of(args).check(args)
    check_together(data_args, args)


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
    argv = sys.argv[1:] if argv is None else argv
    again = "A run that has written a checkpoint continues with --resume."
    return finish(lambda: train(argv, command), argv, again, say=logger.error)
