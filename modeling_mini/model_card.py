"""The model card: what a run knows of its model, completed when the model is shared."""

import logging
import math
import re
import shutil
import textwrap
from pathlib import Path

import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import PreTrainedModel
from yaml import YAMLError

from .arguments import MiniTrainingArguments, ModelArguments
from .configuration_mini import AUTO_CLASSES
from .data import DataArguments
from .embedded import EMBEDDED, EmbeddedData
from .errors import UserError, one_line
from .tasks import task_class


logger = logging.getLogger(__name__)

CARD_NAME = "README.md"
TAGS = ["modeling_mini", "custom_code"]
REPOSITORY = "USER/REPO"  # in a card that has not been shared

# By class: the task as the Hub names it, and what to do with the model in the example.
_TASKS = {
    "MiniModel": ("feature-extraction", "print(model(**inputs).last_hidden_state.shape)"),
    "MiniForCausalLM": (
        "text-generation",
        "outputs = model.generate(**inputs, do_sample=True, max_new_tokens=100)\n"
        "print(tokenizer.decode(outputs[0], skip_special_tokens=True))",
    ),
    "MiniForMaskedLM": ("fill-mask", "print(tokenizer.decode(model(**inputs).logits[0].argmax(-1)))"),
    "MiniForSequenceClassification": (
        "text-classification",
        "print(model.config.id2label[model(**inputs).logits[0].argmax().item()])",
    ),
    "MiniForTokenClassification": (
        "token-classification",
        "print([model.config.id2label[label] for label in model(**inputs).logits[0].argmax(-1).tolist()])",
    ),
    "MiniForQuestionAnswering": (
        "question-answering",
        "outputs = model(**inputs)\nprint(outputs.start_logits.argmax(-1), outputs.end_logits.argmax(-1))",
    ),
}

# What a model writes after its input, where that ends with the separator.
_WRITE = (
    "outputs = model.generate(**inputs, do_sample=False, max_new_tokens=64)\n"
    "print(tokenizer.decode(outputs[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))"
)

_USE = """## Use

transformers runs the code in this repository if you allow it to:

```python
from transformers import {auto_class}, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repository}", trust_remote_code=True)
model = {auto_class}.from_pretrained("{repository}", trust_remote_code=True)
inputs = tokenizer({inputs}, return_tensors="pt")
{example}
```

Pin `revision=` to a commit that you have read. Where the package modeling_mini is installed, `import modeling_mini`
and leave out `trust_remote_code`: the installed code is used. The repository opens as each of these too; a head that
it holds no weights for starts untrained:
{others}.
"""

_TRAINED = """# {name}

A {parameters:,}-parameter {kind} with sinusoidal positions for {task}, {origin} with
modeling_mini on {corpus}. It reads up to {context:,} tokens, of a vocabulary of
{vocabulary:,}.

{use}
## Results

On held-out {held_out}; intervals of 95%, which do not cover the choice of the seed:

{table}

![Training and validation loss over updates](loss.png)

{sample_title}:

````text
{sample}
````

## Training

| | |
|---|---|
| text | {train_tokens} tokens |
| updates | {updates:,} of {tokens_per_update:,} tokens |
| optimizer | {optimizer}, weight decay {weight_decay}, gradients clipped at {max_grad_norm} |
| schedule | {schedule}, {warmup} |
| precision | {precision} |
| seed | {seed} |
| time | {time} on {hardware} |
| energy | not measured |
| software | torch {torch}, transformers {transformers} |

## Intended use and limits

For learning, for experiments, and as a start for fine-tuning. {limits}{licence_of_text}
"""

_UNKNOWN = """# {name}

A {parameters:,}-parameter `{model_class}` of modeling_mini: a Transformer with sinusoidal positions,
{layers} layers, width {width}, {heads} heads, {attention} attention.

{use}
## Intended use and limits

Nothing is recorded here of its training or its quality: whoever shares it should say on what it was trained and how
well it does. It has not been tested for any use in which its output matters.
"""


_LIMITS = {
    "text-generation": """It continues text in the style of its corpus and knows
nothing else reliably, repeats the errors and the bias of that text, may repeat passages of it, and has not been
aligned, filtered or tested for any use in which its words matter. The chat template is there for fine-tuning: the
model has seen no conversations.""",
}
_OTHER_LIMITS = """It does its task on text like that which it
learnt from, as well as the table says, repeats the errors and the bias of that text, and has not been tested for any
use in which its answers matter."""


