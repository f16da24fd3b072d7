"""The report that a finished run writes next to its weights: metrics, a loss curve, a sample and a model card."""

import logging
import math
import platform
import shlex
from pathlib import Path

import torch
import transformers
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from matplotlib.figure import Figure
from transformers import Trainer
from transformers.trainer_pt_utils import get_model_param_count

from ..data.builtin import BUILTIN, BuiltinData
from ..data.packing import EncodedData
from ..hub.model_card import RunFacts, write_model_card
from ..tables import code_span
from ..tasks.base import ENCODING_ARGUMENTS, Task, TaskArguments
from ..tasks.batches import describe_positions
from ..writing import write_json
from .arguments import MiniTrainingArguments, ModelArguments
from .callbacks import stopped_early
from .optim import optimizer_of
from .watching import Reported


logger = logging.getLogger(__name__)


def write_report(
    trainer: Trainer,
    task: Task,
    reported: Reported,
    metrics: dict[str, float],
    scores: dict,
    sample: str,
    model_args: ModelArguments,
    training_args: MiniTrainingArguments,
    train_data: EncodedData,
) -> None:
    """Write metrics.json, loss.png and README.md into the output folder, and log the result.

    `metrics` come from the Trainer's evaluation and `scores` from the task; both are computed on the validation
    examples, with the weights of the update in `reported`.
    """
    folder = Path(training_args.output_dir)
    losses = [name for name in task.metric_directions(with_scores=False) if name != "token_loss"]
    history, patience = trainer.state.log_history, training_args.early_stopping_patience
    results = {
        "validation_loss": metrics["eval_token_loss"],
        "validation_loss_margin": metrics["eval_token_loss_margin"],
        **{name: metrics[f"eval_{name}"] for name in losses if f"eval_{name}" in metrics},
        **scores,
        "tokens_per_second": metrics["tokens_per_second"],
        "tokens_per_update": metrics["tokens_per_update"],
        "parameters": get_model_param_count(trainer.model),
        "context": trainer.model.config.max_position_embeddings,
        "vocabulary": trainer.model.config.vocab_size,
        "updates": reported.last,
        "reported_update": reported.update,
        "stopped_with_patience": patience if stopped_early(trainer.state, training_args) else None,
        "train_seconds": next(
            (entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry), None
        ),
        "hardware": hardware(training_args.world_size),
        "encoding": {name: getattr(task.args, name) for name in ENCODING_ARGUMENTS},
        "train_documents": train_data.num_documents,
        "train_bytes": train_data.num_bytes,
        "train_tokens": train_data.num_tokens,
        "seed": training_args.seed,
        "sample": sample,
        "history": learning_curve(history, task.score_names),
    }
    plot_curve(results, task.metric, training_args.label_smoothing_factor, folder / "loss.png")
    facts = card_facts(task, results, scores, model_args, training_args)
    facts.training["checkpoint"] = f"of update {reported.update:,} of {reported.last:,}, {reported.choice}"
    write_model_card(folder, facts)
    # Written last: its presence marks the run as finished.
    write_json(folder / "metrics.json", results)
    log_results(results, scores, task, training_args)


def log_results(results: dict, scores: dict, task: Task, args: MiniTrainingArguments) -> None:
    """Log the sample, the scores and useful next commands."""
    folder, quoted = args.output_dir, shlex.quote(args.output_dir)
    logger.info("\n%s\n", results["sample"])
    margin = results["validation_loss_margin"]  # 0 for a single row
    loss = f"{results['validation_loss']:.4f}" + (f" +- {margin:.4f}" if margin else "")
    rows = " (95% over rows)" if margin else ""
    perplexity = f", perplexity {results['perplexity']:.2f}" if "perplexity" in results else ""
    logger.info("Validation loss %s nats per target%s%s", loss, rows, perplexity)
    if "bits_per_byte" in results:
        logger.info("Validation bits per byte %.4f", results["bits_per_byte"])
    for name, value in scores.items():
        if f"{name}_interval" in scores:
            logger.info("Validation %s %.2f (95%%: %.2f to %.2f)", name, value, *scores[f"{name}_interval"])
        elif isinstance(value, float):  # a single example has no interval
            logger.info("Validation %s %.2f", name, value)
    if quarters := scores.get("loss_by_position"):
        logger.info("Validation loss by position in the context: %s", describe_positions(quarters))
    if results["tokens_per_second"] is not None:
        logger.info("Training speed %s tokens per second", f"{results['tokens_per_second']:,.0f}")
    logger.info("Model, metrics.json, loss.png and README.md are in %s. Next:", folder)
    usage, _ = task.how_to_use()
    if usage:
        logger.info("  modeling-mini %s", usage.format(folder=quoted, prompt=shlex.quote(args.prompt)))
    if task.name == "text-generation" and task.args.dataset in BUILTIN:
        logger.info("  python train.py --dataset YOUR_TEXT.txt --output_dir runs/mine")
    logger.info("  modeling-mini eval %s", quoted)
    if not args.push_to_hub:
        logger.info("  modeling-mini push %s USER/REPO --dry_run", quoted)


