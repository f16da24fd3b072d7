"""The model card: written from the facts of a run, and completed when the model is shared."""

import logging
import re
import shutil
import textwrap
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Template
from transformers import PreTrainedModel
from yaml import YAMLError

from ..configuration_mini import AUTO_CLASSES
from ..errors import UserError, one_line
from ..tables import escaped, fence, markdown_table


logger = logging.getLogger(__name__)

CARD_NAME = "README.md"
TAGS = ["modeling_mini", "custom_code"]
REPOSITORY = "USER/REPO"  # in a card that has not been shared

# By class: the task as the Hub names it, and what the example does with the model.
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


# What a model generates after its input, where the input ends with the separator.
_WRITE = (
    "outputs = model.generate(**inputs, do_sample=False, max_new_tokens=64)\n"
    "print(tokenizer.decode(outputs[0, inputs.input_ids.shape[1] :], skip_special_tokens=True))"
)


_GENERATOR_LIMITS = """It continues text in the style of its corpus and knows
nothing else reliably, repeats the errors and the bias of that text, may repeat passages of it, and has not been
aligned, filtered or tested for any use in which its words matter. The chat template is there for fine-tuning: the
model has seen no conversations."""
_OTHER_LIMITS = """It performs its task on text like its training text,
as well as the table says, repeats the errors and the bias of that text, and has not been tested for any
use in which its answers matter."""


@dataclass
class RunFacts:
    """What a card says about a run, as plain values.

    Attributes:
        model_class: the model's class, such as `"MiniForCausalLM"`.
        parameters, context, vocabulary: sizes of the model.
        task: the application, such as `"text-generation"`, and `pipeline_tag`, how the Hub names it.
        card_input: what the example passes to the tokenizer, as Python, with `{prompt!r}` for `prompt`.
        origin: whether the model was trained from scratch or fine-tuned, and from what.
        dataset: its name; `is_on_hub` says whether the Hub has it.
        corpus: the data set in a sentence, in Markdown as is `origin`.
        corpus_licence: of the text, and `license_of_weights`, where they are known.
        languages: ISO 639 codes of the text, or None.
        held_out: what the results were measured on.
        scores: value and 95% interval of each metric; no interval where a single row has no spread.
        loss_by_position: the loss in each quarter of the context, of a language model.
        sample_title, sample: what a person looks at.
        training: the rows of the table on the training.
    """

    model_class: str
    parameters: int
    context: int
    vocabulary: int
    task: str
    pipeline_tag: str
    card_input: str
    prompt: str
    origin: str
    dataset: str
    is_on_hub: bool
    corpus: str
    corpus_licence: str | None
    license_of_weights: str | None
    languages: list[str] | str | None
    held_out: str
    scores: dict[str, tuple[float, list[float] | None]]
    loss_by_position: str | None
    sample_title: str
    sample: str
    training: dict[str, str]


def write_model_card(folder: Path, facts: RunFacts) -> None:
    """Write README.md of a run, with the metadata that the Hub reads."""
    name = folder.absolute().name
    metadata = ModelCardData(
        language=facts.languages,
        license=facts.license_of_weights,
        library_name="transformers",
        pipeline_tag=facts.pipeline_tag,
        tags=TAGS,
        datasets=[facts.dataset] if facts.is_on_hub else None,
        metrics=[metric for metric in facts.scores if metric != "loss"],
        model_name=name,
        eval_results=_eval_results(facts),
    )
    is_generator = facts.task == "text-generation"
    card = ModelCard.from_template(
        metadata,
        template_path=str(_template("card_trained.md")),
        name=escaped(name),
        parameters=f"{facts.parameters:,}",
        context=f"{facts.context:,}",
        vocabulary=f"{facts.vocabulary:,}",
        kind="causal Transformer language model" if facts.model_class == "MiniForCausalLM" else "Transformer",
        task=facts.task.replace("-", " "),
        origin=facts.origin,
        corpus=facts.corpus,
        corpus_licence=facts.corpus_licence,
        use=_use(facts.model_class, facts.prompt, facts.card_input),
        held_out=facts.held_out,
        results=_results_table(facts.scores),
        loss_by_position=facts.loss_by_position,
        sample_title=facts.sample_title,
        sample=facts.sample,
        fence=fence(facts.sample),
        training=facts.training,
        limits=_GENERATOR_LIMITS if is_generator else _OTHER_LIMITS,
    )
    card.save(folder / CARD_NAME)