def write_model_card(
    folder: Path,
    model_class: str,
    results: dict,
    scores: dict,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: MiniTrainingArguments,
) -> None:
    """Write README.md with the metadata that the Hub reads, from the results of `report.write_report`.

    `scores` are those of the results that the task measured itself.
    """
    embedded = EMBEDDED.get(data_args.dataset)
    reported = _reported(results, scores)
    is_local = Path(data_args.dataset).exists()
    dataset = _last_part(data_args.dataset)
    task = task_class(data_args.task)
    pipeline_tag = task.pipeline_tag or task.name
    metadata = ModelCardData(
        language=_languages(data_args, embedded),
        license=embedded.license_of_weights if embedded else None,
        library_name="transformers",
        pipeline_tag=pipeline_tag,
        tags=TAGS,
        datasets=None if embedded or is_local else [dataset],
        metrics=[name for name in reported if name != "loss"],
        model_name=folder.absolute().name,
        eval_results=_eval_results(reported, pipeline_tag, dataset),
    )
    shape = _last_part(model_args.model)
    if model_args.config_overrides:
        shape += f" with {model_args.config_overrides}"
    origin = f"trained from scratch (shape: `{shape}`)"
    if model_args.init_from:
        origin = f"fine-tuned from `{_last_part(model_args.init_from)}`"
    is_generator = data_args.task == "text-generation"
    sampling = f"Sample (temperature 0.8, top 50, seed {training_args.seed})"
    values = {
        **results,
        "name": folder.absolute().name,
        "kind": "causal Transformer language model" if model_class == "MiniForCausalLM" else "Transformer",
        "task": data_args.task.replace("-", " "),
        "origin": origin,
        "corpus": embedded.description if embedded else f"`{dataset}`",
        "held_out": f"{data_args.block_size}-token rows of the same corpus" if is_generator else _held_out(scores),
        "table": _table(reported),
        "sample_title": sampling
        if is_generator
        else "Held-out examples, drawn at random, each with the model's answer",
        "limits": _LIMITS.get(data_args.task, _OTHER_LIMITS),
        "licence_of_text": f"\nThe text that it learnt from is under the licence of {embedded.licence}."
        if embedded
        else "",
        "use": _use(model_class, training_args.prompt, task.card_input),
        "train_tokens": "an unknown number of" if results["train_tokens"] is None else f"{results['train_tokens']:,}",
        **_hyper_parameters(training_args),
        "time": _time(results["train_seconds"], training_args),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    _save(metadata, _TRAINED.format(**values), folder)


def complete_card(
    source: Path,
    folder: Path,
    repo_id: str,
    model: PreTrainedModel,
    license: str | None = None,
    language: list[str] | None = None,
) -> None:
    """Write the card of a repository into `folder`: that in `source`, with what it lacks, or a new one.

    Text and metadata that stand in a card in `source` are kept, but for the name of the repository, and for `license`
    and `language` if they are given.

    Raises:
        UserError: metadata that are no YAML, or a language that is no code.
    """
    if wrong := [code for code in language or [] if not re.fullmatch("[a-z]{2,3}", code)]:
        raise UserError(f"--language {wrong[0]} is no ISO 639 code; give two or three letters such as en or zh.")
    model_class = type(model).__name__
    name = repo_id.split("/")[1]
    if (source / CARD_NAME).exists():
        try:
            card = ModelCard.load(source / CARD_NAME, ignore_metadata_errors=False)
        except (TypeError, ValueError, YAMLError) as error:
            raise UserError(f"The metadata in {source / CARD_NAME} are not valid: {one_line(error)}") from error
        metadata, text = card.data, card.text
        if "trust_remote_code" not in text:
            text = f"{text.rstrip()}\n\n{_use(model_class)}"
    else:
        logger.warning("No model card: one is written that says nothing of the training, under an unknown licence.")
        metadata, text = ModelCardData(), _UNKNOWN.format(**_describe(model, name))
    _copy_images(text, source, folder)
    defaults = {
        "license": "unknown",
        "library_name": "transformers",
        "pipeline_tag": _TASKS[model_class][0],
    }
    for key, value in defaults.items():
        metadata[key] = metadata.get(key) or value
    tags = metadata.tags or []
    metadata.tags = [*tags, *(tag for tag in TAGS if tag not in tags)]
    metadata.license = license or metadata.license
    metadata.language = language or metadata.language
    if metadata.eval_results:
        text = text.replace(f"# {metadata.model_name}\n", f"# {name}\n", 1)  # the run's name
        metadata.model_name = name
    _save(metadata, text.replace(REPOSITORY, repo_id), folder)


def _held_out(scores: dict) -> str:
    count = scores.get("scored_examples")
    return "examples" if count is None else f"examples (the loss of all; the rest of {count:,}, drawn at random)"


def _last_part(path_or_name: str) -> str:
    """Of a local path, the last part alone: the rest is nobody else's business."""
    return Path(path_or_name).absolute().name if Path(path_or_name).exists() else path_or_name


def _save(metadata: ModelCardData, text: str, folder: Path) -> None:
    ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text.lstrip()}").save(folder / CARD_NAME)


def _copy_images(text: str, source: Path, folder: Path) -> None:
    """Copy the pictures beside a card that it shows, and name what it links to and is not uploaded."""
    for name in re.findall(r"\]\(([^):#\s]{1,200})\)", text):
        if re.fullmatch(r"[\w-][\w.-]*\.(?:png|jpe?g|gif|svg)", name) and (source / name).is_file():
            copy_file(source / name, folder)
        elif (source / name).exists():
            logger.warning("%s links to %s, which is not uploaded with it.", CARD_NAME, name)


def copy_file(source: Path, folder: Path) -> None:
    """Copy a file as it is; a link might lead to what is nobody else's business. Raises `UserError`."""
    if source.is_symlink():
        raise UserError(f"{source} is a link; copy the folder with `cp -rL`, and push the copy.")
    shutil.copyfile(source, folder / source.name)


def _use(model_class: str, prompt: str = "The ", card_input: str = "{prompt!r}") -> str:
    auto_class = AUTO_CLASSES[model_class]
    names = ", ".join(f"`{name}`" for name in AUTO_CLASSES.values() if name != auto_class)
    return _USE.format(
        auto_class=auto_class,
        repository=REPOSITORY,
        inputs=card_input.format(prompt=prompt),
        example=_WRITE if card_input.endswith("eos_token") else _TASKS[model_class][1],
        others="\n".join(textwrap.wrap(names, 110)),
    )


def _describe(model: PreTrainedModel, name: str) -> dict:
    config, model_class = model.config, type(model).__name__
    return {
        "name": name,
        "parameters": model.num_parameters(),
        "model_class": model_class,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "attention": "causal" if config.is_causal else "bidirectional",
        "use": _use(model_class),
    }


def _reported(results: dict, scores: dict) -> dict[str, tuple[float, list[float] | None]]:
    """Value and ends of the 95% interval of each metric in the card; no ends where a single row has no spread."""
    loss, margin = results["validation_loss"], results["validation_loss_margin"]
    ends = {
        "loss": (loss, (loss - margin, loss + margin)),
        "perplexity": (results["perplexity"], (math.exp(loss - margin), math.exp(loss + margin))),
    }
    if bits := results.get("bits_per_byte"):
        ends["bits_per_byte"] = (bits, (bits * (1 - margin / loss), bits * (1 + margin / loss)))
    reported = {name: (value, None if margin == 0 else list(pair)) for name, (value, pair) in ends.items()}
    own = {name: (value, scores[f"{name}_interval"]) for name, value in scores.items() if f"{name}_interval" in scores}
    return reported | own


def _table(reported: dict[str, tuple[float, list[float] | None]]) -> str:
    names = {"loss": "loss (nats per target)"}
    cells = [
        f"{value:.4f}" + (" ({:.4f} to {:.4f})".format(*ends) if ends else "") for value, ends in reported.values()
    ]
    return markdown_table([[names.get(name, name.replace("_", " ")) for name in reported], cells])


def markdown_table(rows: list[list[str]]) -> str:
    """Cells as a table in Markdown; the first row is the header."""
    header, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *body))


def _eval_results(reported: dict, task: str, dataset: str) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=task,
            dataset_type=dataset,
            dataset_name=dataset,
            metric_type=name,
            metric_value=round(value, 4),
            metric_args={"confidence_interval_95": [round(end, 4) for end in ends]} if ends else None,
        )
        for name, (value, ends) in reported.items()
        if name != "loss"
    ]


def _languages(data_args: DataArguments, embedded: EmbeddedData | None) -> list[str] | str | None:
    if embedded is None:
        return None
    if data_args.dataset == "message-catalogues" and data_args.dataset_config:
        return ["en", data_args.dataset_config]
    return list(embedded.languages) if len(embedded.languages) > 1 else embedded.languages[0]


def _time(seconds: float | None, args: MiniTrainingArguments) -> str:
    if seconds is None:
        return "unknown time"
    return f"{seconds:,.0f} s" + (" since it was last resumed" if args.is_resumed else "")


def _hyper_parameters(args: MiniTrainingArguments) -> dict[str, str]:
    def plain(value):
        return str(getattr(value, "value", value))

    warmup = f"warm-up over {args.warmup_steps:g} updates" if args.warmup_steps else "no warm-up"
    if 0 < args.warmup_steps < 1:  # a share
        warmup = f"warm-up over {args.warmup_steps:.0%} of the updates"
    optimizer = f"{plain(args.optim)} at {args.learning_rate}"
    if args.use_muon:
        optimizer = f"Muon at {args.muon_learning_rate} and AdamW at {args.learning_rate}"
    return {
        "optimizer": optimizer,
        "weight_decay": str(args.weight_decay),
        "max_grad_norm": str(args.max_grad_norm),
        "schedule": plain(args.lr_scheduler_type),
        "warmup": warmup,
        "precision": "bfloat16 (mixed)" if args.bf16 else "float16 (mixed)" if args.fp16 else "float32",
    }