def card_facts(
    task: Task,
    results: dict,
    scores: dict,
    model_args: ModelArguments,
    training_args: MiniTrainingArguments,
) -> RunFacts:
    """The facts for the model card. `scores` are the metrics that the task computed itself."""
    data_args = task.args
    builtin = BUILTIN.get(data_args.dataset)
    dataset = _public_name(data_args.dataset)
    is_generator = task.name == "text-generation"
    sampling = f"Sample (temperature 0.8, top 50, seed {training_args.seed})"
    shape = _public_name(model_args.model)
    if model_args.config_overrides:
        shape += f" with {model_args.config_overrides}"
    origin = f"trained from scratch (shape: {code_span(shape)})"
    if model_args.init_from:
        origin = f"fine-tuned from {code_span(_public_name(model_args.init_from))}"
    return RunFacts(
        model_class=task.model_class.__name__,  # FSDP2 changes the class of the model
        parameters=results["parameters"],
        context=results["context"],
        vocabulary=results["vocabulary"],
        task=task.name,
        pipeline_tag=task.pipeline_tag or task.name,
        card_input=task.how_to_use()[1],
        prompt=training_args.prompt,
        origin=origin,
        dataset=dataset,
        is_on_hub=builtin is None and _may_be_on_hub(data_args.dataset),
        corpus=builtin.description if builtin else code_span(dataset),
        corpus_licence=builtin.licence if builtin else None,
        license_of_weights=builtin.license_of_weights if builtin else None,
        languages=_languages(data_args, builtin),
        held_out=f"{data_args.block_size}-token rows of the same corpus" if is_generator else _held_out(scores),
        scores=_card_scores(results, scores),
        loss_by_position=describe_positions(scores["loss_by_position"]) if "loss_by_position" in scores else None,
        sample_title=sampling if is_generator else "Held-out examples, chosen at random, each with the model's answer",
        sample=results["sample"],
        training=_training_facts(results, training_args),
    )


def _training_facts(results: dict, args: MiniTrainingArguments) -> dict[str, str]:
    """The rows of the card's training table."""
    tokens = "an unknown number of" if results["train_tokens"] is None else f"{results['train_tokens']:,}"
    warmup = f"warm-up over {args.warmup_steps:g} updates" if args.warmup_steps else "no warm-up"
    if 0 < args.warmup_steps < 1:  # a fraction of all updates
        warmup = f"warm-up over {args.warmup_steps:.0%} of the updates"
    optimizer = optimizer_of(args).describe(args)
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    return {
        "text": f"{tokens} tokens",
        "updates": f"{results['updates']:,} of {results['tokens_per_update']:,} tokens",
        "optimizer": f"{optimizer}, weight decay {args.weight_decay}, gradients clipped at {args.max_grad_norm}",
        "schedule": f"{schedule}, {warmup}",
        "precision": "bfloat16 (mixed)" if args.bf16 else "float16 (mixed)" if args.fp16 else "float32",
        "seed": str(args.seed),
        "time": f"{_time(results['train_seconds'], args)} on {results['hardware']}",
        "energy": "not measured",
        "software": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }


def _time(seconds: float | None, args: MiniTrainingArguments) -> str:
    if seconds is None:
        return "unknown time"
    return f"{seconds:,.0f} s" + (" since the last resumption" if args.is_resumed else "")


