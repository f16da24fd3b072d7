"""MiniConfig: refused values and their error sentences, aliases, warnings, and the round trip through JSON."""

import json
import logging

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig

from modeling_mini import MiniConfig


# Invalid sizes and numbers: the overrides, and the words that the error must contain.
INVALID_VALUES = [
    ({"hidden_size": 34}, ["`hidden_size` is 34", "`num_attention_heads` = 4"]),
    ({"hidden_size": 33, "num_attention_heads": 3}, ["`hidden_size` is 33", "even"]),
    ({"num_hidden_layers": -1}, ["`num_hidden_layers` is -1", "at least 1"]),
    ({"num_hidden_layers": 0}, ["`num_hidden_layers` is 0", "at least 1"]),
    ({"num_attention_heads": 0}, ["`num_attention_heads` is 0", "at least 1"]),
    ({"hidden_size": 0}, ["`hidden_size` is 0", "at least 1"]),
    ({"intermediate_size": -8}, ["`intermediate_size` is -8", "at least 1"]),
    ({"vocab_size": 0}, ["`vocab_size` is 0", "at least 1"]),
    ({"max_position_embeddings": 0}, ["`max_position_embeddings` is 0", "at least 1"]),
    ({"hidden_act": "gleu"}, ["`hidden_act` is 'gleu'", "'gelu'"]),
    ({"hidden_dropout": 1.0}, ["`hidden_dropout` is 1.0", "probability"]),
    ({"attention_dropout": -0.1}, ["`attention_dropout` is -0.1", "probability"]),
    ({"token_dropout": 1.0}, ["`token_dropout` is 1.0", "probability"]),
    ({"layer_norm_eps": 0.0}, ["`layer_norm_eps` is 0.0", "positive"]),
    ({"layer_norm_eps": float("nan")}, ["`layer_norm_eps` is nan", "positive"]),
    ({"layer_norm_eps": float("inf")}, ["`layer_norm_eps` is inf", "positive"]),
    ({"initializer_range": -0.02}, ["`initializer_range` is -0.02", "positive"]),
    ({"initializer_range": 0}, ["`initializer_range` is 0", "positive"]),
    ({"initializer_range": float("nan")}, ["`initializer_range` is nan", "positive"]),
    ({"hidden_act": "prelu"}, ["`hidden_act` is 'prelu'", "trainable weights"]),
    ({"pad_token_id": 2}, ["`pad_token_id` and `eos_token_id` are both 2"]),
    ({"pad_token_id": 7, "eos_token_id": [2, 7]}, ["`pad_token_id` and `eos_token_id` are both 7"]),
    ({"eos_token_id": []}, ["`eos_token_id` is an empty list", "None"]),
    ({"id2label": {}}, ["`id2label` is empty"]),
]
WRONG_TYPES = [
    {"vocab_size": "big"},
    {"hidden_size": 64.0},
    {"num_hidden_layers": None},
    {"num_attention_heads": True},
    {"norm_first": 1},
    {"is_causal": "yes"},
    {"hidden_dropout": "0.1"},
    {"layer_norm_eps": 1},
    {"hidden_act": None},
    {"classifier_pooling": "max"},
    {"eos_token_id": (2, 3)},
    {"pad_token_id": 0.0},
    {"problem_type": "classification"},
    {"num_labels": "3"},
    {"num_labels": 0},
    {"num_labels": True},
]
ALIASES = {
    "d_model": "hidden_size",
    "nhead": "num_attention_heads",
    "num_layers": "num_hidden_layers",
    "num_tokens": "vocab_size",
    "dim_feedforward": "intermediate_size",
    "num_key_value_heads": "num_attention_heads",
}
wrong_types = pytest.mark.parametrize("overrides", WRONG_TYPES, ids=lambda overrides: next(iter(overrides)))
invalid_values = pytest.mark.parametrize(
    ("overrides", "words"), INVALID_VALUES, ids=lambda x: str(x) if isinstance(x, dict) else ""
)
loaders = pytest.mark.parametrize("loader", [MiniConfig, AutoConfig], ids=["MiniConfig", "AutoConfig"])


