"""Cache, packing, padding, attention backend, compilation, checkpointing and dtype do not change the result."""

import inspect
import math
from contextlib import nullcontext

import pytest
import torch
from classes import MODEL_CLASSES
from transformers import DynamicCache, GenerationMixin, StaticCache

from modeling_mini import (
    MiniForCausalLM,
    MiniForMaskedLM,
    MiniForQuestionAnswering,
    MiniForSequenceClassification,
    MiniForTokenClassification,
    MiniModel,
)
from modeling_mini.masking_mini import CACHE_NAME
from modeling_mini.modeling_mini import MiniMLP, sinusoidal_positions


BACKENDS = pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
CAUSAL = pytest.mark.parametrize("is_causal", [True, False], ids=["causal", "bidirectional"])

# Lengths of the documents in each row of a packed batch; each row has 16 tokens.
PACKED_ROWS = [[5, 7, 4], [1, 3, 12]]


def assert_close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


def restarting_positions(rows):
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


def each_document_alone(model, ids, rows):
    """Last hidden states of a packed batch, computed with one call per document."""
    return torch.stack(
        [
            torch.cat([model(part[None]).last_hidden_state[0] for part in line.split(row)])
            for line, row in zip(ids, rows, strict=True)
        ]
    )


def decoded_in_chunks(model, ids, cache, chunk, attention_mask=None):
    """Logits of a sequence that is decoded in chunks with a cache."""
    logits = []
    for start in range(0, ids.shape[1], chunk):
        end = min(start + chunk, ids.shape[1])
        mask = None if attention_mask is None else attention_mask[:, :end]
        logits.append(model(ids[:, start:end], attention_mask=mask, use_cache=True, **{CACHE_NAME: cache}).logits)
    return torch.cat(logits, dim=1)


@BACKENDS
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("chunk", [1, 3, 17])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
@torch.no_grad()
def test_cached_logits_equal_uncached_ones(tiny_model, random_ids, kind, chunk, norm_first, attn_implementation):
    model = tiny_model(MiniForCausalLM, norm_first=norm_first)
    model.set_attn_implementation(attn_implementation)
    ids = random_ids(2, 17)
    cache = DynamicCache(config=model.config) if kind == "dynamic" else StaticCache(model.config, max_cache_len=32)
    assert_close(decoded_in_chunks(model, ids, cache, chunk), model(ids, use_cache=False).logits)
    assert cache.get_seq_length() == 17


@pytest.mark.parametrize("model_class", [MiniModel, MiniForCausalLM, MiniForSequenceClassification])
@torch.no_grad()
def test_the_cache_is_accepted_under_its_current_and_its_first_name(tiny_model, random_ids, model_class):
    """transformers calls it `cache` since 5.24; checkpoints with older code and older calls must still work."""
    assert CACHE_NAME in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
    assert CACHE_NAME in inspect.signature(model_class.forward).parameters
    model, ids = tiny_model(model_class), random_ids(1, 9)

    def continued(name):
        cache = DynamicCache(config=model.config)
        tiny_model(MiniModel)(ids[:, :5], use_cache=True, **{CACHE_NAME: cache})
        output = model(ids[:, 5:], **{name: cache})[0]
        assert cache.get_seq_length() == 9
        return output

    is_renamed = CACHE_NAME != "past_key_values"
    with pytest.warns(FutureWarning, match="Use `cache` instead") if is_renamed else nullcontext():
        assert_close(continued("past_key_values"), continued(CACHE_NAME), atol=0)


@BACKENDS
@pytest.mark.parametrize("chunk", [1, 4])
@torch.no_grad()
def test_cached_left_padded_logits_equal_each_row_alone(tiny_model, random_ids, pad, chunk, attn_implementation):
    model = tiny_model(MiniForCausalLM)
    model.set_attn_implementation(attn_implementation)
    rows = [random_ids(length) for length in (9, 4, 12)]
    ids, mask = pad(rows, "left")
    logits = decoded_in_chunks(model, ids, DynamicCache(config=model.config), chunk, attention_mask=mask)
    for i, row in enumerate(rows):
        assert_close(logits[i, -len(row) :], model(row[None]).logits[0])


