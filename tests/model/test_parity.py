"""The model equals its reference: nn.Embedding x sqrt(d) + sinusoids -> nn.TransformerEncoder -> nn.Linear."""

import math

import pytest
import torch
from torch import nn

from modeling_mini import MiniForCausalLM, MiniForMaskedLM, MiniModel
from modeling_mini.modeling_mini import sinusoidal_positions


ACTIVATIONS = {"relu": nn.functional.relu, "gelu": nn.functional.gelu}


def written_out_sinusoids(positions, hidden_size):
    """PE(pos, 2i) = sin(pos / 10000^(2i/d)), PE(pos, 2i+1) = cos(pos / 10000^(2i/d)), one number at a time."""
    table = torch.empty(len(positions), hidden_size, dtype=torch.float64)
    for row, position in enumerate(positions):
        for i in range(hidden_size // 2):
            angle = position / 10000 ** (2 * i / hidden_size)
            table[row, 2 * i] = math.sin(angle)
            table[row, 2 * i + 1] = math.cos(angle)
    return table


class Reference(nn.Module):
    """The same network built from torch modules, with the weights of a Mini model."""

    def __init__(self, trunk, lm_head=None):
        super().__init__()
        config = trunk.config
        layer = nn.TransformerEncoderLayer(
            config.hidden_size,
            config.num_attention_heads,
            config.intermediate_size,
            dropout=0.0,
            activation=ACTIVATIONS[config.hidden_act],
            layer_norm_eps=config.layer_norm_eps,
            batch_first=True,
            norm_first=config.norm_first,
        )
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.norm_first else None
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.encoder = nn.TransformerEncoder(layer, config.num_hidden_layers, norm=norm, enable_nested_tensor=False)
        self.head = nn.Identity() if lm_head is None else nn.Linear(config.hidden_size, config.vocab_size)
        self.load_state_dict(self.translated(dict(trunk.named_parameters()), lm_head))

    def translated(self, trunk, lm_head):
        """Tensors of a Mini model under the names of this module."""
        pairs = {"embedding.weight": trunk["embed_tokens.weight"]}
        for i in range(len(self.encoder.layers)):
            mine, theirs = f"layers.{i}.", f"encoder.layers.{i}."
            for kind in ("weight", "bias"):
                projections = [trunk[f"{mine}self_attn.{name}_proj.{kind}"] for name in "qkv"]
                pairs[f"{theirs}self_attn.in_proj_{kind}"] = torch.cat(projections)
                pairs[f"{theirs}self_attn.out_proj.{kind}"] = trunk[f"{mine}self_attn.o_proj.{kind}"]
                pairs[f"{theirs}linear1.{kind}"] = trunk[f"{mine}mlp.up_proj.{kind}"]
                pairs[f"{theirs}linear2.{kind}"] = trunk[f"{mine}mlp.down_proj.{kind}"]
                pairs[f"{theirs}norm1.{kind}"] = trunk[f"{mine}input_layernorm.{kind}"]
                pairs[f"{theirs}norm2.{kind}"] = trunk[f"{mine}post_attention_layernorm.{kind}"]
        if self.encoder.norm is not None:
            pairs |= {f"encoder.norm.{kind}": trunk[f"norm.{kind}"] for kind in ("weight", "bias")}
        if lm_head is not None:
            pairs |= {"head.weight": lm_head.weight, "head.bias": lm_head.bias}
        return pairs

    def forward(self, input_ids, causal):
        length, width = input_ids.shape[1], self.embedding.embedding_dim
        hidden_states = self.embedding(input_ids) * math.sqrt(width)
        hidden_states = hidden_states + written_out_sinusoids(range(length), width).float()
        mask = nn.Transformer.generate_square_subsequent_mask(length) if causal else None
        return self.head(self.encoder(hidden_states, mask=mask))


SHAPES = pytest.mark.parametrize(
    ("norm_first", "hidden_act"), [(norm_first, act) for norm_first in (False, True) for act in ACTIVATIONS]
)
UNTIED = {"lm_head_bias": True, "tie_word_embeddings": False}


@pytest.mark.parametrize("hidden_size", [2, 6, 64, 250])
def test_sinusoids_equal_the_two_formulas_up_to_position_100_000(hidden_size):
    positions = torch.cat((torch.tensor([0, 1, 2, 99_999, 100_000]), torch.randint(100_000, (20,))))
    expected = written_out_sinusoids(positions.tolist(), hidden_size)
    sinusoids = sinusoidal_positions(positions.view(5, 5), hidden_size)
    assert sinusoids.dtype == torch.float32
    torch.testing.assert_close(sinusoids.double(), expected.view(5, 5, hidden_size), rtol=0, atol=1e-6)


@SHAPES
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_causal_lm_equals_torch_transformer_encoder(
    tiny_model, random_ids, norm_first, hidden_act, attn_implementation
):
    model = tiny_model(MiniForCausalLM, norm_first=norm_first, hidden_act=hidden_act, **UNTIED)
    model.set_attn_implementation(attn_implementation)
    reference = Reference(model.model, model.lm_head)
    ids = random_ids(2, 11)
    torch.testing.assert_close(model(ids).logits, reference(ids, causal=True), rtol=0, atol=1e-5)


@SHAPES
def test_gradients_equal_those_of_torch_transformer_encoder(tiny_model, random_ids, norm_first, hidden_act):
    model = tiny_model(MiniForCausalLM, norm_first=norm_first, hidden_act=hidden_act, **UNTIED)
    reference = Reference(model.model, model.lm_head)
    ids = random_ids(2, 11)
    weight = torch.randn(2, 11, model.config.vocab_size) / 100
    (model(ids).logits * weight).sum().backward()
    (reference(ids, causal=True) * weight).sum().backward()

    model.lm_head.weight, model.lm_head.bias = (nn.Parameter(p.grad) for p in model.lm_head.parameters())
    gradients = reference.translated({name: p.grad for name, p in model.model.named_parameters()}, model.lm_head)
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(
            gradients[name].data, gradient, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@SHAPES
def test_bidirectional_trunk_equals_torch_transformer_encoder_without_mask(
    tiny_model, random_ids, norm_first, hidden_act
):
    model = tiny_model(MiniModel, is_causal=False, norm_first=norm_first, hidden_act=hidden_act)
    ids = random_ids(2, 11)
    expected = Reference(model)(ids, causal=False)
    torch.testing.assert_close(model(ids).last_hidden_state, expected, rtol=0, atol=1e-5)


@SHAPES
def test_masked_lm_equals_torch_transformer_encoder_without_mask(tiny_model, random_ids, norm_first, hidden_act):
    model = tiny_model(MiniForMaskedLM, norm_first=norm_first, hidden_act=hidden_act, **UNTIED)
    ids = random_ids(2, 11)
    expected = Reference(model.model, model.lm_head)(ids, causal=False)
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-5)


def test_masked_lm_leaves_the_callers_config_causal(tiny_config):
    config = tiny_config()
    masked, causal = MiniForMaskedLM(config), MiniForCausalLM(config)
    assert (masked.config.is_causal, causal.config.is_causal, config.is_causal) == (False, True, True)
    # Servers read the flag from each attention module.
    assert [layer.self_attn.is_causal for layer in masked.model.layers] == [False, False]
    assert [layer.self_attn.is_causal for layer in causal.model.layers] == [True, True]


def test_tied_head_equals_the_embedding_table_as_linear_map(tiny_model, random_ids):
    model = tiny_model(MiniForCausalLM)
    ids = random_ids(2, 7)
    expected = model.model(ids).last_hidden_state @ model.model.embed_tokens.weight.T
    torch.testing.assert_close(model(ids).logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("embed_tokens.weight", 64**-0.5),
        ("self_attn.q_proj.weight", 0.05),
        ("self_attn.k_proj.weight", 0.05),
        ("self_attn.v_proj.weight", 0.05),
        ("mlp.up_proj.weight", 0.05),
        ("self_attn.o_proj.weight", 0.05 / math.sqrt(2 * 8)),
        ("mlp.down_proj.weight", 0.05 / math.sqrt(2 * 8)),
    ],
)
def test_initial_standard_deviations_equal_the_documented_ones(tiny_config, pattern, expected):
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 8, "vocab_size": 512}
    model = MiniForCausalLM(tiny_config(initializer_range=0.05, **sizes))
    weights = [p.flatten() for name, p in model.named_parameters() if name.endswith(pattern)]
    assert torch.cat(weights).std().item() == pytest.approx(expected, rel=0.02)  # 30,000 numbers: 0.4% noise
