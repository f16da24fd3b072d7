"""Every preset loads, holds only fields that differ, and has as many parameters as the model it is named after."""

import inspect
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import (
    AutoConfig,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    ViTConfig,
    ViTForImageClassification,
)

from modeling_mini import MiniConfig, MiniForMaskedLM, presets
from modeling_mini.presets import configuration_path, count_parameters, preset_names, preset_path, preset_table


NAMES = preset_names()

# Fields that every preset states, whether or not the default happens to be the same.
SHAPE = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
}

# Preset: published parameters, relative tolerance. The parts that our model lacks (learned positions; BERT's segments,
# embedding norm, pooler and the dense layer of its head) are 0.3 to 2% of a model; test_parameters_equal_the_original
# accounts for them one by one. The rest of the difference is rounding in the publications.
PUBLISHED = {
    # Radford et al. 2019, as corrected in the README of openai/gpt-2 (the paper prints 117M and 345M).
    "base": (124e6, 0.01),
    "large": (355e6, 0.01),
    # Devlin et al. 2019, section 3, where the exact counts of BertModel are 109.5M and 335.1M.
    "bert-base": (110e6, 0.02),
    "bert-large": (340e6, 0.02),
    # Brown et al. 2020, table 2.1: two or three digits, and 13B with a width of 5140 that 40 heads do not divide.
    "gpt3-125m": (125e6, 0.025),
    "gpt3-350m": (350e6, 0.025),
    "gpt3-760m": (760e6, 0.025),
    "gpt3-1.3b": (1.3e9, 0.025),
    "gpt3-2.7b": (2.7e9, 0.025),
    "gpt3-6.7b": (6.7e9, 0.025),
    "gpt3-13b": (13.0e9, 0.025),
    "gpt3-175b": (174.6e9, 0.005),
}


def load(name):
    return AutoConfig.from_pretrained(preset_path(name))


def body(name):
    return json.loads(preset_path(name).read_text(encoding="utf-8"))


def sum_parameters(model, without=()):
    """Parameters of a model, except those whose names start with a prefix in `without`; a tied one counts once.

    Each prefix must match something, so that a renaming in a library is noticed.
    """
    counts = {name: parameter.numel() for name, parameter in model.named_parameters()}
    for prefix in without:
        dropped = [name for name in counts if name.startswith(prefix)]
        assert dropped, f"{prefix} is not in {type(model).__name__}"
        for name in dropped:
            del counts[name]
    return sum(counts.values())


def gpt2_parameters(config):
    """GPT-2 in this shape, without its learned positions. GPT-3 "uses the same model" (Brown et al. 2020, 2.1)."""
    twin = GPT2Config(
        vocab_size=config.vocab_size,
        n_embd=config.hidden_size,
        n_inner=config.intermediate_size,
        n_layer=config.num_hidden_layers,
        n_head=config.num_attention_heads,
        n_positions=config.max_position_embeddings,
    )
    return sum_parameters(GPT2LMHeadModel(twin), without=["transformer.wpe."])


def bert_parameters(config):
    """BERT in this shape, without learned positions, segments, embedding norm and the dense layer of its head.

    BertForMaskedLM has no pooler.
    """
    twin = BertConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        max_position_embeddings=config.max_position_embeddings,
    )
    embeddings = [
        f"bert.embeddings.{piece}." for piece in ("position_embeddings", "token_type_embeddings", "LayerNorm")
    ]
    return sum_parameters(BertForMaskedLM(twin), without=[*embeddings, "cls.predictions.transform."])


def reference_parameters(config):
    """The reference: nn.Embedding, nn.TransformerEncoder, nn.Linear."""
    layer = nn.TransformerEncoderLayer(config.hidden_size, config.num_attention_heads)
    encoder = nn.TransformerEncoder(layer, config.num_hidden_layers, enable_nested_tensor=False)
    parts = nn.Embedding(config.vocab_size, config.hidden_size), nn.Linear(config.hidden_size, config.vocab_size)
    return sum(map(sum_parameters, (encoder, *parts)))


def test_these_presets_exist():
    gpt3 = ["gpt3-1.3b", "gpt3-125m", "gpt3-13b", "gpt3-175b", "gpt3-2.7b", "gpt3-350m", "gpt3-6.7b", "gpt3-760m"]
    assert preset_names() == ["base", "bert-base", "bert-huge", "bert-large", *gpt3, "large", "nano", "seed", "small"]


