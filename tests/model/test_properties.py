"""Properties of every configuration and every input, for which hypothesis searches counterexamples.

The examples are the same in each run. `HYPOTHESIS_PROFILE=thorough` tries many more, different ones each time, and
shrinks those that fail, which takes minutes.
"""

import json
import math
import os
from itertools import pairwise

import pytest
import torch
from classes import MODEL_CLASSES
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig, DynamicCache, StaticCache
from transformers.activations import ACT2FN

from modeling_mini import (
    MiniConfig,
    MiniForCausalLM,
    MiniForMaskedLM,
    MiniForQuestionAnswering,
    MiniForSequenceClassification,
    MiniForTokenClassification,
    MiniModel,
)
from modeling_mini.loss_mini import IGNORED_LABEL
from modeling_mini.masking_mini import CACHE_NAME
from modeling_mini.modeling_mini import sinusoidal_positions


COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile(
    "reproducible", max_examples=25, derandomize=True, database=None, phases=[Phase.generate], **COMMON
)
settings.register_profile("thorough", max_examples=500, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "reproducible"))

HEADS = MODEL_CLASSES
every_head = pytest.mark.parametrize("model_class", HEADS)
language_models = pytest.mark.parametrize("model_class", [MiniForCausalLM, MiniForMaskedLM])
with_data = given(data=st.data())

FUNCTIONS = sorted(name for name in ACT2FN if name not in ("prelu", "xielu"))

SIZES = [
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
]
SWITCHES = ["norm_first", "is_causal", "lm_head_bias", "tie_word_embeddings", "use_cache"]
PROBABILITIES = ["hidden_dropout", "attention_dropout", "token_dropout"]
PROBLEM_TYPES = ["regression", "single_label_classification", "multi_label_classification"]
ALIASES = [
    ("num_tokens", "vocab_size"),
    ("d_model", "hidden_size"),
    ("dim_feedforward", "intermediate_size"),
    ("num_layers", "num_hidden_layers"),
    ("nhead", "num_attention_heads"),
    ("num_key_value_heads", "num_attention_heads"),
]


