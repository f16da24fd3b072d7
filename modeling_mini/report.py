"""What a finished run leaves beside its weights: numbers, a loss curve, a sample, a model card, and the next steps."""

import json
import logging
import platform
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import Trainer
from transformers.trainer_pt_utils import get_model_param_count

from .arguments import DataArguments, MiniTrainingArguments, ModelArguments
from .data import ENCODING_ARGUMENTS
from .model_card import write_model_card
from .packing import EncodedData


logger = logging.getLogger(__name__)


def write_report(
    trainer: Trainer,
    model_class: str,
    metrics: dict[str, float],
    scores: dict,
    sample: str,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: MiniTrainingArguments,
    train_data: EncodedData,
) -> None:
    """Write metrics.json, loss.png and README.md into the output folder, and log the result.

    `model_class` is that of the task, of which FSDP2 makes another.
    `metrics` are those of the Trainer's evaluation and `scores` the task's own, both on the validation examples.
    """
    folder = Path(training_args.output_dir)
    history = trainer.state.log_history
    results = {
        "validation_loss": metrics["eval_token_loss"],
        "validation_loss_margin": metrics["eval_token_loss_margin"],
        "perplexity": metrics["eval_perplexity"],
        **({"bits_per_byte": metrics["eval_bits_per_byte"]} if "eval_bits_per_byte" in metrics else {}),
        **scores,
        "tokens_per_second": metrics["tokens_per_second"],
        "tokens_per_update": metrics["tokens_per_update"],
        "parameters": get_model_param_count(trainer.model),
        "context": trainer.model.config.max_position_embeddings,
        "vocabulary": trainer.model.config.vocab_size,
        "updates": trainer.state.global_step,
        "train_seconds": next(
            (entry["train_runtime"] for entry in reversed(history) if "train_runtime" in entry), None
        ),
        "hardware": hardware(training_args.world_size),
        "encoding": {name: getattr(data_args, name) for name in ENCODING_ARGUMENTS},
        "train_documents": train_data.num_documents,
        "train_bytes": train_data.num_bytes,
        "train_tokens": train_data.num_tokens,
        "seed": training_args.seed,
        "sample": sample,
        "history": loss_curve(history),
    }
    plot_losses(results["history"], folder / "loss.png")
    write_model_card(folder, model_class, results, scores, model_args, data_args, training_args)
    # Last: where it stands, the run is finished.
    (folder / "metrics.json").write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    logger.info("\n%s\n", results["sample"])
    logger.info(
        "Validation loss %.4f +- %.4f nats per target (95%% over rows), perplexity %.2f",
        results["validation_loss"],
        results["validation_loss_margin"],
        results["perplexity"],
    )
    if "bits_per_byte" in results:
        logger.info("Validation bits per byte %.4f", results["bits_per_byte"])
    for name, value in scores.items():
        if f"{name}_interval" in scores:
            logger.info("Validation %s %.2f (95%%: %.2f to %.2f)", name, value, *scores[f"{name}_interval"])
    if results["tokens_per_second"] is not None:
        logger.info("Training speed %s tokens per second", f"{results['tokens_per_second']:,.0f}")
    logger.info("Model, metrics.json, loss.png and README.md are in %s. Next:", folder)
    if data_args.task == "text-generation":
        logger.info('  modeling-mini generate %s "%s"', folder, training_args.prompt)
        logger.info("  python train.py --dataset YOUR_TEXT.txt --output_dir runs/mine")
    logger.info("  modeling-mini eval %s", folder)
    if not training_args.push_to_hub:
        logger.info("  modeling-mini push %s USER/REPO --dry-run", folder)


def hardware(world_size: int) -> str:
    """What a run of so many processes trained on, in words."""
    if torch.cuda.is_available():
        return f"{world_size} x {torch.cuda.get_device_name()}"
    if torch.accelerator.is_available():
        return f"{world_size} x {torch.accelerator.current_accelerator().type}"
    return f"{world_size * torch.get_num_threads()} CPU cores ({platform.machine()})"


def loss_curve(history: list[dict]) -> list[dict]:
    """The Trainer's log as points: `{"update", "train_loss"}` and `{"update", "validation_loss"}`, nats per target."""
    names = {"loss": "train_loss", "eval_token_loss": "validation_loss"}
    points = {
        (entry["step"], name): entry[key] for entry in history for key, name in names.items() if key in entry
    }  # the last evaluation comes twice
    return [{"update": update, name: value} for (update, name), value in points.items()]


def plot_losses(points: list[dict], path: Path) -> None:
    """Training and validation loss over updates, as PNG."""
    axes = Figure(figsize=(7, 4), layout="constrained").subplots()
    for name, style in (("train_loss", "-"), ("validation_loss", "o-")):
        chosen = [point for point in points if name in point]
        axes.plot(
            [point["update"] for point in chosen],
            [point[name] for point in chosen],
            style,
            label=name.replace("_", " "),
        )
    axes.set_xlabel("update")
    axes.set_ylabel("nats per target")
    axes.grid(alpha=0.3)
    axes.legend()
    axes.figure.savefig(path, dpi=150)