def _card_scores(results: dict, scores: dict) -> dict[str, tuple[float, list[float] | None]]:
    """Value and 95% interval of each metric in the card; None for an interval that a single row cannot give."""
    loss, margin = results["validation_loss"], results["validation_loss_margin"]
    bounds = {"loss": (loss, (loss - margin, loss + margin))}
    if perplexity := results.get("perplexity"):
        bounds["perplexity"] = (perplexity, (math.exp(loss - margin), math.exp(loss + margin)))
    if bits := results.get("bits_per_byte"):
        bounds["bits_per_byte"] = (bits, (bits * (1 - margin / loss), bits * (1 + margin / loss)))
    losses = {name: (value, None if margin == 0 else list(pair)) for name, (value, pair) in bounds.items()}
    task_scores = {
        name: (value, scores.get(f"{name}_interval")) for name, value in scores.items() if isinstance(value, float)
    }
    return losses | task_scores


def _held_out(scores: dict) -> str:
    count = scores.get("scored_examples")
    return "examples" if count is None else f"examples (loss on all, other metrics on {count:,} chosen at random)"


def _public_name(path_or_name: str) -> str:
    """A local path without its folders, because these are private; any other name unchanged."""
    return Path(path_or_name).absolute().name if Path(path_or_name).exists() else path_or_name


def _may_be_on_hub(dataset: str) -> bool:
    """Whether a name may be a data set on the Hub: it is not a file, and is a valid name there."""
    try:
        validate_repo_id(dataset)
    except HFValidationError:
        return False
    return not Path(dataset).exists()


def _languages(data_args: TaskArguments, builtin: BuiltinData | None) -> list[str] | str | None:
    if builtin is None:
        return None
    if data_args.dataset == "message-catalogues" and data_args.dataset_config:
        return ["en", data_args.dataset_config]
    return list(builtin.languages) if len(builtin.languages) > 1 else builtin.languages[0]


def hardware(world_size: int) -> str:
    """The hardware of a run with `world_size` processes, as text."""
    if torch.cuda.is_available():
        return f"{world_size} x {torch.cuda.get_device_name()}"
    if torch.accelerator.is_available():
        return f"{world_size} x {torch.accelerator.current_accelerator().type}"
    return f"{world_size * torch.get_num_threads()} CPU cores ({platform.machine()})"


def learning_curve(history: list[dict], score_names: tuple[str, ...] = ()) -> list[dict]:
    """Points of the Trainer's log, by update: `train_loss` and `learning_rate`, or what a validation measured of that
    update's weights.

    A validation gives `validation_loss` in nats per target, `bits_per_byte` if bytes are counted, and the task's
    scores on a sample. If the weights of an update were evaluated twice, the first time counts: it has all metrics.
    """
    validation = {f"eval_{name}": name for name in ("bits_per_byte", *score_names)}
    training = {"loss": "train_loss", "learning_rate": "learning_rate"}
    curves = (training, {"eval_token_loss": "validation_loss"} | validation)
    points = {}
    for entry in history:
        for kind, names in enumerate(curves):
            point = {name: entry[key] for key, name in names.items() if key in entry}
            if point:
                points.setdefault((entry["step"], kind), {"update": entry["step"], **point})
    return [points[key] for key in sorted(points)]


def plot_curve(results: dict, metric: str, label_smoothing: float, path: Path) -> None:
    """Plot the losses over updates and, where validations measured it, the metric of the task below them, as PNG."""
    points, reported = results["history"], results["reported_update"]
    panels = [{"train_loss": "-", "validation_loss": "o-"}]
    if metric != "bits_per_byte" and any(metric in point for point in points):
        panels.append({metric: "o-"})
    figure = Figure(figsize=(7, 4 if len(panels) == 1 else 6), layout="constrained")
    axes = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    for panel, curves in zip(axes, panels, strict=True):
        for name, style in curves.items():
            curve = [(point["update"], point[name]) for point in points if name in point]
            label = name.replace("_", " ")
            if name == "train_loss" and label_smoothing:
                label += f" (labels smoothed by {label_smoothing:g})"
            panel.plot([update for update, _ in curve], [value for _, value in curve], style, label=label)
        panel.axvline(reported, color="gray", linestyle=":", label=f"saved: update {reported}")
        panel.grid(alpha=0.3)
        panel.legend()
    axes[0].set_ylabel("nats per target")
    if len(panels) > 1:
        axes[1].set_ylabel(f"{metric.replace('_', ' ')} on a sample")
    axes[-1].set_xlabel("update")
    figure.savefig(path, dpi=150)
