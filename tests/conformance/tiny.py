"""Tiny random checkpoints for the pipeline tests, in the folders where transformers looks for them."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging


SPECIAL_TOKENS = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk", "mask")}
WORDS = "the a old small big cat dog house tree rain sees sleeps near and this example is about it . , <extra>".split()


def save_tiny_checkpoints(testers, folder: Path) -> None:
    """Save `folder/<model type>/<class>` for each class of each tester, and the summary with their tokenizer class."""
    logging.disable_progress_bar()
    summary = {}
    for tester in testers:
        for model_class in tester.all_model_classes:
            torch.manual_seed(0)
            target = folder / tester.config_class.model_type / model_class.__name__
            config = tester.get_config()
            config.label2id = {"entailment": 0, "neutral": 1, "contradiction": 2}  # the zero-shot pipeline needs it
            config.id2label = {i: label for label, i in config.label2id.items()}
            model_class(config).save_pretrained(target)
            _word_tokenizer().save_pretrained(target)
            summary[model_class.__name__] = {
                "tokenizer_classes": ["PreTrainedTokenizerFast"],
                "processor_classes": [],
                "model_classes": [model_class.__name__],
            }
    (folder / "reports").mkdir(exist_ok=True)
    (folder / "reports" / "tiny_model_summary.json").write_text(json.dumps(summary))


def _word_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL_TOKENS.values(), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=512,
        **SPECIAL_TOKENS,
    )