@pytest.mark.parametrize("name", NAMES)
def test_loads_as_our_config(name):
    config = load(name)
    assert type(config) is MiniConfig
    assert {field: getattr(config, field) for field in body(name)} == body(name)


@pytest.mark.parametrize("name", NAMES)
def test_has_no_unknown_field(name):
    unknown = set(body(name)) - set(MiniConfig.__annotations__) - {"model_type"}
    assert not unknown, f"{name}.json has fields that MiniConfig does not know: {sorted(unknown)}"


@pytest.mark.parametrize("name", NAMES)
def test_holds_the_shape_and_what_differs(name):
    fields, default = body(name), MiniConfig()
    assert set(fields) >= SHAPE
    repeated = {field for field in set(fields) - SHAPE - {"model_type"} if fields[field] == getattr(default, field)}
    assert not repeated, f"{name}.json repeats defaults: {sorted(repeated)}"


@pytest.mark.parametrize("name", NAMES)
def test_special_tokens_are_distinct_and_in_the_vocabulary(name):
    config = load(name)
    tokens = [config.pad_token_id, config.bos_token_id, config.eos_token_id]
    assert len(set(tokens)) == 3
    assert all(0 <= token < config.vocab_size for token in tokens)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_equal_the_original(name):
    """Exact: the parameters of the original in this shape, from another library, without the parts that ours lacks."""
    config = load(name)
    with torch.device("meta"):
        if name == "seed":
            expected = reference_parameters(config)
        else:
            expected = gpt2_parameters(config) if config.is_causal else bert_parameters(config)
    assert count_parameters(config) == expected


@pytest.mark.parametrize(("name", "published", "tolerance"), [(name, *entry) for name, entry in PUBLISHED.items()])
def test_parameters_are_near_the_published_figure(name, published, tolerance):
    assert count_parameters(load(name)) == pytest.approx(published, rel=tolerance)


def test_parameters_differ_from_gpt2_by_the_position_table():
    assert count_parameters(load("base")) == 124_439_808 - 1024 * 768
    assert count_parameters(load("large")) == 354_823_168 - 1024 * 1024


@pytest.mark.parametrize(("name", "bert"), [("bert-base", 109_482_240), ("bert-large", 335_141_888)])
def test_parameters_differ_from_bert_by_known_pieces(name, bert):
    config = load(name)
    hidden = config.hidden_size
    with torch.device("meta"):
        original = BertModel(BertConfig(**{field: body(name)[field] for field in SHAPE}))
    assert sum_parameters(original) == bert
    embeddings = 512 * hidden + 2 * hidden + 2 * hidden  # positions, segments, LayerNorm
    pooler = hidden * hidden + hidden
    output_bias = config.vocab_size  # of the masked language model; BertModel has none
    assert count_parameters(config) == bert - embeddings - pooler + output_bias


@pytest.mark.parametrize(
    ("size", "head_size"),
    zip(
        ["125m", "350m", "760m", "1.3b", "2.7b", "6.7b", "13b", "175b"],
        [64, 64, 96, 128, 80, 128, 128, 128],
        strict=True,
    ),
)
def test_gpt3_has_the_published_head_size(size, head_size):
    """Column d_head of table 2.1 in Brown et al. 2020. The number of parameters does not depend on it."""
    config = load(f"gpt3-{size}")
    assert config.hidden_size == config.num_attention_heads * head_size


def test_bert_huge_has_the_shape_of_vit_huge():
    """Dosovitskiy et al. 2021, table 1: 632M parameters with the patches and classes of images."""
    fields = body("bert-huge")
    shape = {field: fields[field] for field in SHAPE - {"vocab_size", "max_position_embeddings"}}
    with torch.device("meta"):
        vit = ViTForImageClassification(ViTConfig(**shape, patch_size=14, num_labels=1000))
        ours = MiniForMaskedLM(load("bert-huge"))
    assert sum_parameters(vit) == pytest.approx(632e6, rel=0.001)
    assert layer_parameters(ours) == layer_parameters(vit) > 0


def layer_parameters(model):
    return sum(p.numel() for name, p in model.named_parameters() if re.search(r"layers?\.\d+\.", name))


@pytest.mark.parametrize("name", ["bert-base", "bert-large", "bert-huge"])
def test_bert_has_the_layer_of_bert(name):
    """Devlin et al. 2019 as implemented in transformers; BERT is always post-norm."""
    config, original = load(name), BertConfig()
    assert config.hidden_act == original.hidden_act
    assert config.layer_norm_eps == original.layer_norm_eps
    assert config.hidden_dropout == original.hidden_dropout_prob
    assert config.attention_dropout == original.attention_probs_dropout_prob
    assert config.max_position_embeddings == original.max_position_embeddings
    assert config.vocab_size == original.vocab_size
    assert not config.norm_first
    assert not config.is_causal


