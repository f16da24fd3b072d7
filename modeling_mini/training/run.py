"""Turns a recipe into a trained and evaluated model. `train()` is the whole flow, from top to bottom."""

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass

from transformers import (
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerState,
    set_seed,
)
from transformers.trainer_pt_utils import get_model_param_count

from ..checkpoints import DDP, WorldSize, trainer_state, written_by
from ..commands import finish
from ..configuration_mini import MiniConfig
from ..data.examples import Examples
from ..data.packing import EncodedData
from ..errors import UserError
from ..presets import count_parameters
from ..tasks import task_class
from ..tasks.base import Task, TaskArguments, random_sample
from ..tasks.batches import RandomCollator
from ..writing import remove_unfinished
from .arguments import MiniTrainingArguments, ModelArguments, parse_arguments
from .building import (
    build_model,
    load_config,
    load_finished,
    load_tokenizer,
    set_context,
    warn_about_short_documents,
    warn_about_unknown_tokens,
)
from .callbacks import (
    EarlyStopping,
    KeepBest,
    NoteOfLength,
    OneValidationLoss,
    OrderOfEpoch,
    RowLoss,
    RunningLoss,
    SeedOfBatches,
    StopOnNaN,
    StopOnSignal,
    Throughput,
    ValidationMetrics,
    WarnOfRisingLoss,
    find_best,
)
from .distributed import save_whole_model, shard
from .locking import locked
from .optim import optimizer_of
from .progress import quiet_libraries, show_progress
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
from .values import check_together
from .watching import Reported, advise_pretraining, choose_best_metric, log_best, reported_checkpoint


logger = logging.getLogger(__name__)

MANY_PASSES = 20  # over the training data


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
    choose_best_metric(task_class(data_args.task), training_args)
    check_output_dir(training_args.output_dir, training_args.is_resumed, training_args.resume_from_checkpoint)
    check_together(data_args, training_args)
    task = task_class(data_args.task)(data_args)
    config = load_config(model_args, task, training_args)
    set_context(config, model_args, data_args.block_size)
    arguments = fixed_arguments(model_args, data_args, training_args)
    check_run_of_checkpoint(training_args, arguments)
    training_args.distributed_state.wait_for_everyone()  # a process that checks later would find the files of this run
    check_same_run(training_args.output_dir, arguments, training_args.is_resumed, write=training_args.should_save)
    if training_args.is_resumed and training_args.should_save:
        remove_unfinished(training_args.output_dir)
    checkpoint = resume_point(training_args)
    # The least size of a new model: its vocabulary is not known yet.
    check_free_space(training_args.output_dir, count_parameters(config, None if model_args.init_from else 1))
    finished, checkpoint = finished_run(checkpoint, training_args)
    if training_args.push_to_hub and training_args.should_save:
        prepare_repository(training_args)
    advise_pretraining(task, model_args, training_args)

    set_seed(training_args.seed)
    data = prepare_data(task, config, model_args, training_args)
    if finished and written_by(checkpoint) == DDP:
        model = load_finished(task, checkpoint, model_args)
    else:
        model = build_model(task, config, data.tokenizer, model_args)
    check_free_space(training_args.output_dir, get_model_param_count(model))
    describe(model, model_args.init_from, data.train, data.validation, training_args)

    stop, speed = StopOnSignal(), Throughput()
    trainer = build_trainer(task, model, data, training_args, [stop, speed, NoteOfLength(checkpoint)])
    show_progress(trainer, speed, tokens_per_update(data.train, training_args), task.metric_directions())
    if finished:  # `trainer.train` would run one more update
        if trainer.is_fsdp_enabled:
            shard(trainer, checkpoint)
        trainer.state = finished
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    stop.raise_if_stopped(trainer.state.global_step, command)
    if trainer.state.global_step == 0:
        raise UserError("The run ended without an update, because it read no row; give more data or more updates.")

    reported = reported_checkpoint(trainer.state, training_args)
    save_whole_model(trainer)  # before the evaluation, which may be in half precision (--bf16_full_eval)
    metrics = evaluate_reported(trainer, validation_loss(task, data), reported)
    metrics["tokens_per_update"] = tokens_per_update(data.train, training_args)
    metrics["tokens_per_second"] = speed.tokens_per_second(metrics["tokens_per_update"])
    set_seed(training_args.seed)
    # All processes compute the report, because each may hold a shard of the model.
    reported_on = trainer.model, data.tokenizer, data.examples["validation"], training_args.prompt
    scores, sample = task.report(*reported_on, training_args.per_device_eval_batch_size)
    if trainer.is_world_process_zero():
        log_best(trainer.state, training_args, reported, task, num_scored(task, data, training_args))
        write_report(trainer, task, reported, metrics, scores, sample, model_args, training_args, data.train)
        if training_args.push_to_hub:
            push_result(training_args, trainer.hub_model_id)
    trainer.accelerator.wait_for_everyone()  # a process that exits early may abort the report
    trainer.accelerator.end_training()