def complete_card(
    source: Path,
    folder: Path,
    repo_id: str,
    model: PreTrainedModel,
    license: str | None = None,
    language: list[str] | None = None,
) -> None:
    """Write the card of a repository into `folder`: the card in `source` with what it lacks, or a new one.

    The text and the metadata of a card in `source` are kept, except for the name of the repository, and for `license`
    and `language` if they are given.

    Raises:
        UserError: the metadata are not YAML, or a language is not an ISO 639 code.
    """
    if wrong := [code for code in language or [] if not re.fullmatch("[a-z]{2,3}", code)]:
        raise UserError(f"--language {wrong[0]} is not an ISO 639 code; give two or three letters such as en or zh.")
    model_class = type(model).__name__
    name = repo_id.split("/")[1]
    if (source / CARD_NAME).exists():
        card = _load_card(source / CARD_NAME)
        if "trust_remote_code" not in card.text:
            card.text = f"{card.text.rstrip()}\n\n{_use(model_class)}\n"
    else:
        logger.warning("No model card: a new one is written, without facts of the training and with unknown licence.")
        card = _plain_card(model, name)
    _copy_images(card.text, source, folder)
    metadata = card.data
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
    text = card.text
    if metadata.eval_results:
        for heading in dict.fromkeys((metadata.model_name, escaped(metadata.model_name))):  # the run's name
            text = text.replace(f"# {heading}\n", f"# {name}\n", 1)
        metadata.model_name = name
    text = text.replace(REPOSITORY, repo_id).lstrip()
    ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}").save(folder / CARD_NAME)


def _load_card(path: Path) -> ModelCard:
    try:
        return ModelCard.load(path, ignore_metadata_errors=False)
    except (TypeError, ValueError, YAMLError) as error:
        raise UserError(f"The metadata in {path} are not valid: {one_line(error)}") from error


def _plain_card(model: PreTrainedModel, name: str) -> ModelCard:
    """The card of a model of which nothing is known but its shape."""
    config, model_class = model.config, type(model).__name__
    return ModelCard.from_template(
        ModelCardData(),
        template_path=str(_template("card_plain.md")),
        name=name,
        parameters=f"{model.num_parameters():,}",
        model_class=model_class,
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        heads=config.num_attention_heads,
        attention="causal" if config.is_causal else "bidirectional",
        use=_use(model_class),
    )


def _template(name: str) -> Path:
    return Path(__file__).with_name(name)


def _copy_images(text: str, source: Path, folder: Path) -> None:
    """Copy the images next to a card that it shows, and name what it links to and is not uploaded."""
    for name in re.findall(r"\]\(([^):#\s]{1,200})\)", text):
        if re.fullmatch(r"[\w-][\w.-]*\.(?:png|jpe?g|gif|svg)", name) and (source / name).is_file():
            copy_file(source / name, folder)
        elif (source / name).exists():
            logger.warning("%s links to %s, which is not uploaded with it.", CARD_NAME, name)


def copy_file(source: Path, folder: Path) -> None:
    """Copy a file. Raises `UserError` for a link, which might lead to a private file."""
    if source.is_symlink():
        raise UserError(f"{source} is a link; copy the folder with `cp -rL`, and push the copy.")
    shutil.copyfile(source, folder / source.name)


def _use(model_class: str, prompt: str = "The ", card_input: str = "{prompt!r}") -> str:
    """The section on how to use the model."""
    auto_class = AUTO_CLASSES[model_class]
    others = ", ".join(f"`{name}`" for name in AUTO_CLASSES.values() if name != auto_class)
    return Template(_template("card_use.md").read_text(encoding="utf-8")).render(
        auto_class=auto_class,
        repository=REPOSITORY,
        inputs=card_input.format(prompt=prompt.rstrip() or prompt),  # a BPE token holds the space before its word
        example=_WRITE if card_input.endswith("eos_token") else _TASKS[model_class][1],
        others="\n".join(textwrap.wrap(others, 110)),
    )


def _results_table(scores: dict[str, tuple[float, list[float] | None]]) -> str:
    names = {"loss": "loss (nats per target)"}
    cells = [
        f"{value:.4f}" + (" ({:.4f} to {:.4f})".format(*bounds) if bounds else "") for value, bounds in scores.values()
    ]
    return markdown_table([[names.get(name, name.replace("_", " ")) for name in scores], cells])


def _eval_results(facts: RunFacts) -> list[EvalResult]:
    return [
        EvalResult(
            task_type=facts.pipeline_tag,
            dataset_type=facts.dataset,
            dataset_name=facts.dataset,
            metric_type=metric,
            metric_value=round(value, 4),
            metric_args={"confidence_interval_95": [round(bound, 4) for bound in bounds]} if bounds else None,
        )
        for metric, (value, bounds) in facts.scores.items()
        if metric != "loss"
    ]
