"""Base class of tasks that write a text: a causal model reads a source and a separator, and writes the target."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from datasets import Dataset, List, Value
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase, set_seed

from ..data.examples import Examples
from ..data.packing import (
    EncodedData,
    PackExamples,
    UnpackRows,
    column_sum,
    encode_batches,
    packed_features,
    smallest_type,
)
from ..decoding import DecodingArguments
from ..errors import UserError
from ..modeling_mini import MiniForCausalLM
from .base import Task, log_truncated
from .batches import batches_of_like_length, next_token_nll
from .generation import warn_about_lost_text, write


logger = logging.getLogger(__name__)


@dataclass
class Prompt:
    """What the model reads: bos, the source and eos of an example, or of one window of a long context.

    Attributes:
        input_ids: token ids, without bos if the tokenizer has none.
        example: the index of the example.
        is_truncated: whether text of the example was left out; set on its first prompt only.
        characters: the first and last + 1 character of a window in its context.
    """

    input_ids: list[int]
    example: int
    is_truncated: bool = False
    characters: tuple[int, int] | None = None


class TextToTextTask(Task):
    """An example is encoded as bos, source, eos, target, eos; the loss covers the target and the last eos.

    A truncated target has no last eos. The eos after the source is the separator: the tokenizer writes the same token
    between the two texts of a pair, and pretraining wrote it at the end of each text. By default, the two `columns` of
    a subclass are the source and the target; override `sources` and `targets` to change that. An example is one
    prompt; override `prompts`, `training_pairs` and `best_texts` for several.
    """

    model_class = MiniForCausalLM
    card_input = "{prompt!r} + tokenizer.eos_token"
    needs_causal = True
    used_options = ("max_source_tokens", "max_target_tokens")
    eval_sample = 100  # generation is slow
    writes_text = True
    default_decoding: ClassVar[dict[str, Any]] = {}  # values of `DecodingArguments`, chosen by measurement

    row_loss = staticmethod(next_token_nll)

    @property
    def source_length(self) -> int:
        """Longest source in tokens, so that source, target and their special tokens fit into a row."""
        available = self.args.block_size - self.args.max_target_tokens - 3
        if available < 1:
            raise UserError(
                f"--block_size {self.args.block_size} leaves no room for a source next to --max_target_tokens "
                f"{self.args.max_target_tokens}; raise the first or lower the second."
            )
        return available if self.args.max_source_tokens is None else min(available, self.args.max_source_tokens)

    def sources(self, examples: Examples | dict) -> list[str]:
        """The texts that the model reads, one per example."""
        return list(examples[self.columns[0]])

    def targets(self, examples: Examples | dict) -> list[str]:
        """The texts that the model must write, one per example."""
        return list(examples[self.columns[1]])

    @property
    def truncated_part(self) -> tuple[str, int]:
        """What `prompts` truncates, and its longest length in tokens."""
        return "source", self.source_length

    def prompts(self, tokenizer: PreTrainedTokenizerBase, examples: Examples | dict) -> list[Prompt]:
        """What the model reads, in the order of the examples.

        Raises:
            UserError: the tokenizer has no eos token.
        """
        length = self.source_length
        encoded = token_ids(tokenizer, self.sources(examples)).input_ids
        return [
            Prompt(with_ends(tokenizer, ids[:length]), example, len(ids) > length)
            for example, ids in enumerate(encoded)
        ]

    def training_pairs(self, tokenizer: PreTrainedTokenizerBase, examples: dict) -> list[tuple[Prompt, str]]:
        """The prompts that the model is trained on, each with the text that it must write."""
        targets = self.targets(examples)
        return [(prompt, targets[prompt.example]) for prompt in self.prompts(tokenizer, examples)]

    def check(self, tokenizer: PreTrainedTokenizerBase, prompt: str, context: int) -> None:
        super().check(tokenizer, prompt, context)
        warn_about_lost_text(tokenizer)

    def encode(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, name: str) -> EncodedData:
        block_size = self.args.block_size
        index = smallest_type(block_size)
        sizes = {"source_is_truncated": index, "target_is_truncated": index, "num_bytes": Value("int64")}
        features = packed_features(tokenizer, block_size, prompt_lengths=List(index), **sizes)
        steps = EncodePairs(self, tokenizer), PackExamples(block_size, tokenizer.pad_token_id)
        rows = encode_batches(examples, steps, features, self.args, f"Encoding {name} examples")
        sources, targets = (column_sum(rows, f"{part}_is_truncated") for part in ("source", "target"))
        remedy = "--block_size and --max_source_tokens set the length"
        log_truncated(sources, len(examples), name, *self.truncated_part, remedy)
        remedy = "raise --max_target_tokens: from a truncated target, the model does not learn where to stop"
        log_truncated(targets, len(examples), name, "target", self.args.max_target_tokens, remedy)
        num_bytes, num_tokens = (column_sum(rows, column) for column in ("num_bytes", "num_tokens"))
        return EncodedData(rows, block_size, len(examples), num_bytes, num_tokens, unit="examples")

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict]], Mapping[str, torch.Tensor]]:
        return UnpackRows()

    def sample_scores(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sample: Dataset, batch_size: int = 32
    ) -> dict[str, float]:
        predictions = self.predict(model, tokenizer, sample, batch_size, DecodingArguments(num_beams=1))
        return self.selected_scores(predictions, sample)  # beams take several times as long

    def num_truncated(self, tokenizer: PreTrainedTokenizerBase, examples: Dataset) -> int:
        return sum(prompt.is_truncated for prompt in self.prompts(tokenizer, examples))

    def predict(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        examples: Dataset,
        batch_size: int = 32,
        decoding: DecodingArguments | None = None,
    ) -> list[str]:
        """The texts that the model writes. What `decoding` leaves open is as in `default_decoding`.

        Raises:
            UserError: a value of `decoding` is out of range, or its `max_new_tokens` exceed the context of the model.
        """
        prompts = self.prompts(tokenizer, examples)
        lengths = [len(prompt.input_ids) for prompt in prompts]
        if decoding is not None and decoding.max_new_tokens is not None:
            longest = max(lengths, default=0)
            check_length(decoding.max_new_tokens, longest, model.config.max_position_embeddings)
        defaults = {"max_new_tokens": self.args.max_target_tokens, **self.default_decoding}
        decoding = (decoding or DecodingArguments()).completed(defaults)
        if decoding.seed is not None:
            set_seed(decoding.seed)
        texts = [""] * len(prompts)
        model.eval()
        for batch in batches_of_like_length(lengths, batch_size, self.name):
            inputs = padded_left(tokenizer, [prompts[i] for i in batch])
            source_length = inputs["input_ids"].shape[1]
            tokens = write(model, tokenizer, inputs.to(model.device), decoding, ignored=source_length)
            written = tokenizer.batch_decode(tokens[:, source_length:], skip_special_tokens=True)
            for i, text in zip(batch, written, strict=True):
                texts[i] = text.strip()
        return self.best_texts(model, tokenizer, prompts, texts, batch_size)

    def best_texts(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompts: list[Prompt],
        texts: list[str],
        batch_size: int,
    ) -> list[str]:
        """The prediction for each example, from the texts that the model wrote after the prompts."""
        return texts


def check_length(max_new_tokens: int, prompt_length: int, context: int) -> None:
    """Raises `UserError` if a prompt and the new tokens are longer than the context of the model."""
    if prompt_length + max_new_tokens > context:
        raise UserError(
            f"--max_new_tokens is {max_new_tokens}, but the longest prompt has {prompt_length} tokens, and the model "
            f"reads at most {context} in all; give at most {max(context - prompt_length, 1)}."
        )


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], return_offsets_mapping: bool = False
) -> BatchEncoding:
    """The `input_ids` of sources or targets, without special tokens."""
    return tokenizer(
        texts,
        add_special_tokens=False,
        split_special_tokens=True,
        return_offsets_mapping=return_offsets_mapping,
        verbose=False,
    )


def with_ends(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[int]:
    """The ids of a source between bos, if the tokenizer has one, and eos. Raises `UserError` without eos."""
    if tokenizer.eos_token_id is None:
        raise UserError("The tokenizer has no eos token, which separates a source from its target; choose another.")
    prefix = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    return [*prefix, *ids, tokenizer.eos_token_id]


def padded_left(tokenizer: PreTrainedTokenizerBase, prompts: list[Prompt]) -> BatchEncoding:
    """`input_ids` and `attention_mask` `[B, T]`: each prompt ends in the last column."""
    return tokenizer.pad(
        {"input_ids": [prompt.input_ids for prompt in prompts]}, padding_side="left", return_tensors="pt"
    )


@dataclass
class EncodePairs:
    """Batched map: examples -> `input_ids`, `prompt_length` and `num_bytes`, and what is truncated.

    The first prompt of an example has its `num_bytes`, and says whether its source or its target is truncated.
    """

    task: TextToTextTask
    tokenizer: PreTrainedTokenizerBase
    code: tuple[str, ...] = ()

    def __post_init__(self):
        self.code = self.task.code

    def __call__(self, batch: dict) -> dict:
        prompts, targets = zip(*self.task.training_pairs(self.tokenizer, batch), strict=True)
        encoded = token_ids(self.tokenizer, list(targets)).input_ids
        longest = self.task.args.max_target_tokens
        target_ids = [self._target(ids, longest) for ids in encoded]
        truncated = {prompt.example for prompt, ids in zip(prompts, encoded, strict=True) if len(ids) > longest}
        texts = zip(self.task.sources(batch), self.task.targets(batch), strict=True)
        sizes = [len(f"{source}{target}".encode()) for source, target in texts]
        examples = [prompt.example for prompt in prompts]
        is_first = [example != before for before, example in pairwise([-1, *examples])]
        return {
            "input_ids": [[*prompt.input_ids, *ids] for prompt, ids in zip(prompts, target_ids, strict=True)],
            "prompt_length": [len(prompt.input_ids) for prompt in prompts],
            "source_is_truncated": [prompt.is_truncated for prompt in prompts],
            "target_is_truncated": [
                first and example in truncated for first, example in zip(is_first, examples, strict=True)
            ],
            "num_bytes": [first * sizes[example] for first, example in zip(is_first, examples, strict=True)],
        }

    def _target(self, ids: list[int], longest: int) -> list[int]:
        """The target and eos, or a truncated target without eos: the model must not learn to stop in the middle."""
        return ids[:longest] if len(ids) > longest else [*ids, self.tokenizer.eos_token_id]
