"""Pipelines for the tasks that transformers 5 does not have, with the inputs and outputs of transformers 4.

Supported parameters: `batch_size`, those of `DecodingArguments` for written texts, `top_k` for answers.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, ClassVar

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForQuestionAnswering, Pipeline, PreTrainedModel, pipelines
from transformers.pipelines import PIPELINE_REGISTRY

from ..configuration_mini import MiniConfig
from ..decoding import DecodingArguments
from ..errors import UserError
from ..tasks import task_class


class TaskPipeline(Pipeline):
    """A `Task` behind `transformers.pipeline`: its prediction for one input, or for each of several.

    An input longer than the context of the model is truncated, or read in windows, as in training.
    """

    task_name: ClassVar[str]

    def __init__(self, model: PreTrainedModel, **kwargs):
        # Imported here: it imports `evaluate`, which imports transformers' pipelines, which import this file.
        from .loading import recorded_arguments, recorded_task

        if model.config.model_type != MiniConfig.model_type:
            raise ValueError(
                f"The pipeline {self.task_name!r} reads modeling_mini models, but this is a {model.config.model_type} "
                "model; transformers 5 suggests its text-generation pipeline for it."
            )
        classes, needed = model.config.architectures, task_class(self.task_name).model_class.__name__
        if classes and needed not in classes:
            raise ValueError(
                f"The pipeline {self.task_name!r} needs a {needed}, but the checkpoint is a {classes[0]}."
            )
        super().__init__(model, **kwargs)
        try:
            recorded = recorded_arguments(model.name_or_path, revision=getattr(model.config, "_commit_hash", None))
        except (UserError, OSError):  # a model built in this process, or whose folder is missing
            recorded = {"block_size": model.config.max_position_embeddings}
        if recorded.get("task", self.task_name) not in (self.task_name, "text-generation"):
            raise ValueError(f"{model.name_or_path} was trained for {recorded['task']}, not for {self.task_name}.")
        self.application = recorded_task(recorded, self.task_name)

    def __call__(self, inputs, **parameters):
        return super().__call__(inputs, **parameters) if inputs else []

    def run_single(self, inputs, preprocess_params, forward_params, postprocess_params):
        return next(self.get_iterator([inputs], 0, 1, preprocess_params, forward_params, postprocess_params))

    def get_iterator(
        self,
        inputs: Iterable,
        num_workers: int,
        batch_size: int,
        preprocess_params,
        forward_params,
        postprocess_params,
    ) -> Iterator[Any]:
        remaining = iter(inputs)
        while batch := list(islice(remaining, batch_size)):
            examples = [self.preprocess(item, **preprocess_params) for item in batch]
            for prediction in self._forward(examples, **forward_params):
                yield self.postprocess(prediction, **postprocess_params)


class WritingPipeline(TaskPipeline):
    """Text in, text out: a list of `{output: text}`, one per input."""

    column: ClassVar[str]
    output: ClassVar[str]

    def __call__(self, inputs: str | list[str], **parameters) -> list[dict[str, str]]:
        return super().__call__([inputs] if isinstance(inputs, str) else inputs, **parameters)

    def _sanitize_parameters(self, **options):
        DecodingArguments(**options).check()
        return {}, options, {}

    def preprocess(self, text: str) -> dict[str, str]:
        return {self.column: text}

    def _forward(self, examples: list[dict], **options) -> list[str]:
        rows = Dataset.from_list(examples)
        decoding = DecodingArguments(**options)
        return self.application.predict(self.model, self.tokenizer, rows, len(rows), decoding)

    def postprocess(self, text: str) -> dict[str, str]:
        return {self.output: text}


class TranslationPipeline(WritingPipeline):
    """`pipeline("translation")(text)` -> `[{"translation_text": ...}]`."""

    task_name, column, output = "translation", "source", "translation_text"


class SummarizationPipeline(WritingPipeline):
    """`pipeline("summarization")(text)` -> `[{"summary_text": ...}]`."""

    task_name, column, output = "summarization", "document", "summary_text"


class QuestionAnsweringPipeline(TaskPipeline):
    """`pipeline("question-answering")(question=..., context=...)` -> `{"answer", "start", "end", "score"}`.

    Several questions are a list of `{"question", "context"}`. With `top_k`, each result is a list of the best answers.
    `score` is the score of `QuestionAnswering.n_best`: the logits of the answer minus the logits of no answer, whose
    text is empty.
    """

    task_name = "question-answering"

    def __call__(self, inputs: dict | list[dict] | None = None, question=None, context=None, **parameters):
        examples = inputs
        if inputs is None and isinstance(question, list):
            contexts = [context] * len(question) if isinstance(context, str) else context
            examples = [{"question": q, "context": c} for q, c in zip(question, contexts, strict=True)]
        elif inputs is None:
            examples = {"question": question, "context": context}
        return super().__call__(examples, **parameters)

    def _sanitize_parameters(self, top_k: int | None = None):
        return {}, {} if top_k is None else {"n": top_k}, {}

    def preprocess(self, example: dict[str, str]) -> dict[str, str]:
        return {"question": example["question"], "context": example["context"]}

    def _forward(self, examples: list[dict], n: int = 1) -> list[list[dict]]:
        rows = Dataset.from_list(examples)
        return self.application.n_best(self.model, self.tokenizer, rows, len(rows), n)

    def postprocess(self, best: list[dict]) -> dict | list[dict]:
        return best[0] if len(best) == 1 else best


def register_pipelines() -> None:
    """Register each pipeline whose task is missing in transformers."""
    removed = getattr(pipelines, "REMOVED_TASKS", {})  # transformers refuses these names, even when registered
    for pipeline, auto_class in (
        (TranslationPipeline, AutoModelForCausalLM),
        (SummarizationPipeline, AutoModelForCausalLM),
        (QuestionAnsweringPipeline, AutoModelForQuestionAnswering),
    ):
        if pipeline.task_name not in PIPELINE_REGISTRY.supported_tasks:
            removed.pop(pipeline.task_name, None)
            PIPELINE_REGISTRY.register_pipeline(pipeline.task_name, pipeline, auto_class, type="text")


register_pipelines()
