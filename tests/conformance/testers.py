"""The models under test: for each, its classes, a tiny config and a batch, in the form that the mixins expect."""

import copy

import torch
from transformers import (
    GPT2Config,
    GPT2ForQuestionAnswering,
    GPT2ForSequenceClassification,
    GPT2ForTokenClassification,
    GPT2LMHeadModel,
    GPT2Model,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    LlamaModel,
)

from modeling_mini import (
    MiniConfig,
    MiniForCausalLM,
    MiniForMaskedLM,
    MiniForQuestionAnswering,
    MiniForSequenceClassification,
    MiniForTokenClassification,
    MiniModel,
)


# The sizes that transformers uses to test its text models. The odd vocabulary is not divisible by two ranks.
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


class ModelTester:
    """A model under test.

    Args:
        config_class: class of its config.
        classes: its classes by pipeline task, and by `"question-answering"`, which has no pipeline in transformers 5.
        overrides: fields of the config in addition to the common sizes.
    """

    is_training = True
    batch_size = 13
    seq_length = 7

    def __init__(self, config_class, classes, **overrides):
        self.config_class = config_class
        self.classes = classes
        self.overrides = overrides
        self.__dict__ |= SIZES
        self.base_model_class = classes["feature-extraction"]
        self.causal_lm_class = classes.get("text-generation")

    def varied(self, without=(), **overrides):
        """The same model with other fields, and without some of its tasks."""
        classes = {task: cls for task, cls in self.classes.items() if task not in without}
        return ModelTester(self.config_class, classes, **(self.overrides | overrides))

    def without_dropout(self):
        """The same model for comparisons of several ranks with one: each rank has its own random numbers."""
        return self.varied(**{name: 0.0 for name in vars(self.get_config()) if name.endswith(("drop", "dropout"))})

    @property
    def all_model_classes(self):
        return tuple(dict.fromkeys(self.classes.values()))

    @property
    def pipeline_model_mapping(self):
        tasks = {task: cls for task, cls in self.classes.items() if task != "question-answering"}
        return tasks | {"zero-shot": self.classes["text-classification"]}

    def get_config(self):
        accepted = {*self.config_class.__dataclass_fields__, *self.config_class.attribute_map}
        sizes = {name: value for name, value in SIZES.items() if name in accepted}
        return self.config_class(**(sizes | self.overrides))

    def prepare_config_and_inputs_for_common(self):
        input_ids = torch.randint(0, SIZES["vocab_size"], (self.batch_size, self.seq_length))
        # Row i attends to its first i + 1 tokens, so the first six rows are padded on the right.
        attention_mask = torch.ones_like(input_ids).tril()
        return self.get_config(), {"input_ids": input_ids, "attention_mask": attention_mask}

    def __deepcopy__(self, memo):
        return self.varied(**copy.deepcopy(self.overrides))


MINI = ModelTester(
    MiniConfig,
    {
        "feature-extraction": MiniModel,
        "text-generation": MiniForCausalLM,
        "fill-mask": MiniForMaskedLM,
        "text-classification": MiniForSequenceClassification,
        "token-classification": MiniForTokenClassification,
        "question-answering": MiniForQuestionAnswering,
    },
    hidden_dropout=0.1,
    attention_dropout=0.1,
)
# The reference layer of the article, and the encoder: every test also runs on these variants.
MINI_POST_NORM = MINI.varied(
    norm_first=False,
    hidden_act="relu",
    tie_word_embeddings=False,
    lm_head_bias=True,
    classifier_pooling="first_last_mean",
)
MINI_BIDIRECTIONAL = MINI.varied(is_causal=False, classifier_pooling="last", without=["text-generation"])

GPT2 = ModelTester(
    GPT2Config,
    {
        "feature-extraction": GPT2Model,
        "text-generation": GPT2LMHeadModel,
        "text-classification": GPT2ForSequenceClassification,
        "token-classification": GPT2ForTokenClassification,
        "question-answering": GPT2ForQuestionAnswering,
    },
)
LLAMA = ModelTester(
    LlamaConfig,
    {
        "feature-extraction": LlamaModel,
        "text-generation": LlamaForCausalLM,
        "text-classification": LlamaForSequenceClassification,
        "token-classification": LlamaForTokenClassification,
        "question-answering": LlamaForQuestionAnswering,
    },
)