@pytest.fixture
def saved(tmp_path, tiny_config):
    tiny_config().save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def log(caplog):
    """Messages at or above WARNING. The logger of transformers does not propagate, so the handler is added to it."""
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    library.removeHandler(caplog.handler)


@invalid_values
def test_an_invalid_value_is_refused_with_the_name_of_the_field(overrides, words):
    with pytest.raises(StrictDataclassClassValidationError) as refusal:
        MiniConfig(**overrides)
    assert isinstance(refusal.value.__cause__, ValueError)
    message = str(refusal.value.__cause__)
    assert all(word in message for word in words), message
    assert message.endswith(".")


@invalid_values
@loaders
def test_an_invalid_value_is_refused_when_it_overrides_a_saved_config(saved, overrides, words, loader):
    with pytest.raises(StrictDataclassClassValidationError) as refusal:
        loader.from_pretrained(saved, **overrides)
    assert all(word in str(refusal.value) for word in words)


@invalid_values
def test_an_invalid_value_in_config_json_is_refused(saved, overrides, words):
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | overrides))
    with pytest.raises(StrictDataclassClassValidationError) as refusal:
        AutoConfig.from_pretrained(saved)
    assert all(word in str(refusal.value) for word in words)


@wrong_types
def test_a_wrong_type_is_refused_with_the_name_of_the_field(overrides):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(overrides))):
        MiniConfig(**overrides)


@wrong_types
@loaders
def test_a_wrong_type_is_refused_when_it_overrides_a_saved_config(saved, overrides, loader):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(overrides))):
        loader.from_pretrained(saved, **overrides)


@pytest.mark.parametrize(
    "overrides",
    [
        {"pad_token_id": None, "eos_token_id": None},
        {"pad_token_id": None, "eos_token_id": [2, 3]},
        {"pad_token_id": 0, "eos_token_id": None},
        {"hidden_dropout": 0, "attention_dropout": 0.99, "initializer_range": 1},
        {"hidden_size": 2, "num_attention_heads": 1},
    ],
    ids=str,
)
def test_values_just_inside_the_limits_are_accepted(overrides):
    config = MiniConfig(**overrides)
    assert {name: getattr(config, name) for name in overrides} == overrides


@pytest.mark.parametrize(("alias", "field"), ALIASES.items())
def test_an_alias_gets_sets_and_initialises_its_field(saved, alias, field):
    assert getattr(MiniConfig(**{alias: 8}), field) == 8
    config = MiniConfig()
    assert getattr(config, alias) == getattr(config, field)
    setattr(config, alias, 16)
    assert getattr(config, field) == 16
    assert getattr(MiniConfig.from_pretrained(saved, **{alias: 16}), field) == 16
    assert alias not in config.to_dict()
    assert config.to_dict()[field] == 16


def test_an_invalid_value_given_by_an_alias_is_refused():
    with pytest.raises(StrictDataclassClassValidationError, match="`hidden_size` is 35"):
        MiniConfig(d_model=35)


@loaders
def test_a_wrong_type_given_by_an_alias_is_refused_with_the_name_of_the_field(saved, loader):
    for build in (MiniConfig, lambda **overrides: loader.from_pretrained(saved, **overrides)):
        with pytest.raises(StrictDataclassFieldValidationError, match="'num_attention_heads' expected int, got float"):
            build(nhead=2.0)


@loaders
def test_single_label_classification_with_one_label_is_refused(saved, loader):
    overrides = {"problem_type": "single_label_classification", "num_labels": 1}
    # In the constructor, transformers itself raises a plain ValueError.
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match="num_labels"):
        MiniConfig(**overrides)
    with pytest.raises(StrictDataclassClassValidationError, match="`num_labels` is 1"):
        loader.from_pretrained(saved, **overrides)


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [("hidden_sise", "hidden_size"), ("n_head", "nhead"), ("num_attention_head", "num_attention_heads")],
)
def test_a_misspelt_field_is_kept_and_a_warning_names_the_nearest_field(log, misspelt, nearest):
    assert getattr(MiniConfig(**{misspelt: 8}), misspelt) == 8
    assert len(log()) == 1
    assert f"`{misspelt}`" in log()[0]
    assert f"`{nearest}`" in log()[0]