@CAUSAL
@BACKENDS
@pytest.mark.parametrize("with_mask", [False, True], ids=["no mask", "all-ones mask"])
@pytest.mark.parametrize("use_cache", [False, True], ids=["no cache", "cache"])
@torch.no_grad()
def test_packed_documents_equal_separate_ones(
    tiny_model, random_ids, is_causal, attn_implementation, with_mask, use_cache
):
    model = tiny_model(MiniModel, is_causal=is_causal)
    model.set_attn_implementation(attn_implementation)
    ids = random_ids(2, 16)
    output = model(
        ids,
        attention_mask=torch.ones_like(ids) if with_mask else None,
        position_ids=restarting_positions(PACKED_ROWS),
        use_cache=use_cache,
    )
    assert_close(output.last_hidden_state, each_document_alone(model, ids, PACKED_ROWS))
    together = model(ids).last_hidden_state
    assert (output.last_hidden_state - together).abs().max() > 0.1  # unpacked documents attend to each other


@CAUSAL
@BACKENDS
@pytest.mark.parametrize("side", ["left", "right", "between"])
@pytest.mark.parametrize("use_cache", [False, True], ids=["no cache", "cache"])
@torch.no_grad()
def test_packed_and_padded_documents_equal_separate_ones(
    tiny_model, random_ids, is_causal, attn_implementation, side, use_cache
):
    model = tiny_model(MiniModel, is_causal=is_causal)
    model.set_attn_implementation(attn_implementation)
    lengths = [5, 7, 4]
    before, between, after = {"left": (3, 0, 0), "right": (0, 0, 3), "between": (0, 2, 0)}[side]
    documents = [random_ids(length) for length in lengths]
    ids, mask, positions = [], [], []

    def append(line, attended):
        ids.append(line)
        mask.append(torch.full_like(line, attended))
        positions.append(torch.arange(len(line)) * attended)

    append(torch.zeros(before, dtype=torch.long), 0)
    for document in documents:
        append(document, 1)
        append(torch.zeros(between, dtype=torch.long), 0)
    append(torch.zeros(after, dtype=torch.long), 0)
    ids, mask, positions = (torch.cat(parts)[None] for parts in (ids, mask, positions))
    output = model(ids, attention_mask=mask, position_ids=positions, use_cache=use_cache)
    output = output.last_hidden_state[mask.bool()]
    assert_close(output, torch.cat([model(document[None]).last_hidden_state[0] for document in documents]))


@CAUSAL
@pytest.mark.parametrize("at_hidden_token", [0, 1, 4], ids=lambda position: f"position {position} there")
@torch.no_grad()
def test_a_row_with_a_masked_token_inside_equals_the_row_without_it(
    tiny_model, random_ids, is_causal, at_hidden_token
):
    """Positions continue after the gap, so the masked token does not separate documents, whatever its position is."""
    model = tiny_model(MiniModel, is_causal=is_causal)
    ids, mask = random_ids(2, 9), torch.ones(2, 9, dtype=torch.long)
    mask[:, 4] = 0
    alone = model(torch.cat((ids[:, :4], ids[:, 5:]), dim=1)).last_hidden_state
    positions = torch.tensor([0, 1, 2, 3, at_hidden_token, 4, 5, 6, 7]).expand(2, -1)
    for given in (positions, None):
        output = model(ids, attention_mask=mask, position_ids=given).last_hidden_state
        assert_close(output[mask.bool()].view_as(alone), alone)


@torch.no_grad()
def test_packed_masked_lm_rows_equal_separate_ones(tiny_model, random_ids):
    model = tiny_model(MiniForMaskedLM)
    ids = random_ids(2, 16)
    packed = model(ids, position_ids=restarting_positions(PACKED_ROWS)).logits
    for i, row in enumerate(PACKED_ROWS):
        for output, document in zip(packed[i].split(row), ids[i].split(row), strict=True):
            assert_close(output, model(document[None]).logits[0])


