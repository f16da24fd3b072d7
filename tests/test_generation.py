"""`generate`: however it decodes, the tokens are those that the plain model would choose."""

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from modeling_mini import MiniForCausalLM


NEW_TOKENS = 60
CACHES = {"dynamic": {}, "static": {"cache_implementation": "static"}, "none": {"use_cache": False}}
caches = pytest.mark.parametrize("cache", CACHES)


@pytest.fixture
def model(tiny_model):
    """Untied and with large weights, so that the text neither settles on one token nor has near ties."""
    return tiny_model(MiniForCausalLM, tie_word_embeddings=False, weight_std=1.0, eos_token_id=None)


@pytest.fixture
def prompts(random_ids, pad):
    rows = [random_ids(length) for length in (7, 2, 11)]
    return rows, *pad(rows, "left")


def generate(model, ids, mask=None, length=NEW_TOKENS, **settings):
    """The new tokens only."""
    mask = torch.ones_like(ids) if mask is None else mask
    config = GenerationConfig(max_new_tokens=length, pad_token_id=0, **settings)
    return model.generate(ids, attention_mask=mask, generation_config=config)[:, ids.shape[1] :]


@torch.no_grad()
def greedy_by_hand(model, row, length=NEW_TOKENS):
    """Decode one row without padding, cache or `generate`."""
    for _ in range(length):
        row = torch.cat((row, model(row[None], use_cache=False).logits[0, -1].argmax()[None]))
    return row[-length:]


@caches
def test_greedy_left_padded_batch_equals_each_row_decoded_by_hand(model, prompts, cache):
    rows, ids, mask = prompts
    expected = torch.stack([greedy_by_hand(model, row) for row in rows])
    assert all(len(set(row)) > 5 for row in expected.tolist())  # a text in a loop would prove little
    assert torch.equal(generate(model, ids, mask, **CACHES[cache]), expected)


@caches
def test_greedy_left_padded_batch_of_the_post_norm_model_equals_each_row_decoded_by_hand(tiny_model, prompts, cache):
    model = tiny_model(MiniForCausalLM, norm_first=False, tie_word_embeddings=False, eos_token_id=None)
    rows, ids, mask = prompts
    expected = torch.stack([greedy_by_hand(model, row, 20) for row in rows])
    assert torch.equal(generate(model, ids, mask, 20, **CACHES[cache]), expected)


@pytest.mark.parametrize(
    "settings",
    [{"num_beams": 4}, {"do_sample": True}, {"do_sample": True, "num_beams": 3}],
    ids=["beams", "sampling", "sampled beams"],
)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_beams_and_samples_with_cache_equal_those_without(model, prompts, settings, cache):
    _, ids, mask = prompts
    found = []
    for implementation in (cache, "none"):
        torch.manual_seed(3)
        found.append(generate(model, ids, mask, 30, **settings, **CACHES[implementation]))
    assert torch.equal(*found)
    assert not torch.equal(found[0], generate(model, ids, mask, 30))  # greedy is another text


def test_generation_from_inputs_embeds_equals_generation_from_input_ids(model, prompts):
    _, ids, mask = prompts
    embeds = model.get_input_embeddings()(ids)
    config = GenerationConfig(max_new_tokens=20, pad_token_id=0)
    found = model.generate(inputs_embeds=embeds, attention_mask=mask, generation_config=config)
    assert torch.equal(found, generate(model, ids, mask, 20))


def test_prompt_lookup_equals_greedy(model, random_ids):
    ids = random_ids(1, 6).repeat(1, 3)  # a prompt that repeats itself offers candidates to look up
    calls = []
    hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
    found = generate(model, ids, prompt_lookup_num_tokens=3)
    hook.remove()
    assert torch.equal(found, generate(model, ids))
    assert len(calls) > 1


def test_assistant_model_equals_greedy(model, tiny_model, random_ids):
    ids = random_ids(1, 6)
    assistant = tiny_model(MiniForCausalLM, num_hidden_layers=1, tie_word_embeddings=False, eos_token_id=None)
    config = GenerationConfig(max_new_tokens=30, pad_token_id=0)
    found = model.generate(
        ids, assistant_model=assistant, generation_config=config, attention_mask=torch.ones_like(ids)
    )
    assert torch.equal(found[:, 6:], generate(model, ids, length=30))


def test_generation_continued_from_a_cache_equals_generation_in_one_go(model, random_ids):
    ids = random_ids(2, 6)
    config = GenerationConfig(max_new_tokens=8, pad_token_id=0, return_dict_in_generate=True)
    first = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    second = model.generate(
        first.sequences,
        attention_mask=torch.ones_like(first.sequences),
        past_key_values=first.past_key_values,
        generation_config=config,
    )
    assert torch.equal(second.sequences[:, 6:], generate(model, ids, length=16))


def test_generation_ends_at_each_of_several_end_tokens_and_pads_after_it(model, random_ids):
    ids = random_ids(2, 6)
    free = generate(model, ids, length=20)
    ends = [free[0, 4].item(), free[1, 9].item()]
    stopped = generate(model, ids, length=20, eos_token_id=ends)
    for row, expected in zip(stopped, free, strict=True):
        last = next(i for i, token in enumerate(expected.tolist()) if token in ends)
        assert torch.equal(row[: last + 1], expected[: last + 1])
        assert not row[last + 1 :].any()


def test_model_that_sees_both_sides_refuses_to_generate(tiny_model, random_ids):
    model = tiny_model(MiniForCausalLM, is_causal=False)
    with pytest.raises(ValueError, match=r"`is_causal=False`.*MiniForMaskedLM"):
        model.generate(random_ids(1, 4), max_new_tokens=2)


@pytest.mark.slow
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_continuous_batching_equals_greedy(model, prompts, attn_implementation):
    rows, ids, mask = prompts
    expected = generate(model, ids, mask, 20)
    model.set_attn_implementation(attn_implementation)
    outputs = model.generate_batch(
        [row.tolist() for row in rows],
        generation_config=GenerationConfig(max_new_tokens=20, pad_token_id=0, eos_token_id=-1, do_sample=False),
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=64),
        progress_bar=False,
    )
    found = {tuple(output.prompt_ids): output.generated_tokens for output in outputs.values()}
    assert found == {tuple(row.tolist()): tokens.tolist() for row, tokens in zip(rows, expected, strict=True)}
