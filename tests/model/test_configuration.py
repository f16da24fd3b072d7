"""MiniConfig: what it refuses and how it says so, its aliases, its warnings, and its way to JSON and back."""

import json
import logging

import pytest
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from transformers import AutoConfig

from modeling_mini import MiniConfig


# Shapes and numbers that do not fit: the overrides, and what the sentence must name.
MISFITS = [
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
    ({"layer_norm_eps": 0.0}, ["`layer_norm_eps` is 0.0", "positive"]),
    ({"layer_norm_eps": float("nan")}, ["`layer_norm_eps` is nan", "positive"]),
    ({"layer_norm_eps": float("inf")}, ["`layer_norm_eps` is inf", "positive"]),
    ({"initializer_range": -0.02}, ["`initializer_range` is -0.02", "positive"]),
    ({"initializer_range": 0}, ["`initializer_range` is 0", "positive"]),
    ({"initializer_range": float("nan")}, ["`initializer_range` is nan", "positive"]),
    ({"hidden_act": "prelu"}, ["`hidden_act` is 'prelu'", "weights of its own"]),
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
named = pytest.mark.parametrize("overrides", WRONG_TYPES, ids=lambda overrides: next(iter(overrides)))
misfits = pytest.mark.parametrize(("overrides", "words"), MISFITS, ids=lambda x: str(x) if isinstance(x, dict) else "")
loaders = pytest.mark.parametrize("loader", [MiniConfig, AutoConfig], ids=["MiniConfig", "AutoConfig"])


@pytest.fixture
def saved(tmp_path, tiny_config):
    tiny_config().save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def log(caplog):
    """Messages at or above WARNING; the logger of transformers does not propagate, so it gets the handler itself."""
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    yield lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    library.removeHandler(caplog.handler)


@misfits
def test_a_misfit_is_refused_in_a_sentence_that_names_the_field(overrides, words):
    with pytest.raises(StrictDataclassClassValidationError) as refusal:
        MiniConfig(**overrides)
    assert isinstance(refusal.value.__cause__, ValueError)
    message = str(refusal.value.__cause__)
    assert all(word in message for word in words), message
    assert message.endswith(".")


@misfits
@loaders
def test_a_misfit_is_refused_when_it_overrides_a_saved_config(saved, overrides, words, loader):
    with pytest.raises(StrictDataclassClassValidationError) as refusal:
        loader.from_pretrained(saved, **overrides)
    assert all(word in str(refusal.value) for word in words)


@misfits
def test_a_misfit_written_into_config_json_is_refused(saved, overrides, words):
    path = saved / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | overrides))
    with pytest.raises(StrictDataclassClassValidationError) as refusal:
        AutoConfig.from_pretrained(saved)
    assert all(word in str(refusal.value) for word in words)


@named
def test_a_wrong_type_is_refused_with_the_name_of_the_field(overrides):
    with pytest.raises(StrictDataclassFieldValidationError, match=next(iter(overrides))):
        MiniConfig(**overrides)


@named
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
def test_what_lies_just_inside_the_limits_is_accepted(overrides):
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


def test_a_misfit_given_by_an_alias_is_refused():
    with pytest.raises(StrictDataclassClassValidationError, match="`hidden_size` is 35"):
        MiniConfig(d_model=35)


@loaders
def test_a_wrong_type_given_by_an_alias_is_refused_with_the_name_of_the_field(saved, loader):
    for build in (MiniConfig, lambda **overrides: loader.from_pretrained(saved, **overrides)):
        with pytest.raises(StrictDataclassFieldValidationError, match="'num_attention_heads' expected int, got float"):
            build(nhead=2.0)


@loaders
def test_one_label_is_no_choice_of_one_label(saved, loader):
    overrides = {"problem_type": "single_label_classification", "num_labels": 1}
    # transformers says so itself at the start, by a bare ValueError.
    with pytest.raises((ValueError, StrictDataclassClassValidationError), match="num_labels"):
        MiniConfig(**overrides)
    with pytest.raises(StrictDataclassClassValidationError, match="`num_labels` is 1"):
        loader.from_pretrained(saved, **overrides)


@pytest.mark.parametrize(
    ("misspelt", "nearest"),
    [("hidden_sise", "hidden_size"), ("n_head", "nhead"), ("num_attention_head", "num_attention_heads")],
)
def test_a_misspelt_field_is_kept_and_named_together_with_the_nearest_one(log, misspelt, nearest):
    assert getattr(MiniConfig(**{misspelt: 8}), misspelt) == 8
    assert len(log()) == 1
    assert f"`{misspelt}`" in log()[0]
    assert f"`{nearest}`" in log()[0]


@loaders
def test_a_misspelt_override_is_named_together_with_the_nearest_field(saved, log, loader):
    loader.from_pretrained(saved, hidden_sise=8)
    assert len(log()) == 1
    assert "`hidden_sise`" in log()[0]
    assert "`hidden_size`" in log()[0]


def test_a_field_like_no_other_is_named_without_a_suggestion(log):
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


def test_a_config_survives_the_way_to_json_and_back(tiny_config, tmp_path):
    config = tiny_config(eos_token_id=[2, 3], hidden_dropout=0, classifier_pooling="last", num_labels=5)
    config.save_pretrained(tmp_path)
    again = MiniConfig.from_pretrained(tmp_path)
    assert again.to_dict() | {"_name_or_path": ""} == config.to_dict() | {"_name_or_path": ""}
    assert again.auto_map == config.auto_map
    assert MiniConfig.from_json_file(tmp_path / "config.json").to_dict() == config.to_dict()
    again.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()


def test_the_auto_map_names_every_head_and_keeps_what_it_was_given():
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
def test_shapes_overridden_at_loading_equal_shapes_given_at_the_start(saved, tiny_config, loader):
    """Nothing is derived from the old shapes and kept."""
    shapes = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 3, "vocab_size": 50}
    found, expected = loader.from_pretrained(saved, **shapes).to_dict(), tiny_config(**shapes).to_dict()
    assert found | {"_name_or_path": ""} == expected | {"_name_or_path": ""}


def test_padding_that_ends_texts_is_refused_when_the_trainer_takes_it_from_a_tokenizer(saved, tmp_path):
    """Before the training, and not by the first save after it."""
    config = MiniConfig.from_pretrained(saved)
    with pytest.raises(StrictDataclassClassValidationError, match="are both 2"):
        config.pad_token_id = 2
    config.eos_token_id, config.pad_token_id = 0, 2  # the order of the Trainer
    config.save_pretrained(tmp_path)
    again = MiniConfig.from_pretrained(tmp_path, pad_token_id=0, eos_token_id=3)
    assert (again.pad_token_id, again.eos_token_id) == (0, 3)


def test_a_special_token_outside_the_vocabulary_does_not_stop_a_save(saved, tmp_path):
    """transformers warns of it: a tokenizer may have grown before the model does."""
    config = MiniConfig.from_pretrained(saved)
    config.bos_token_id = config.vocab_size
    config.save_pretrained(tmp_path)
    assert MiniConfig.from_pretrained(tmp_path).bos_token_id == config.vocab_size
