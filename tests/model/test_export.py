"""`torch.export` and ONNX: a program traced at one shape computes what the model computes at every other shape."""

import onnxruntime
import pytest
import torch
from classes import MODEL_CLASSES
from torch.export import Dim

from modeling_mini import MiniForCausalLM, MiniModel


EACH_CLASS = pytest.mark.parametrize("model_class", MODEL_CLASSES, ids=lambda cls: cls.__name__)
CAUSAL = pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "bidirectional"])

NAMES = ("input_ids", "attention_mask", "position_ids")

# A single token would be a decoding step, which a program for whole rows does not cover.
SHAPES = {0: Dim("batch"), 1: Dim("tokens", min=2)}
TRACED = (2, 9)
OTHER_SHAPES = [(1, 2), (3, 14), (5, 40)]

pytestmark = [
    pytest.mark.slow,
    # torch warns of the collectors of hidden states, which transformers keeps outside the model.
    pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning"),
]


@pytest.fixture
def traceable(tiny_model):
    """A model without a cache, because keys and values would be outputs too."""

    def build(model_class, attn_implementation="sdpa", **overrides):
        model = tiny_model(model_class, use_cache=False, **overrides)
        model.set_attn_implementation(attn_implementation)
        return model

    return build


@pytest.fixture
def inputs_of(random_ids):
    """`inputs_of(shape, names)`: rows with more and more padding on the left, and a mask and positions that agree.

    With `packed`, the first row holds two documents.
    """

    def build(shape, names, packed=False):
        mask = torch.ones(shape, dtype=torch.long)
        for i in range(1, shape[0]):
            mask[i, : min(i, shape[1] - 2)] = 0
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        if packed:
            positions[0] = torch.arange(shape[1]) % (shape[1] // 2 + 1)
        inputs = {"input_ids": random_ids(*shape), "attention_mask": mask, "position_ids": positions}
        return {name: inputs[name] for name in names}

    return build


def exported(model, inputs, strict=False):
    shapes = dict.fromkeys(inputs, SHAPES)
    return torch.export.export(model, (), kwargs=inputs, dynamic_shapes=shapes, strict=strict).module()


def without_padding(tensor, inputs):
    """The outputs at tokens that are not padding; the output of a sequence classifier is returned unchanged."""
    mask = inputs.get("attention_mask")
    return tensor if mask is None or tensor.shape[:2] != mask.shape else tensor[mask.bool()]


def assert_equal_outputs(outputs, expected, inputs):
    outputs = [without_padding(tensor, inputs) for tensor in outputs.values() if tensor is not None]
    expected = [without_padding(tensor, inputs) for tensor in expected.values() if tensor is not None]
    torch.testing.assert_close(outputs, expected, rtol=0, atol=1e-5)


@EACH_CLASS
@pytest.mark.parametrize("names", [NAMES[:1], NAMES[:2]], ids=["ids", "ids and mask"])
@torch.no_grad()
def test_exported_program_equals_the_model_at_every_shape(traceable, inputs_of, model_class, names):
    model = traceable(model_class)
    program = exported(model, inputs_of(TRACED, names))
    for shape in (TRACED, *OTHER_SHAPES):
        inputs = inputs_of(shape, names)
        assert_equal_outputs(program(**inputs), model(**inputs), inputs)


@CAUSAL
@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
@torch.no_grad()
def test_exported_program_keeps_padded_rows_and_packed_documents_apart(
    traceable, inputs_of, random_ids, pad, attn_implementation, strict, is_causal
):
    """The example rows hold one document each; the program must not depend on that."""
    model = traceable(MiniModel, attn_implementation, is_causal=is_causal)
    program = exported(model, inputs_of(TRACED, NAMES), strict)

    rows = [random_ids(length) for length in (12, 4, 7)]
    ids, mask = pad(rows, "left")
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    padded = program(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
    alone = [model(row[None]).last_hidden_state[0] for row in rows]
    torch.testing.assert_close(padded[mask.bool()], torch.cat(alone), rtol=0, atol=1e-5)

    ids, positions = torch.cat(rows)[None], torch.cat([torch.arange(len(row)) for row in rows])[None]
    packed = program(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions)
    torch.testing.assert_close(packed.last_hidden_state[0], torch.cat(alone), rtol=0, atol=1e-5)


@pytest.mark.filterwarnings("ignore:# The axis name:UserWarning", "ignore:.*LeafSpec:FutureWarning")
@pytest.mark.parametrize("names", [NAMES[:1], NAMES], ids=["ids", "ids, mask and positions"])
@torch.no_grad()
def test_onnx_program_equals_the_model_at_every_shape(traceable, inputs_of, tmp_path, names):
    model, inputs = traceable(MiniForCausalLM), inputs_of(TRACED, names)
    torch.onnx.export(
        model,
        kwargs=inputs,
        f=tmp_path / "model.onnx",
        dynamic_shapes=dict.fromkeys(inputs, SHAPES),
        dynamo=True,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for shape in (TRACED, *OTHER_SHAPES):
        inputs = inputs_of(shape, names, packed=True)
        [logits] = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        assert_equal_outputs({"logits": torch.from_numpy(logits)}, model(**inputs), inputs)