@st.composite
def shapes(draw):
    """Sizes that fit together: heads of any size, and an even width."""
    head_dim = draw(st.sampled_from([1, 2, 3, 5, 8]))
    heads = draw(st.integers(1, 4).filter(lambda heads: heads * head_dim % 2 == 0))
    return {
        "hidden_size": heads * head_dim,
        "num_attention_heads": heads,
        "intermediate_size": draw(st.integers(1, 12)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "max_position_embeddings": draw(st.integers(1, 20)),  # often less than the length of the sequence
    }


@st.composite
def vocabularies(draw):
    """A vocabulary, and special tokens in it if it is large enough."""
    size = draw(st.integers(1, 40))
    token = st.integers(0, size - 1)
    pad = draw(st.none() | token)
    others = [token for token in range(size) if token != pad]
    end_tokens = st.none()
    if others:
        end_tokens = st.sampled_from(others) | st.lists(st.sampled_from(others), min_size=1, max_size=3)
    return {
        "vocab_size": size,
        "pad_token_id": pad,
        "bos_token_id": draw(st.none() | token),
        "eos_token_id": draw(st.none() | end_tokens),
    }


@st.composite
def tasks(draw):
    """Number of labels and problem type; single-label classification needs at least two labels."""
    count = draw(st.integers(1, 4))
    possible = [kind for kind in PROBLEM_TYPES if count > 1 or kind != "single_label_classification"]
    return {"num_labels": count, "problem_type": draw(st.none() | st.sampled_from(possible))}


@st.composite
def configurations(draw, **fixed):
    """Every field of a valid configuration."""
    fields = draw(shapes()) | draw(vocabularies()) | draw(tasks())
    fields |= {name: draw(st.booleans()) for name in SWITCHES}
    fields |= {name: draw(st.just(0) | st.floats(0, 0.9)) for name in PROBABILITIES}
    fields |= {
        "hidden_act": draw(st.sampled_from(FUNCTIONS)),
        "layer_norm_eps": draw(st.floats(1e-12, 0.1)),
        "initializer_range": draw(st.floats(0, 1, exclude_min=True)),
        "classifier_pooling": draw(st.sampled_from(["mean", "first_last_mean", "last"])),
    }
    return fields | fixed


@st.composite
def renamed(draw, fields):
    """The same fields, some of them under an alias."""
    names = {field: [field, *(alias for alias, target in ALIASES if target == field)] for field in fields}
    return {draw(st.sampled_from(names[field])): value for field, value in fields.items()}


@st.composite
def paddings(draw, rows, length, tokens=0):
    """A mask with padding on one or both sides of each row, which leaves at least `tokens` tokens."""
    mask = torch.zeros(rows, length, dtype=draw(st.sampled_from([torch.long, torch.bool])))
    for row in mask:
        left = draw(st.integers(0, length - tokens))
        right = draw(st.integers(0, length - tokens - left))
        row[left : length - right] = 1
    return mask


@st.composite
def splits(draw, length):
    """Lengths of the pieces that a sequence is split into."""
    inner = draw(st.sets(st.integers(1, length - 1))) if length > 1 else set()
    return [end - start for start, end in pairwise([0, *sorted(inner), length])]


def restarting_positions(rows):
    """Positions of packed rows, from the lengths of the documents in each row."""
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


@st.composite
def inputs(draw, model, tokens=0):
    """Inputs of any model: ids or embeddings, padding, and positions that are default, packed or random."""
    rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    dtype = draw(st.sampled_from([torch.int64, torch.int32]))
    contents = [
        {"input_ids": torch.randint(model.config.vocab_size, (rows, length), dtype=dtype)},
        {"inputs_embeds": torch.randn(rows, length, model.config.hidden_size, dtype=model.dtype)},
    ]
    packed = st.lists(splits(length), min_size=rows, max_size=rows).map(restarting_positions)
    return draw(st.sampled_from(contents)) | {
        "attention_mask": draw(st.none() | paddings(rows, length, tokens)),
        "position_ids": draw(st.none() | packed | st.just(torch.randint(100_000, (rows, length)))),
        "use_cache": draw(st.booleans()),
    }


@st.composite
def targets(draw, model_class, config, given_inputs):
    """Labels of each head. If the head allows ignored labels, none, some or all labels are ignored."""
    rows, length = next(iter(given_inputs.values())).shape[:2]
    if model_class is MiniModel:
        return {}
    if model_class is MiniForSequenceClassification:
        return {"labels": sequence_labels(config, rows)}
    if model_class is MiniForQuestionAnswering:
        # The last position is outside and ignored. At least one is inside: in transformers, the mean over none is NaN.
        positions = torch.tensor([0, length - 1, length])[:rows]
        return {"start_positions": positions, "end_positions": positions}
    classes = config.num_labels if model_class is MiniForTokenClassification else config.vocab_size
    ignored = torch.rand(rows, length) < draw(st.sampled_from([0, 0.5, 1]))
    return {"labels": torch.randint(classes, (rows, length)).masked_fill(ignored, IGNORED_LABEL)}


def sequence_labels(config, rows):
    if config.problem_type == "multi_label_classification":
        return torch.randint(2, (rows, config.num_labels)).float()
    if config.problem_type == "regression" or config.num_labels == 1:
        return torch.randn(rows, config.num_labels)
    return torch.randint(config.num_labels, (rows,))


def predictions(result):
    """The output of each row, in one tensor `[B, T, ...]` or `[B, ...]`."""
    if "start_logits" in result:
        return torch.stack((result.start_logits, result.end_logits), dim=-1)
    return result.logits if "logits" in result else result.last_hidden_state


def exact(model):
    """The model in float64, so that rounding is small even in an ill-conditioned configuration."""
    return model.double()


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@every_head
@with_data
def test_every_configuration_has_finite_loss_and_gradients_for_every_input(model_class, data):
    config = MiniConfig(**data.draw(configurations().flatmap(renamed)))
    torch.manual_seed(0)
    model = model_class(config).train()
    given_inputs = data.draw(inputs(model))
    result = model(**given_inputs, **data.draw(targets(model_class, config, given_inputs)))
    loss = result.last_hidden_state.square().mean() if model_class is MiniModel else result.loss
    assert loss.isfinite()
    loss.backward()
    unused = {"model.embed_tokens.weight", "embed_tokens.weight"} if "inputs_embeds" in given_inputs else set()
    for name, parameter in model.named_parameters():
        is_tied = "lm_head" in dict(model.named_children()) and config.tie_word_embeddings
        if name not in unused or is_tied:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder whose content each example replaces."""
    return tmp_path_factory.mktemp("checkpoint")


def saved_and_loaded(model, folder):
    model.save_pretrained(folder)
    loaded = type(model).from_pretrained(folder)
    for parameter in loaded.parameters():
        parameter.data = parameter.data.clone()  # not in the mapped file: rounding depends on memory alignment
    return loaded


@every_head
@with_data
@torch.no_grad()
def test_every_configuration_survives_saving_and_loading(tiny_model, folder, model_class, data):
    model = tiny_model(model_class, **data.draw(configurations()))
    given_inputs = data.draw(inputs(model))
    loaded = saved_and_loaded(model, folder)
    assert loaded.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    assert torch.equal(predictions(loaded(**given_inputs)), predictions(model(**given_inputs)))


@pytest.mark.parametrize("hidden_act", FUNCTIONS)
def test_every_activation_has_gradients_and_survives_saving_and_loading(
    tiny_model, random_ids, gradients, folder, hidden_act
):
    model = tiny_model(MiniForCausalLM, hidden_act=hidden_act)
    assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float32}
    ids = random_ids(2, 9)
    assert torch.equal(saved_and_loaded(model, folder)(ids).logits, model(ids).logits)
    model(ids, labels=ids).loss.backward()
    by_name = gradients(model)
    for name, _ in model.named_parameters():
        assert by_name[name].isfinite().all(), name
        assert by_name[name].any(), name


@with_data
def test_every_configuration_survives_a_round_trip_through_json(data):
    fields = data.draw(configurations())
    config = MiniConfig(**fields)
    again = MiniConfig.from_dict(json.loads(config.to_json_string()))
    assert {name: getattr(again, name) for name in fields} == fields
    assert again.to_dict() == config.to_dict()
    assert again.to_json_string() == config.to_json_string()


@with_data
def test_every_name_of_a_field_gives_the_same_configuration(data):
    fields = data.draw(configurations())
    assert MiniConfig(**data.draw(renamed(fields))) == MiniConfig(**fields)


@with_data
@torch.no_grad()
def test_greedy_generation_takes_the_most_probable_token(tiny_model, data):
    """With and without a cache, from left-padded prompts, up to a token that ends the text."""
    model = exact(tiny_model(MiniForCausalLM, **data.draw(configurations(is_causal=True))))
    rows, length = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 5))
    ids = torch.randint(model.config.vocab_size, (rows, length))
    mask = torch.ones_like(ids)
    for row in mask:
        row[: data.draw(st.integers(0, length - 1))] = 0
    longer = model.generate(
        ids, attention_mask=mask, max_new_tokens=4, do_sample=False, use_cache=data.draw(st.booleans())
    )
    assert torch.equal(longer[:, :length], ids)
    end_tokens = model.config.eos_token_id
    end_tokens = end_tokens if isinstance(end_tokens, list) else [end_tokens]
    has_ended = torch.zeros(rows, dtype=torch.bool)
    for i in range(length, longer.shape[1]):
        logits = model(longer[:, :i], attention_mask=mask).logits[:, -1]
        chosen = logits.gather(1, longer[:, i : i + 1])[:, 0]
        close(chosen[~has_ended], logits.max(-1).values[~has_ended])  # two tokens may be equally probable
        has_ended |= torch.tensor([token in end_tokens for token in longer[:, i].tolist()])
        mask = nn.functional.pad(mask, (0, 1), value=1)
    assert has_ended.all() or longer.shape[1] == length + 4


@given(configurations(is_causal=False))
def test_no_bidirectional_configuration_generates(fields):
    model = MiniForCausalLM(MiniConfig(**fields))
    with pytest.raises(ValueError, match="`is_causal=False`.*MiniForMaskedLM"):
        model.generate(torch.zeros(1, 2, dtype=torch.long), max_new_tokens=1)


@with_data
@torch.no_grad()
def test_no_output_of_a_causal_model_depends_on_later_tokens(tiny_model, data):
    model = exact(tiny_model(MiniModel, **data.draw(configurations(is_causal=True, vocab_size=40))))
    given_inputs = data.draw(inputs(model))
    name = next(iter(given_inputs))
    before = model(**given_inputs).last_hidden_state
    t = data.draw(st.integers(0, before.shape[1] - 1))
    changed = given_inputs[name].clone()
    changed[:, t] = (changed[:, t] + 1) % 40
    after = model(**given_inputs | {name: changed}).last_hidden_state
    close(after[:, :t], before[:, :t])


@pytest.mark.parametrize("model_class", [MiniModel, MiniForSequenceClassification])
@with_data
@torch.no_grad()
def test_padding_on_either_side_does_not_change_the_outputs_of_a_row(tiny_model, model_class, data):
    model = exact(tiny_model(model_class, **data.draw(configurations())))
    ids = torch.randint(model.config.vocab_size, (3, 8))
    mask = data.draw(paddings(3, 8, tokens=1))
    outputs = predictions(model(ids, attention_mask=mask))
    for i, attended in enumerate(mask.bool()):
        alone = ids[i : i + 1, attended]
        expected = predictions(model(alone, attention_mask=torch.ones_like(alone)))[0]
        close(outputs[i, attended] if model_class is MiniModel else outputs[i], expected)


@with_data
@torch.no_grad()
def test_packed_documents_of_any_lengths_equal_each_alone(tiny_model, data):
    model = exact(tiny_model(MiniModel, **data.draw(configurations())))
    rows = [data.draw(splits(9)) for _ in range(2)]
    ids = torch.randint(model.config.vocab_size, (2, 9))
    mask = data.draw(st.none() | st.just(torch.ones_like(ids)))
    packed = model(
        ids,
        attention_mask=mask,
        position_ids=restarting_positions(rows),
        use_cache=data.draw(st.booleans()),
    ).last_hidden_state
    for i, row in enumerate(rows):
        for part, document in zip(packed[i].split(row), ids[i].split(row)):
            close(part, model(document[None]).last_hidden_state[0])


@with_data
@torch.no_grad()
def test_a_sequence_given_in_any_pieces_equals_the_whole(tiny_model, data):
    model = exact(tiny_model(MiniForCausalLM, **data.draw(configurations(is_causal=True))))
    ids = torch.randint(model.config.vocab_size, (2, 9))
    first = data.draw(st.none() | st.lists(st.integers(0, 8), min_size=2, max_size=2))  # tokens after the padding
    mask = None if first is None else (torch.arange(9) >= torch.tensor(first)[:, None]).long()
    kinds = [DynamicCache(config=model.config), StaticCache(model.config, max_cache_len=12)]
    cache, logits, end = data.draw(st.sampled_from(kinds)), [], 0
    for piece in ids.split(data.draw(splits(9)), dim=1):
        end += piece.shape[1]
        seen = None if mask is None else mask[:, :end]
        logits.append(model(piece, attention_mask=seen, use_cache=True, **{CACHE_NAME: cache}).logits)
    expected = model(ids, attention_mask=mask, use_cache=False).logits
    attended = torch.ones_like(ids).bool() if mask is None else mask.bool()
    close(torch.cat(logits, dim=1)[attended], expected[attended])


@every_head
@with_data
@torch.no_grad()
def test_rows_in_another_order_give_their_outputs_in_that_order(tiny_model, model_class, data):
    model = exact(tiny_model(model_class, **data.draw(configurations())))
    given_inputs = data.draw(inputs(model))
    expected = predictions(model(**given_inputs))
    order = data.draw(st.permutations(range(len(expected))))
    shuffled = {name: value[order] if torch.is_tensor(value) else value for name, value in given_inputs.items()}
    close(predictions(model(**shuffled)), expected[order])


@language_models
@with_data
def test_the_loss_in_chunks_of_any_size_equals_plain_cross_entropy(tiny_model, model_class, data):
    model = exact(tiny_model(model_class, **data.draw(configurations())))
    given_inputs = data.draw(inputs(model))
    labels = data.draw(targets(model_class, model.config, given_inputs))["labels"]
    with_logits = model(**given_inputs, labels=labels)
    logits, aligned = with_logits.logits, labels
    if model_class is MiniForCausalLM:
        logits, aligned = logits[:, :-1], labels[:, 1:]
    logits, aligned = logits[aligned != IGNORED_LABEL], aligned[aligned != IGNORED_LABEL]
    expected = nn.functional.cross_entropy(logits, aligned) if len(aligned) else logits.sum()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("modeling_mini.loss_mini.LOGITS_PER_CHUNK", data.draw(st.integers(1, 1000)))
        without = model(**given_inputs, labels=labels, skip_logits=True)
    assert without.logits is None
    close(without.loss.double(), expected)
    close(with_logits.loss.double(), expected)
    close(gradient_of(without.loss, model), gradient_of(expected, model))


def gradient_of(loss, model):
    """The gradient with respect to the weight of the head."""
    return torch.autograd.grad(loss, model.lm_head.weight, allow_unused=True)[0]


@given(st.integers(1, 40).map(lambda half: 2 * half), st.lists(st.integers(0, 10**6), min_size=1, max_size=5))
def test_sinusoids_of_any_width_and_position_equal_the_two_formulas(width, positions):
    sinusoids = sinusoidal_positions(torch.tensor(positions), width)
    angles = [[position / 10000 ** (2 * (i // 2) / width) for i in range(width)] for position in positions]
    expected = [[math.cos(a) if i % 2 else math.sin(a) for i, a in enumerate(row)] for row in angles]
    close(sinusoids, torch.tensor(expected), atol=1e-6)


# Values of types that a field does not accept, by the kind of field.
WORD = st.text("abc_", min_size=1, max_size=5)
NOT_A_SIZE = st.floats() | WORD | st.none() | st.booleans() | st.lists(st.integers(), max_size=2)
NOT_A_SWITCH = st.integers() | st.floats() | WORD | st.none()
NOT_A_NUMBER = WORD | st.none() | st.booleans() | st.lists(st.floats(), max_size=2)
NOT_A_NAME = st.integers() | st.none() | st.booleans() | st.lists(st.just("gelu"), max_size=2)
NOT_A_TOKEN = st.floats() | WORD | st.booleans() | st.tuples(st.integers(0, 5))


WRONG_TYPES = {
    **dict.fromkeys(SIZES, NOT_A_SIZE),
    **dict.fromkeys(SWITCHES, NOT_A_SWITCH),
    **dict.fromkeys(PROBABILITIES, NOT_A_NUMBER),
    "layer_norm_eps": NOT_A_NUMBER | st.integers(),
    "initializer_range": NOT_A_NUMBER,
    "hidden_act": NOT_A_NAME,
    "classifier_pooling": NOT_A_NAME | WORD,
    "pad_token_id": NOT_A_TOKEN | st.lists(st.integers(0, 5), max_size=1),
    "bos_token_id": NOT_A_TOKEN,
    "eos_token_id": NOT_A_TOKEN | st.lists(NOT_A_TOKEN | st.none(), min_size=1, max_size=2),
    "num_labels": NOT_A_SIZE | st.integers(max_value=0),
    "problem_type": st.integers() | WORD,
}

NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])
NEGATIVE = st.floats(max_value=0, exclude_max=True)
NOT_A_PROBABILITY = NOT_FINITE | NEGATIVE | st.floats(min_value=1) | st.integers(min_value=1)
OUT_OF_RANGE = {
    **dict.fromkeys(SIZES, st.integers(max_value=0)),
    **dict.fromkeys(PROBABILITIES, NOT_A_PROBABILITY),
    "layer_norm_eps": NOT_FINITE | NEGATIVE | st.just(0.0),
    "initializer_range": NOT_FINITE | NEGATIVE | st.just(0.0),
    "hidden_act": WORD | st.sampled_from(["prelu", "xielu"]),
}


@st.composite
def inconsistent_fields(draw):
    """Fields that are valid on their own but do not fit together; the error must name the first."""
    token = draw(st.integers(0, 39))
    others = draw(st.lists(st.integers(0, 39), max_size=2))
    heads = draw(st.integers(2, 9))
    return draw(
        st.sampled_from(
            [
                {"hidden_size": 2 * heads + 1, "num_attention_heads": 1},
                {"hidden_size": 2 * heads * draw(st.integers(1, 3)) + 2, "num_attention_heads": 2 * heads},
                {"pad_token_id": token, "eos_token_id": token},
                {"pad_token_id": token, "eos_token_id": [*others, token]},
                {"eos_token_id": []},
            ]
        )
    )


def refusals(folder, fields, violation):
    """The errors of the constructor and of each way of loading, for a valid configuration with this violation."""
    MiniConfig(**fields).save_pretrained(folder)
    for build in (
        lambda: MiniConfig(**(fields | violation)),
        lambda: MiniConfig.from_pretrained(folder, **violation),
        lambda: AutoConfig.from_pretrained(folder, **violation),
    ):
        with pytest.raises((StrictDataclassFieldValidationError, StrictDataclassClassValidationError)) as refusal:
            build()
        yield refusal.value


@pytest.mark.parametrize("name", WRONG_TYPES)
@with_data
def test_every_wrong_type_is_refused_with_the_name_of_the_field_and_the_value(folder, name, data):
    fields = data.draw(configurations())
    value = data.draw(WRONG_TYPES[name])
    for refusal in refusals(folder, fields, {name: value}):
        assert_names(refusal, name, value)


@pytest.mark.parametrize(("alias", "name"), ALIASES)
@with_data
def test_every_wrong_type_under_an_alias_is_refused_with_the_name_of_the_field(folder, alias, name, data):
    fields = data.draw(configurations())
    value = data.draw(NOT_A_SIZE)
    for refusal in refusals(folder, fields, {alias: value}):
        assert_names(refusal, name, value)


def assert_names(refusal, name, value):
    assert isinstance(refusal, StrictDataclassFieldValidationError)
    assert f"'{name}'" in str(refusal)
    assert str(value) in str(refusal)


@pytest.mark.parametrize("name", OUT_OF_RANGE)
@with_data
def test_every_value_out_of_range_is_refused_in_a_sentence(folder, name, data):
    fields = data.draw(configurations(vocab_size=40))
    value = data.draw(OUT_OF_RANGE[name])
    violation = data.draw(renamed({name: value}))
    for refusal in refusals(folder, fields, violation):
        assert_is_a_sentence(refusal, f"`{name}` is {value!r}")


@with_data
def test_every_inconsistent_combination_is_refused_in_a_sentence(folder, data):
    fields = data.draw(configurations(vocab_size=40))
    violation = data.draw(inconsistent_fields())
    for refusal in refusals(folder, fields, violation):
        assert_is_a_sentence(refusal, f"`{next(iter(violation))}`")


def assert_is_a_sentence(refusal, beginning):
    """One sentence that gives the value and, after a semicolon, the fix."""
    assert isinstance(refusal, StrictDataclassClassValidationError)
    assert isinstance(refusal.__cause__, ValueError)
    sentence = str(refusal.__cause__)
    assert sentence.startswith(beginning)
    assert "; " in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence
