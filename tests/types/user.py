"""A program as a user would write it. `make lint` checks its types with mypy; nothing runs it."""

from typing import assert_type

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import modeling_mini
from modeling_mini import (
    MiniConfig,
    MiniForCausalLM,
    MiniForMaskedLM,
    MiniForQuestionAnswering,
    MiniForSequenceClassification,
    MiniForTokenClassification,
    MiniModel,
    MiniPreTrainedModel,
    register,
)
from modeling_mini.presets import preset_names, preset_path


register()
assert_type(modeling_mini.__version__, str)
assert_type(preset_names(), list[str])

config = MiniConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
assert_type(config.hidden_size, int)
assert_type(config.is_causal, bool)
assert_type(MiniConfig.from_pretrained(preset_path("nano")), MiniConfig)
AutoConfig.from_pretrained(preset_path("nano"), hidden_dropout=0.1)

model = MiniForCausalLM(config)
assert_type(MiniForCausalLM.from_pretrained("checkpoint"), MiniForCausalLM)
assert_type(model.config, MiniConfig)
input_ids = torch.zeros(1, 3, dtype=torch.long)
loss = model(input_ids=input_ids, labels=input_ids).loss
loss.backward()
model.generate(input_ids, max_new_tokens=20)
model.save_pretrained("checkpoint")
AutoModelForCausalLM.from_pretrained("checkpoint")

heads: list[type[MiniPreTrainedModel]] = [
    MiniForMaskedLM,
    MiniForQuestionAnswering,
    MiniForSequenceClassification,
    MiniForTokenClassification,
    MiniModel,
]
models: list[MiniPreTrainedModel] = [head(config) for head in heads]

unknown = modeling_mini.MiniConfiguration  # type: ignore[attr-defined]  # a name that does not exist is noticed