def finished_run(checkpoint: str | None, args: MiniTrainingArguments) -> tuple[TrainerState | None, str | None]:
    """The state of a run of which only the report is missing, or None; and the checkpoint to load.

    Raises:
        UserError: nothing is left to do.
    """
    if checkpoint is None or not is_finished(checkpoint, args):
        return None, checkpoint
    state = trainer_state(checkpoint)
    find_best(state, args)
    return state, str(reported_checkpoint(state, args).checkpoint or checkpoint)


@dataclass
class RunData:
    """What a run reads: the examples by split, the tokenizer, and the rows for training and validation."""

    examples: dict[str, Examples]
    tokenizer: PreTrainedTokenizerBase
    train: EncodedData
    validation: EncodedData


def prepare_data(
    task: Task, config: MiniConfig, model_args: ModelArguments, training_args: MiniTrainingArguments
) -> RunData:
    """Read and encode the data; the first process prepares what the others load.

    Raises:
        UserError: the data or the tokenizer cannot be used, or the rows differ from those of the resumed run.
    """
    with training_args.main_process_first(local=False, desc="data"):
        examples = task.load()
        task.configure(config, examples["train"])
        tokenizer = load_tokenizer(model_args, training_args, config, task, examples["train"])
        task.check(tokenizer, training_args.prompt, config.max_position_embeddings)
        train = task.encode(examples["train"], tokenizer, "training")
        validation = task.encode(examples["validation"], tokenizer, "validation")
    warn_about_unknown_tokens(validation, tokenizer)
    if not model_args.init_from:  # whose context its own training set
        warn_about_short_documents(train)
    check_same_rows(training_args, train.fingerprint)
    check_same_rows(training_args, validation.fingerprint, "validation")
    return RunData(examples, tokenizer, train, validation)


def build_trainer(
    task: Task,
    model: PreTrainedModel,
    data: RunData,
    args: MiniTrainingArguments,
    callbacks: list[TrainerCallback],
) -> Trainer:
    """The stock Trainer, with the callbacks of this package after `callbacks`."""
    collator = task.collator(data.tokenizer)
    if isinstance(collator, RandomCollator):
        callbacks = [*callbacks, SeedOfBatches(collator)]
    model._keys_to_ignore_on_save = set(model.all_tied_weights_keys)  # else the Trainer calls them missing on load
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=data.train.rows,
        eval_dataset=data.validation.rows,
        processing_class=data.tokenizer,
        data_collator=collator,
        compute_metrics=validation_metrics(lambda: trainer.model, task, data, args),
        preprocess_logits_for_metrics=task.row_loss,
        optimizer_cls_and_kwargs=optimizer_of(args).for_trainer(args),
        callbacks=[*callbacks, StopOnNaN(), WorldSize(), OrderOfEpoch(), *watchers(args)],
    )
    trainer.callback_handler.callbacks.insert(0, OneValidationLoss())  # before the Trainer's own loggers
    trainer.add_callback(RunningLoss(trainer))
    return trainer


def validation_loss(task: Task, data: RunData) -> RowLoss:
    """`compute_metrics` for the Trainer: the loss of all validation rows."""
    return RowLoss(data.validation.num_bytes if task.counts_bytes else None, task.predicts_tokens)


def validation_metrics(
    current_model: Callable[[], PreTrainedModel], task: Task, data: RunData, args: MiniTrainingArguments
) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` for the Trainer: the loss and, for a task with scores, these on a sample of the examples.

    `current_model` returns the Trainer's model, which FSDP replaces when the training begins.
    """
    loss, size = validation_loss(task, data), num_scored(task, data, args)
    if size == 0:
        return loss
    sample = random_sample(data.examples["validation"], size)
    return ValidationMetrics(
        loss, lambda: task.sample_scores(current_model(), data.tokenizer, sample, args.per_device_eval_batch_size)
    )


def num_scored(task: Task, data: RunData, args: MiniTrainingArguments) -> int:
    """How many validation examples each evaluation scores; 0 for a task or a run without scores."""
    size = task.eval_sample if args.eval_sample is None else args.eval_sample
    return min(size, len(data.examples["validation"])) if task.score_names else 0


def watchers(args: MiniTrainingArguments) -> list[TrainerCallback]:
    """Callbacks that act on an evaluation during training, in the order in which they must run."""
    callbacks = [WarnOfRisingLoss()]
    if args.early_stopping_patience is not None:
        callbacks.append(EarlyStopping(args.early_stopping_patience, args.early_stopping_threshold))
    if args.metric_for_best_model is not None:
        callbacks.append(KeepBest())
    return callbacks


def evaluate_reported(trainer: Trainer, loss: RowLoss, reported: Reported) -> dict[str, float]:
    """Evaluate the reported model on all validation rows. The log names its update, which may not be the last."""
    for watcher in (WarnOfRisingLoss, EarlyStopping, KeepBest):
        trainer.remove_callback(watcher)
    trainer.compute_metrics = loss  # the report computes the scores, on more examples
    metrics = trainer.evaluate()
    trainer.state.log_history[-1]["step"] = reported.update
    return metrics


def describe(
    model: PreTrainedModel,
    start: str | None,
    train_data: EncodedData,
    validation_data: EncodedData,
    args: MiniTrainingArguments,
) -> None:
    """Log the sizes of model and data, what the model starts from, and the number of tokens in one update."""
    if not args.should_log:
        return
    weights = "new weights" if start is None else f"weights of {start}"
    logger.info("Model: %s parameters, %s", f"{get_model_param_count(model):,}", weights)
    for name, data in (("Training", train_data), ("Validation", validation_data)):
        if data.num_tokens is not None:
            logger.info(
                "%s text: %s %s, %s bytes, %s tokens, %s %s %d",
                name,
                f"{data.num_documents:,}",
                data.unit,
                *(f"{count:,}" for count in (data.num_bytes, data.num_tokens, len(data.rows))),
                data.row_unit,
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
    if args.max_steps > 0 and train_data.num_tokens is not None:
        logger.info("%s", length_of_training(args.max_steps, len(train_data.rows), args.rows_per_update))


def length_of_training(updates: int, rows: int, rows_per_update: int) -> str:
    """How often a fixed number of updates reads the data: the number of a recipe suits the size of its own data."""
    passes = updates * rows_per_update / rows
    sentence = f"Length: {updates:,} updates read the training data {passes:{'.1f' if passes >= 0.1 else '.3f'}} times"
    if passes < 1:
        return f"{sentence}; --num_train_epochs N reads all of it N times instead."
    if passes > MANY_PASSES:
        return f"{sentence}, which is much; --num_train_epochs 5 reads it 5 times, and takes less time."
    return f"{sentence}."


def tokens_per_update(data: EncodedData, args: MiniTrainingArguments) -> int:
    """Tokens in one optimizer step, over all devices and accumulated batches; the mean if rows differ in length."""
    return args.rows_per_update * data.row_length


def main(argv: list[str] | None = None, command: tuple[str, ...] = ("python", "train.py")) -> int:
    """Run `train()` as a command: an expected failure logs one sentence and returns an exit code."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("modeling_mini").setLevel(logging.INFO)
    quiet_libraries()
    argv = sys.argv[1:] if argv is None else argv
    again = "A run that has written a checkpoint continues with --resume."
    return finish(lambda: train(argv, command), argv, again, say=logger.error)