@loaders
def test_the_warning_for_a_misspelt_override_names_the_nearest_field(saved, log, loader):
    loader.from_pretrained(saved, hidden_sise=8)
    assert len(log()) == 1
    assert "`hidden_sise`" in log()[0]
    assert "`hidden_size`" in log()[0]


def test_the_warning_for_a_field_unlike_any_other_has_no_suggestion(log):
    MiniConfig(zzz=1)
    assert log() == ["MiniConfig has no field `zzz`: it changes nothing in the model."]


def test_ordinary_use_logs_nothing(saved, log):
    MiniConfig()
    MiniConfig(d_model=64, num_labels=3, dtype="bfloat16", problem_type="regression", name_or_path="x")
    MiniConfig(id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1}, architectures=["MiniModel"])
    for loader in (MiniConfig, AutoConfig):
        loader.from_pretrained(saved)
        loader.from_pretrained(saved, trust_remote_code=False, revision="main", num_labels=3, hidden_size=64)
        loader.from_pretrained(saved, cache_dir=saved, token=False, force_download=False, local_files_only=True)
    assert log() == []


def test_a_config_survives_a_round_trip_through_json(tiny_config, tmp_path):
    config = tiny_config(eos_token_id=[2, 3], hidden_dropout=0, classifier_pooling="last", num_labels=5)
    config.save_pretrained(tmp_path)
    again = MiniConfig.from_pretrained(tmp_path)
    assert again.to_dict() | {"_name_or_path": ""} == config.to_dict() | {"_name_or_path": ""}
    assert again.auto_map == config.auto_map
    assert MiniConfig.from_json_file(tmp_path / "config.json").to_dict() == config.to_dict()
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()


def test_the_auto_map_names_every_head_and_keeps_given_entries():
    assert MiniConfig().auto_map == {
        "AutoConfig": "configuration_mini.MiniConfig",
        "AutoModel": "modeling_mini.MiniModel",
        "AutoModelForCausalLM": "modeling_mini.MiniForCausalLM",
        "AutoModelForMaskedLM": "modeling_mini.MiniForMaskedLM",
        "AutoModelForSequenceClassification": "modeling_mini.MiniForSequenceClassification",
        "AutoModelForTokenClassification": "modeling_mini.MiniForTokenClassification",
        "AutoModelForQuestionAnswering": "modeling_mini.MiniForQuestionAnswering",
    }
    config = MiniConfig(auto_map={"AutoModel": "user/repo--modeling_mini.MiniModel"})
    assert config.auto_map["AutoModel"] == "user/repo--modeling_mini.MiniModel"
    assert config.auto_map["AutoConfig"] == "configuration_mini.MiniConfig"
    assert MiniConfig().auto_map["AutoModel"] == "modeling_mini.MiniModel"


@loaders
def test_sizes_overridden_at_loading_equal_sizes_given_to_the_constructor(saved, tiny_config, loader):
    """No value that was derived from the old sizes is kept."""
    sizes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3, "vocab_size": 50}
    loaded, expected = loader.from_pretrained(saved, **sizes).to_dict(), tiny_config(**sizes).to_dict()
    assert loaded | {"_name_or_path": ""} == expected | {"_name_or_path": ""}


def test_a_padding_token_that_ends_texts_is_refused_when_the_trainer_sets_it(saved, tmp_path):
    """Before training starts, not at the first save."""
    config = MiniConfig.from_pretrained(saved)
    with pytest.raises(StrictDataclassClassValidationError, match="are both 2"):
        config.pad_token_id = 2
    config.eos_token_id, config.pad_token_id = 0, 2  # the order of the Trainer
    config.save_pretrained(tmp_path)
    again = MiniConfig.from_pretrained(tmp_path, pad_token_id=0, eos_token_id=3)
    assert (again.pad_token_id, again.eos_token_id) == (0, 3)


def test_a_special_token_outside_the_vocabulary_does_not_stop_a_save(saved, tmp_path):
    """transformers only logs a warning: a tokenizer may grow before the model does."""
    config = MiniConfig.from_pretrained(saved)
    config.bos_token_id = config.vocab_size
    config.save_pretrained(tmp_path)
    assert MiniConfig.from_pretrained(tmp_path).bos_token_id == config.vocab_size
