"""`generate`: every way of decoding gives the tokens that the plain model would choose."""

import copy

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from modeling_mini import MiniForCausalLM
from modeling_mini.masking_mini import CACHE_NAME


NEW_TOKENS = 200
CACHES = {"dynamic": {}, "static": {"cache_implementation": "static"}, "none": {"use_cache": False}}
caches = pytest.mark.parametrize("cache", CACHES)


@pytest.fixture
def build(tiny_model):
    """Models whose texts can be compared token by token.

    They are untied and have large weights, so that a text does not repeat one token. They are in float64, so that
    rounding never decides between two tokens, even in a long text.
    """

    def build(**overrides):
        settings = {"tie_word_embeddings": False, "weight_std": 1.0, "eos_token_id": None}
        return tiny_model(MiniForCausalLM, **(settings | overrides)).double()

    return build


@pytest.fixture
def model(build):
    return build()


@pytest.fixture
def prompts(random_ids, pad):
    rows = [random_ids(length) for length in (7, 2, 11)]
    return rows, *pad(rows, "left")


def generate(model, ids, mask=None, length=NEW_TOKENS, assistant_model=None, **settings):
    """The new tokens only, with the same seed at each call."""
    torch.manual_seed(3)
    mask = torch.ones_like(ids) if mask is None else mask
    config = GenerationConfig(max_new_tokens=length, pad_token_id=0, **settings)
    sequences = model.generate(ids, attention_mask=mask, generation_config=config, assistant_model=assistant_model)
    return sequences[:, ids.shape[1] :]


@torch.no_grad()
def greedy_by_hand(model, row, length=NEW_TOKENS):
    """Decode one row without padding, cache or `generate`."""
    for _ in range(length):
        row = torch.cat((row, model(row[None], use_cache=False).logits[0, -1].argmax()[None]))
    return row[-length:]


@pytest.mark.parametrize("norm_first", [True, False])
def test_greedy_left_padded_batch_equals_each_row_decoded_by_hand(build, prompts, norm_first):
    model = build(norm_first=norm_first)
    rows, ids, mask = prompts
    expected = torch.stack([greedy_by_hand(model, row) for row in rows])
    assert all(len(set(row)) > 10 for row in expected.tolist())  # a text that repeats itself would prove little
    for cache, settings in CACHES.items():
        assert torch.equal(generate(model, ids, mask, **settings), expected), cache


@pytest.mark.slow
@pytest.mark.versions
def test_beams_of_a_left_padded_batch_equal_those_of_each_row_alone_without_a_cache(model, prompts):
    rows, ids, mask = prompts
    beams = {"num_beams": 3, "num_return_sequences": 2}
    expected = torch.cat([generate(model, row[None], **beams, use_cache=False) for row in rows])
    assert not torch.equal(expected[::2], expected[1::2])
    assert not torch.equal(expected[::2], generate(model, ids, mask))  # greedy gives another text
    for cache, settings in CACHES.items():
        assert torch.equal(generate(model, ids, mask, **beams, **settings), expected), cache


@pytest.mark.parametrize("beams", [1, 2])
def test_samples_with_a_cache_equal_those_without(model, prompts, beams):
    _, ids, mask = prompts
    samples = {
        cache: generate(model, ids, mask, do_sample=True, num_beams=beams, num_return_sequences=2, **settings)
        for cache, settings in CACHES.items()
    }
    assert torch.equal(samples["dynamic"], samples["none"])
    assert torch.equal(samples["static"], samples["none"])
    assert not torch.equal(samples["none"][::2], samples["none"][1::2])
    assert not torch.equal(samples["none"][::2], generate(model, ids, mask))  # greedy gives another text


@caches
@torch.no_grad()
def test_logits_of_each_sampled_token_equal_those_of_one_plain_forward(model, prompts, cache):
    """A sampled token depends on the logits at its position: compare them with those of each row alone."""
    rows, ids, mask = prompts
    config = GenerationConfig(max_new_tokens=NEW_TOKENS, pad_token_id=0, do_sample=True, **CACHES[cache])
    outputs = model.generate(
        ids, attention_mask=mask, generation_config=config, output_logits=True, return_dict_in_generate=True
    )
    logits = torch.stack(outputs.logits, dim=1)  # [B, T, V]
    for i, row in enumerate(rows):
        text = torch.cat((row, outputs.sequences[i, ids.shape[1] :]))
        expected = model(text[None]).logits[0, len(row) - 1 : -1]
        torch.testing.assert_close(logits[i], expected.float(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@torch.no_grad()
def test_texts_of_a_bfloat16_model_are_nearly_optimal_for_its_float32_copy(tiny_model, random_ids, pad, cache):
    """At positions above 256, where bfloat16 rounds neighbouring positions to the same number."""
    model = tiny_model(MiniForCausalLM, tie_word_embeddings=False, eos_token_id=None)
    half = copy.deepcopy(model).bfloat16()
    rows = [random_ids(length) for length in (300, 280)]
    ids, mask = pad(rows, "left")
    for row, text in zip(rows, generate(half, ids, mask, 60, **CACHES[cache]), strict=True):
        logits = model(torch.cat((row, text))[None]).logits[0, len(row) - 1 : -1]
        gap = logits.amax(-1) - logits[torch.arange(60), text]
        assert gap.max() < 0.1, gap


def test_generation_from_inputs_embeds_equals_generation_from_input_ids(model, prompts):
    _, ids, mask = prompts
    embeds = model.get_input_embeddings()(ids)
    config = GenerationConfig(max_new_tokens=20, pad_token_id=0)
    text = model.generate(inputs_embeds=embeds, attention_mask=mask, generation_config=config)
    assert torch.equal(text, generate(model, ids, mask, 20))


# transformers refuses assisted and prompt-lookup decoding of several rows, with a static cache, or without a cache.


@pytest.fixture
def assisted(model):
    """`assisted(prompt, ...)`: the text after one left-padded prompt, and the number of calls of the model."""

    def decode(prompt, **settings):
        ids = torch.nn.functional.pad(prompt, (9, 0))[None]
        calls = []
        hook = model.register_forward_pre_hook(lambda *_: calls.append(1))
        text = generate(model, ids, (ids != 0).long(), **settings)[0]
        hook.remove()
        return text, len(calls)

    return decode


def test_prompt_lookup_equals_greedy(model, random_ids, assisted):
    prompt = random_ids(6).repeat(3)  # a repetitive prompt has candidates to look up
    text, calls = assisted(prompt, prompt_lookup_num_tokens=3)
    assert torch.equal(text, greedy_by_hand(model, prompt))
    assert NEW_TOKENS / 4 < calls < NEW_TOKENS  # some candidates were accepted, others rejected


def test_assistant_model_equals_greedy(model, random_ids, assisted):
    assistant = copy.deepcopy(model)
    for parameter in assistant.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.01)  # it is right about half of the time
    prompt = random_ids(6)
    text, calls = assisted(prompt, assistant_model=assistant)
    assert torch.equal(text, greedy_by_hand(model, prompt))
    assert NEW_TOKENS / 4 < calls < NEW_TOKENS


def test_generation_continued_from_a_cache_equals_one_generation(model, random_ids):
    ids = random_ids(2, 6)
    config = GenerationConfig(max_new_tokens=8, pad_token_id=0, return_dict_in_generate=True)
    first = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    second = model.generate(
        first.sequences,
        attention_mask=torch.ones_like(first.sequences),
        **{CACHE_NAME: first[CACHE_NAME]},
        generation_config=config,
    )
    assert torch.equal(second.sequences[:, 6:], generate(model, ids, length=16))


def test_generation_ends_at_each_of_several_end_tokens_and_pads_after_it(model, random_ids):
    ids = random_ids(2, 6)
    free = generate(model, ids, length=20)
    end_tokens = [free[0, 4].item(), free[1, 9].item()]
    stopped = generate(model, ids, length=20, eos_token_id=end_tokens)
    for row, expected in zip(stopped, free, strict=True):
        last = next(i for i, token in enumerate(expected.tolist()) if token in end_tokens)
        assert torch.equal(row[: last + 1], expected[: last + 1])
        assert not row[last + 1 :].any()


def test_a_bidirectional_model_refuses_to_generate(tiny_model, random_ids):
    model = tiny_model(MiniForCausalLM, is_causal=False)
    with pytest.raises(ValueError, match=r"`is_causal=False`.*MiniForMaskedLM"):
        model.generate(random_ids(1, 4), max_new_tokens=2)


@pytest.mark.parametrize("max_batch_tokens", [64, 8], ids=["whole prompts", "prompts in pieces"])
@pytest.mark.parametrize("attn_implementation", ["eager", "sdpa"])
def test_continuous_batching_equals_greedy(model, prompts, attn_implementation, max_batch_tokens):
    rows, ids, mask = prompts
    expected = generate(model, ids, mask, 60)
    model.set_attn_implementation(attn_implementation)
    outputs = model.generate_batch(
        [row.tolist() for row in rows],
        generation_config=GenerationConfig(max_new_tokens=60, pad_token_id=0, eos_token_id=-1, do_sample=False),
        continuous_batching_config=ContinuousBatchingConfig(num_blocks=16, max_batch_tokens=max_batch_tokens),
        progress_bar=False,
    )
    texts = {tuple(output.prompt_ids): output.generated_tokens for output in outputs.values()}
    assert texts == {tuple(row.tolist()): tokens.tolist() for row, tokens in zip(rows, expected, strict=True)}