def test_seed_is_the_reference_layer():
    """The sizes are the defaults of nn.Transformer; all other fields are those of nn.TransformerEncoderLayer."""
    config, fields = load("seed"), body("seed")
    whole = inspect.signature(nn.Transformer).parameters
    layer = inspect.signature(nn.TransformerEncoderLayer).parameters
    assert config.d_model == whole["d_model"].default == 512
    assert config.nhead == whole["nhead"].default == 8
    assert config.num_layers == whole["num_encoder_layers"].default == 6
    assert config.dim_feedforward == layer["dim_feedforward"].default == 2048
    assert config.hidden_dropout == config.attention_dropout == layer["dropout"].default == 0.1
    assert config.hidden_act == layer["activation"].default.__name__ == "relu"
    assert config.layer_norm_eps == layer["layer_norm_eps"].default
    assert config.norm_first is layer["norm_first"].default is False
    assert config.lm_head_bias is inspect.signature(nn.Linear).parameters["bias"].default is True
    assert fields["tie_word_embeddings"] is False
    assert config.is_causal


def test_table_names_every_preset_from_small_to_large():
    heading, *rows = preset_table().splitlines()
    assert heading.split()[:2] == ["preset", "parameters"]
    assert sorted(row.split()[0] for row in rows) == NAMES
    sizes = [int(row.split()[1].replace(",", "")) for row in rows]
    assert sizes == sorted(sizes)
    assert rows[0].split() == ["nano", "1,317,632", "4", "x", "128", "x", "4", "4,096", "causal", "pre-norm"]
    assert max(map(len, (heading, *rows))) <= 119


def test_readme_has_every_preset_and_its_exact_count():
    lines = configuration_path("README.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| `")]
    table = {row[0].strip("`"): row for row in rows}
    assert sorted(table) == NAMES
    for name, (_, shape, count, *_) in table.items():
        config = load(name)
        assert count == f"{count_parameters(config):,}"
        assert shape == f"{config.num_hidden_layers} x {config.hidden_size} x {config.num_attention_heads}"


def test_a_path_is_returned_as_given(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "modeling_mini", "hidden_size": 64}))
    assert preset_path(tmp_path) == tmp_path
    assert preset_path(str(tmp_path / "config.json")) == tmp_path / "config.json"
    assert AutoConfig.from_pretrained(preset_path(tmp_path)).hidden_size == 64


def test_a_preset_wins_over_a_directory_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    assert preset_path("nano") == configuration_path("models", "nano.json")
    assert preset_path("./nano") == Path("nano")


@pytest.mark.parametrize(
    ("wrong", "nearest"), [("smal", "small"), ("GPT3-1.3B", "gpt3-1.3b"), ("x/seed.json", "seed")]
)
def test_an_unknown_name_is_answered_with_the_nearest_preset(wrong, nearest):
    with pytest.raises(ValueError, match=f"nearest preset is '{nearest}', and `modeling-mini presets` lists them"):
        preset_path(wrong)


@pytest.mark.parametrize("location", ["modeling_mini/configuration", "configuration"], ids=["wheel", "checkout"])
def test_configuration_is_found_in_a_wheel_and_in_a_checkout(tmp_path, monkeypatch, location):
    (tmp_path / "modeling_mini").mkdir()
    shutil.copytree(configuration_path("models"), tmp_path / location / "models")
    monkeypatch.setattr(presets, "__file__", str(tmp_path / "modeling_mini" / "presets.py"))
    assert configuration_path("models", "nano.json") == tmp_path.resolve() / location / "models" / "nano.json"
    assert preset_names() == NAMES


def test_a_configuration_directory_of_another_package_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "modeling_mini").mkdir()
    (tmp_path / "configuration").mkdir()
    monkeypatch.setattr(presets, "__file__", str(tmp_path / "modeling_mini" / "presets.py"))
    with pytest.raises(FileNotFoundError, match="install modeling_mini again"):
        preset_names()


def test_the_module_imports_neither_torch_nor_transformers():
    code = (
        "import runpy, sys; module = runpy.run_path(sys.argv[1]); assert 'nano' in module['preset_names'](); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, presets.__file__], check=True)