@CAUSAL
@BACKENDS
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padded_rows_without_position_ids_equal_each_row_alone(
    tiny_model, random_ids, pad, is_causal, attn_implementation, side
):
    model = tiny_model(MiniModel, is_causal=is_causal)
    model.set_attn_implementation(attn_implementation)
    rows = [random_ids(length) for length in (9, 4, 12)]
    ids, mask = pad(rows, side)
    output = model(ids, attention_mask=mask).last_hidden_state
    for i, row in enumerate(rows):
        assert_close(output[i][mask[i].bool()], model(row[None]).last_hidden_state[0])


@torch.no_grad()
def test_positions_given_explicitly_equal_the_default_ones(tiny_model, random_ids):
    model = tiny_model(MiniModel)
    ids = random_ids(2, 9)
    default = model(ids).last_hidden_state
    assert_close(model(ids, position_ids=torch.arange(9)[None]).last_hidden_state, default, atol=0)
    assert (model(ids, position_ids=torch.arange(9)[None] + 3).last_hidden_state - default).abs().max() > 0.1


@torch.no_grad()
def test_a_4d_mask_equals_the_2d_mask_of_the_same_meaning(tiny_model, random_ids, pad):
    model = tiny_model(MiniModel)
    ids, mask = pad([random_ids(length) for length in (9, 4)], "right")
    allowed = torch.ones(9, 9).tril().bool() & mask[:, None, None, :].bool()
    output = model(ids, attention_mask=allowed).last_hidden_state
    assert_close(output[mask.bool()], model(ids, attention_mask=mask).last_hidden_state[mask.bool()])


@CAUSAL
@torch.no_grad()
def test_inputs_embeds_equal_input_ids(tiny_model, random_ids, pad, is_causal):
    model = tiny_model(MiniModel, is_causal=is_causal)
    ids, mask = pad([random_ids(length) for length in (9, 4)], "left")
    embeds = model.get_input_embeddings()(ids)
    output = model(inputs_embeds=embeds, attention_mask=mask).last_hidden_state
    assert_close(output, model(ids, attention_mask=mask).last_hidden_state, atol=0)


@pytest.mark.parametrize("inputs", [(), ("input_ids", "inputs_embeds")], ids=["neither", "both"])
def test_no_input_and_two_kinds_of_input_are_refused(tiny_model, random_ids, inputs):
    model = tiny_model(MiniModel)
    ids = random_ids(1, 3)
    values = {"input_ids": ids, "inputs_embeds": model.embed_tokens(ids)}
    with pytest.raises(ValueError, match="exactly one of `input_ids` and `inputs_embeds`"):
        model(**{name: values[name] for name in inputs})


@CAUSAL
@pytest.mark.parametrize("case", ["plain", "left-padded", "packed"])
def test_eager_attention_equals_sdpa_in_outputs_and_gradients(tiny_model, random_ids, pad, gradients, is_causal, case):
    results = []
    for model, hidden_states in backend_outputs(tiny_model, random_ids, pad, is_causal, case, ["eager", "sdpa"]):
        hidden_states.square().mean().backward()
        results.append((hidden_states.detach(), gradients(model)))
    (eager, eager_gradients), (sdpa, sdpa_gradients) = results
    assert_close(eager, sdpa)
    assert eager_gradients.keys() == dict(model.named_parameters()).keys()
    assert_close(eager_gradients, sdpa_gradients)
    assert min(gradient.abs().max() for name, gradient in sdpa_gradients.items() if "k_proj.bias" not in name) > 1e-3


@CAUSAL
@pytest.mark.parametrize("case", ["plain", "left-padded", "packed"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@torch.no_grad()
def test_eager_attention_equals_flex_attention(tiny_model, random_ids, pad, is_causal, case):
    """Outputs only: flex attention has no backward pass on a CPU."""
    with torch.compiler.set_stance("force_eager"):  # compiling the kernel of flex on a CPU takes 10 s
        outputs = backend_outputs(tiny_model, random_ids, pad, is_causal, case, ["eager", "flex_attention"])
        (_, eager), (_, flex) = outputs
    assert_close(eager, flex)


def backend_outputs(tiny_model, random_ids, pad, is_causal, case, implementations):
    """The model and the hidden states of the tokens that are not padding, for each attention backend."""
    model = tiny_model(MiniModel, hidden_size=64, is_causal=is_causal)
    ids, mask = pad([random_ids(16), random_ids(16 if case != "left-padded" else 11)], "left")
    inputs = {"plain": {}, "left-padded": {"attention_mask": mask}}
    inputs["packed"] = {"position_ids": restarting_positions(PACKED_ROWS)}
    for implementation in implementations:
        model.set_attn_implementation(implementation)
        yield model, model(ids, **inputs[case]).last_hidden_state[mask.bool()]


@torch.no_grad()
def test_is_causal_given_per_call_equals_is_causal_of_the_config(tiny_model, random_ids):
    causal, bidirectional = (tiny_model(MiniModel, is_causal=flag) for flag in (True, False))
    ids = random_ids(2, 9)
    assert_close(causal(ids, is_causal=False).last_hidden_state, bidirectional(ids).last_hidden_state)


@pytest.mark.slow
@pytest.mark.versions
@CAUSAL
@torch.no_grad()
def test_compiled_model_equals_eager_model(tiny_model, random_ids, is_causal):
    torch.compiler.reset()
    model = tiny_model(MiniModel, is_causal=is_causal)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    ids = random_ids(2, 16)
    assert_close(compiled(ids).last_hidden_state, model(ids).last_hidden_state)
    positions = restarting_positions(PACKED_ROWS)
    output = compiled(ids, position_ids=positions).last_hidden_state
    assert_close(output, each_document_alone(model, ids, PACKED_ROWS))
    # The same graph, for rows of one document and with a mask.
    output = compiled(ids, position_ids=torch.arange(16).expand(2, -1)).last_hidden_state
    assert_close(output, model(ids).last_hidden_state)
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    output = compiled(ids, attention_mask=mask).last_hidden_state
    assert_close(output[mask.bool()], model(ids, attention_mask=mask).last_hidden_state[mask.bool()])


@pytest.mark.slow
@pytest.mark.versions
@BACKENDS
@pytest.mark.parametrize("with_mask", [False, True], ids=["no mask", "left-padded"])
@torch.no_grad()
def test_compiled_decoding_step_with_a_static_cache_equals_no_cache(
    tiny_model, random_ids, pad, with_mask, attn_implementation
):
    torch.compiler.reset()
    model = tiny_model(MiniForCausalLM)
    model.set_attn_implementation(attn_implementation)
    step = torch.compile(model, fullgraph=True, backend="aot_eager")
    ids, mask = pad([random_ids(17), random_ids(12 if with_mask else 17)], "left")
    cache = StaticCache(model.config, max_cache_len=32)

    def decode(forward, start, end):
        given = {"attention_mask": mask[:, :end].contiguous()} if with_mask else {}
        return forward(ids[:, start:end], use_cache=True, **{CACHE_NAME: cache}, **given).logits

    logits = [decode(model, 0, 7)]
    # torch treats the length of the mask as static in the first step and as dynamic from the second step on.
    logits += [decode(step, i, i + 1) for i in range(7, 9)]
    with torch.compiler.set_stance("fail_on_recompile"):
        logits += [decode(step, i, i + 1) for i in range(9, 17)]
    expected = model(ids, attention_mask=mask, use_cache=False).logits
    assert_close(torch.cat(logits, dim=1)[mask.bool()], expected[mask.bool()])


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize("model_class", [cls for cls in MODEL_CLASSES if cls is not MiniModel])
def test_compiled_training_step_equals_eager_one(tiny_model, random_ids, pad, gradients, monkeypatch, model_class):
    torch.compiler.reset()
    monkeypatch.setattr("modeling_mini.loss_mini.LOGITS_PER_CHUNK", 97 * 10)
    model = tiny_model(model_class, num_labels=3).train()
    ids, mask = pad([random_ids(16), random_ids(11)], "left")
    targets = {
        MiniForSequenceClassification: {"labels": torch.tensor([2, 0])},
        MiniForTokenClassification: {"labels": ids % 3},
        MiniForQuestionAnswering: {"start_positions": torch.tensor([2, 7]), "end_positions": torch.tensor([4, 9])},
    }
    results = []
    for forward in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        loss = forward(ids, attention_mask=mask, **targets.get(model_class, {"labels": ids})).loss
        loss.backward()
        results.append((loss.detach(), gradients(model)))
    assert_close(results[1][0], results[0][0])
    assert_close(results[1][1], results[0][1])


def test_token_dropout_hides_whole_tokens_in_training_only(tiny_model, random_ids):
    model = tiny_model(MiniModel, token_dropout=0.25)
    ids, inputs = random_ids(8, 16), []
    model.layers[0].register_forward_pre_hook(lambda _, args: inputs.append(args[0].detach()))
    model.eval()(ids)
    model.train()(ids)
    positions = sinusoidal_positions(torch.arange(16)[None], model.config.hidden_size)
    whole, dropped = (hidden_states - positions for hidden_states in inputs)
    is_hidden = dropped.abs().amax(-1) < 1e-6
    assert 0.1 < is_hidden.float().mean() < 0.4
    assert_close(dropped[~is_hidden], whole[~is_hidden] / 0.75)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.filterwarnings("ignore::FutureWarning")  # newer transformers renames the argument
def test_gradient_checkpointing_gives_the_same_gradients(tiny_model, random_ids, gradients, use_reentrant, dropout):
    model = tiny_model(MiniForCausalLM, hidden_dropout=dropout, attention_dropout=dropout).train()
    ids, calls, step_gradients = random_ids(2, 9), [], []
    for module in model.modules():
        if isinstance(module, MiniMLP):
            module.register_forward_pre_hook(lambda *_: calls.append(1))
    for step in range(2):
        if step == 1:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        torch.manual_seed(1)
        model(ids, labels=ids).loss.backward()
        step_gradients.append(gradients(model))
    assert len(calls) == 2 + 4  # two layers; with checkpointing, each is computed again in the backward pass
    assert step_gradients[0].keys() == dict(model.named_parameters()).keys()
    assert_close(step_gradients[1], step_gradients[0], atol=1e-6)


@pytest.mark.parametrize("kept", [1, 3, 9])
@torch.no_grad()
def test_last_logits_kept_equal_that_slice_of_all_logits(tiny_model, random_ids, kept):
    model = tiny_model(MiniForCausalLM)
    ids = random_ids(2, 9)
    assert_close(model(ids, logits_to_keep=kept).logits, model(ids).logits[:, -kept:], atol=1e-6)


@torch.no_grad()
def test_logits_kept_by_index_equal_those_of_all_logits(tiny_model, random_ids):
    model = tiny_model(MiniForCausalLM)
    ids, kept = random_ids(2, 9), torch.tensor([7, 0, 3])
    assert_close(model(ids, logits_to_keep=kept).logits, model(ids).logits[:, kept], atol=1e-6)


@torch.no_grad()
def test_bfloat16_load_keeps_float32_positions(tiny_model, random_ids, tmp_path):
    """In bfloat16, position 5003 is rounded to 4992, so rounded positions would cause errors of order 1."""
    tiny_model(MiniModel).save_pretrained(tmp_path)
    full, half = (MiniModel.from_pretrained(tmp_path, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    assert list(half.buffers()) == []
    ids, positions = random_ids(1, 16), torch.arange(5000, 5016)[None]
    inputs = {"position_ids": positions, "output_hidden_states": True}

    embedded = half(ids, **inputs).hidden_states[0]
    assert embedded.dtype == torch.bfloat16
    exact = half.embed_tokens(ids) * math.sqrt(32) + sinusoidal_positions(positions, 32).bfloat16()
    assert_close(embedded, exact, atol=0)
    # With 8 bits of mantissa, about 1% of numbers up to 4.
    assert_close(embedded.float(), full(ids, **inputs).hidden_states[0], atol=0.04)
    output, expected = half(ids, **inputs).last_hidden_state.float(), full(ids, **inputs).last_hidden_state
    assert (output - expected).norm() < 0.03 * expected.norm()
    rounded = full(ids, position_ids=positions.bfloat16().long()).last_hidden_state
    assert (rounded - expected).norm() > 0.1 * expected.norm()  # the bound above would reject rounded positions


@pytest.mark.parametrize("norm_first", [True, False])
@torch.no_grad()
def test_hidden_states_run_from_the_embedding_output_to_the_last_hidden_state(tiny_model, random_ids, norm_first):
    model = tiny_model(MiniModel, norm_first=norm_first)
    ids = random_ids(2, 9)
    outputs = model(ids, output_hidden_states=True)
    assert len(outputs.hidden_states) == model.config.num_hidden_layers + 1
    embedded = model.embed_tokens(ids) * math.sqrt(32) + sinusoidal_positions(torch.arange(9), 32)
    assert_close(outputs.hidden_states[0], embedded, atol=1e-6)
    assert_close(outputs.hidden_states[1], model.layers[0](embedded, position_ids=None), atol=1e-5)
    assert_close(outputs.hidden_states[-1], outputs.last_hidden_state, atol=0)
    assert_close(outputs.last_hidden_state, model(ids).last_hidden_state, atol=0)


@CAUSAL
@torch.no_grad()
def test_attention_rows_sum_to_one_and_follow_the_mask(tiny_model, random_ids, pad, is_causal):
    model = tiny_model(MiniModel, is_causal=is_causal)
    model.set_attn_implementation("eager")
    ids, mask = pad([random_ids(9), random_ids(5)], "right")
    attentions = model(ids, attention_mask=mask, output_attentions=True).attentions
    assert len(attentions) == model.config.num_hidden_layers
    allowed = mask[:, None, None, :].bool().expand(-1, -1, 9, -1)
    allowed = allowed & torch.ones(9, 9).tril().bool() if is_causal else allowed
    for weights in attentions:
        assert_close(weights.sum(-1), torch.ones(2, 4, 9), atol=1e-6)
        assert torch.equal(weights > 0, allowed.expand(-1, 4, -1, -1))


@BACKENDS
@CAUSAL
@torch.no_grad()
def test_a_future_token_changes_the_past_only_if_bidirectional(tiny_model, random_ids, is_causal, attn_implementation):
    model = tiny_model(MiniForCausalLM, is_causal=is_causal)
    model.set_attn_implementation(attn_implementation)
    ids = random_ids(2, 9)
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] - 5 + 1) % 90 + 5
    difference = (model(ids).logits - model(changed).logits).abs().amax(dim=(0, 2))  # [T]
    assert (difference[5:] > 1e-3).all()
    if is_causal:
        assert_close(difference[:5], torch.zeros(5), atol=1e-6)
    else:
        assert (difference[:5] > 1e-3).all()


@torch.no_grad()
def test_bidirectional_model_ignores_use_cache(tiny_model, random_ids):
    model = tiny_model(MiniModel, is_causal=False)
    assert CACHE_NAME not in model(random_ids(1, 4), use_cache=True)
    assert tiny_model(MiniModel)(random_ids(1, 4), use_cache=True)[CACHE_NAME].get_seq_length() == 4


def test_flash_attention_refuses_packed_rows_that_it_would_mix(tiny_model, random_ids):
    """Flash attention needs a GPU, but the error is raised before it is called."""
    model = tiny_model(MiniModel)
    model.config._attn_implementation_internal = "flash_attention_2"
    packed = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 1, 2, 3, 4, 5]])
    with pytest.raises(ValueError, match="only in a batch of one row, and this batch has 2 rows"):
        model(random_ids(2, 6), position_ids=packed)
