"""Writing a text: decoding options, prompts that end in a space, and which tokens rules look at."""

import math
import re
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from made_data import build, counting
from transformers import GenerationConfig

from modeling_mini import MiniForCausalLM
from modeling_mini.decoding import CONTINUATION, DecodingArguments
from modeling_mini.errors import UserError
from modeling_mini.tasks import TASKS, task_class
from modeling_mini.tasks.generation import FirstToken, NoRepeatedNgrams, continue_text, encode_prompt, heal, write
from modeling_mini.tokenization import train_tokenizer


pytestmark = pytest.mark.usefixtures("datasets_cache")

PAGE = Path(__file__).parents[2] / "docs" / "applications.md"
TEXT = "The cat sat on the mat.\n\n    The dog ran to the cat, and the cat ran.\n"


@pytest.fixture(scope="module")
def words():
    return train_tokenizer([TEXT] * 9, "bpe", vocab_size=320)


@pytest.fixture
def model(words, tiny_model):
    return tiny_model(MiniForCausalLM, vocab_size=len(words), max_position_embeddings=64)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"num_beams": 0}, "--num_beams is 0; give 1 to 100"),
        ({"num_beams": 10**9}, "--num_beams is 1000000000; give 1 to 100"),
        ({"no_repeat_ngram_size": -1}, "--no_repeat_ngram_size is -1; give at least 0"),
        ({"repetition_penalty": 0.0}, r"--repetition_penalty is 0.0; give 0.1 to 10"),
        ({"repetition_penalty": math.nan}, "--repetition_penalty is nan"),
        ({"repetition_penalty": math.inf}, "--repetition_penalty is inf"),
        ({"num_beams": 2, "length_penalty": math.inf}, "--length_penalty is inf; give -10 to 10"),
        ({"length_penalty": 2.0}, "--length_penalty compares beams; add --num_beams 2 or more"),
        ({"do_sample": True, "temperature": math.nan}, "--temperature is nan"),
        ({"do_sample": True, "temperature": 1e-320}, "--temperature is 1e-320; give at least 0.01, at most 100, or 0"),
        ({"do_sample": True, "temperature": math.inf}, "--temperature is inf"),
        ({"do_sample": True, "top_p": 0.0}, "--top_p is 0.0; give 0.001 to 1"),
        ({"do_sample": True, "top_p": 1.5}, "--top_p is 1.5"),
        ({"do_sample": True, "top_k": 0}, "--top_k is 0; give at least 1"),
        ({"temperature": 0.5}, "--temperature is for sampling; add --do_sample"),
        ({"top_p": 0.5}, "--top_p is for sampling"),
        ({"seed": 0}, "--seed is for sampling; add --do_sample"),
        ({"num_beams": 2, "seed": 1}, "--seed is for sampling; add --do_sample"),
        ({"temperature": 0, "seed": 1}, "--seed is for sampling, which --temperature 0 switches off"),
        ({"temperature": 0, "top_k": 5}, "--top_k is for sampling, which --temperature 0"),
        ({"do_sample": True, "temperature": 0}, "--do_sample is for sampling, which --temperature 0"),
        ({"max_new_tokens": 0}, "--max_new_tokens is 0; give at least 1"),
        ({"do_sample": True, "seed": -1}, "--seed is -1; give 0 to"),
        ({"do_sample": True, "seed": 10**20}, "--seed is 1"),
    ],
)
def test_a_decoding_option_out_of_range_is_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        DecodingArguments(**options).completed({"num_beams": 1})


def test_defaults_give_way_to_options():
    beams = {"num_beams": 4, "max_new_tokens": 9}
    assert DecodingArguments().completed(beams).num_beams == 4
    assert DecodingArguments(num_beams=1).completed(beams).num_beams == 1
    assert DecodingArguments(length_penalty=0.5).completed(beams).length_penalty == 0.5
    sampled = DecodingArguments(do_sample=True, top_p=0.9).completed(beams)
    assert (sampled.num_beams, sampled.do_sample, sampled.max_new_tokens) == (1, True, 9)
    assert DecodingArguments().completed(CONTINUATION).temperature == 0.8
    for options in ({"temperature": 0}, {"num_beams": 2}):
        completed = DecodingArguments(**options).completed(CONTINUATION)
        assert not completed.do_sample
    with pytest.raises(UserError, match="--temperature is for sampling"):
        DecodingArguments(num_beams=2, temperature=0.5).completed(CONTINUATION)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 3, "length_penalty": 3.0},
        {"repetition_penalty": 1.5},
        {"no_repeat_ngram_size": 2},
        {"do_sample": True, "temperature": 0.5, "top_k": 7, "top_p": 0.8, "seed": 3},
    ],
)
def test_continuing_equals_generate_of_transformers_with_the_same_options(model, words, options):
    ids = encode_prompt(words, "The cat", 64)
    torch.manual_seed(options.get("seed", 0))
    names = {name: value for name, value in options.items() if name != "seed"}
    config = GenerationConfig(max_new_tokens=20, pad_token_id=0, eos_token_id=2, **{"do_sample": False, **names})
    expected = words.decode(model.generate(ids, generation_config=config)[0], skip_special_tokens=True)
    greedy = {} if options.get("do_sample") or "num_beams" in options else {"temperature": 0}
    assert continue_text(model, words, "The cat", max_new_tokens=20, **options, **greedy) == expected
    assert continue_text(model, words, "The cat", max_new_tokens=20, temperature=0) != expected


@pytest.mark.parametrize("option", [{"no_repeat_ngram_size": 1}, {"repetition_penalty": 10.0}])
def test_rules_of_repetition_do_not_look_at_the_source(option, tokenizer, tiny_model):
    """The stock rules would forbid, or make unlikely, the tokens of the source."""
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer))
    prompt = torch.tensor([[1, *range(9, len(tokenizer)), 2]])
    inputs = {"input_ids": prompt, "attention_mask": torch.ones_like(prompt)}
    length = prompt.shape[1]
    plain, ruled = (
        write(model, tokenizer, inputs, DecodingArguments(max_new_tokens=12, **options), length)[0, length:].tolist()
        for options in ({}, option)
    )
    assert ruled[0] == plain[0]  # nothing is written yet
    assert len(set(plain)) < len(plain)
    assert len(set(ruled)) == len(ruled)


def test_an_ngram_may_be_in_the_source_but_only_once_in_the_text():
    scores = torch.zeros(1, 9)
    rule = NoRepeatedNgrams(2, ignored=4)
    assert rule(torch.tensor([[5, 6, 5, 7, 5]]), scores.clone()).isfinite().all()
    assert rule(torch.tensor([[5, 6, 5, 7, 5, 8, 5]]), scores.clone()).isinf().nonzero().tolist() == [[0, 8]]


def test_the_page_states_the_defaults_of_each_task():
    stated = {}
    for option, default in re.findall(r"^\| `--(\w+)` \|.*\| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.M):
        for value, task in re.findall(r"([\d.]+) for ([a-z-]+), otherwise", default):
            stated.setdefault(task, {})[option] = float(value)
    decoding = {name: getattr(task_class(name), "default_decoding", None) for name in TASKS}
    assert stated == {name: options for name, options in decoding.items() if options}


def test_batched_beams_equal_the_beams_of_each_example_alone(tokenizer, tiny_model):
    task = build("translation", dataset="unused", block_size=96, max_target_tokens=12)
    assert task.default_decoding == {"num_beams": 4}
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer))
    pairs = Dataset.from_list(counting(7))
    for options in ({}, {"no_repeat_ngram_size": 2}, {"num_beams": 1, "repetition_penalty": 1.3}):
        decoding = DecodingArguments(**options)
        together = task.predict(model, tokenizer, pairs, 4, decoding)
        alone = [task.predict(model, tokenizer, pairs.select([i]), 1, decoding)[0] for i in range(len(pairs))]
        assert together == alone


def test_a_prompt_that_ends_in_a_space_is_continued_like_the_text_before_it(model, words):
    """The first token is the most likely of those that begin with the space; the text begins with the prompt."""
    before = encode_prompt(words, "The", 64)
    assert encode_prompt(words, "The ", 64).tolist() == before.tolist()
    _, allowed = heal(words, "The ")
    assert sorted(allowed) == sorted(i for text, i in words.get_vocab().items() if text.startswith("Ġ"))
    assert len(allowed) > 5
    logits = model(before).logits[0, -1]
    best = max(allowed, key=lambda token: logits[token].item())
    text = continue_text(model, words, "The ", max_new_tokens=1, temperature=0)
    assert text == "The" + words.decode([best])
    for seed in range(20):
        text = continue_text(model, words, "The ", max_new_tokens=8, temperature=2.0, seed=seed)
        assert text.startswith("The ")


@pytest.mark.parametrize("prompt", ["a ", " ", "the\n    ", "the  ", "the\n\n", "x:\t", "the\u3000", "\n ", "User: "])
@pytest.mark.parametrize("next_word", ["cat", "the", "dog"])
def test_prompt_and_next_word_have_the_tokens_of_a_training_document(words, prompt, next_word):
    """For any white space: the ids of the prompt, and a first token that is allowed, are those of the whole text."""
    whole = words(f"{prompt}{next_word}", add_special_tokens=False).input_ids
    ids, allowed = heal(words, prompt)
    assert whole[: len(ids)] == ids
    assert not allowed or whole[len(ids)] in allowed
    assert bool(allowed) == prompt.endswith(" ")


def test_a_prompt_without_a_space_at_its_end_and_a_character_tokenizer_need_no_healing(words):
    assert heal(words, "The c") == (words("The c", add_special_tokens=False).input_ids, [])
    characters = train_tokenizer([TEXT], "char", vocab_size=60)
    assert heal(characters, "The ") == (characters("The ", add_special_tokens=False).input_ids, [])
    chat = words.apply_chat_template([{"role": "user", "content": "a "}], tokenize=False, add_generation_prompt=True)
    assert heal(words, chat)[1] == []


def test_only_the_first_token_is_restricted():
    rule, scores = FirstToken(3, [1, 4]), torch.zeros(2, 6)
    assert rule(torch.zeros(2, 3), scores).isfinite().nonzero()[:, 1].tolist() == [1, 4, 1, 4]
    assert rule(torch.zeros(2, 4), scores).isfinite().all()


@pytest.mark.parametrize("name", ["translation", "summarization"])
def test_a_text_must_fit_into_the_context(words, model, name):
    task = build(name, block_size=64, max_target_tokens=9)
    rows = Dataset.from_list([{task.columns[0]: "The cat"}, {task.columns[0]: "The cat sat on the mat."}])
    longest = 64 - max(len(words(text)["input_ids"]) + 1 for text in rows[task.columns[0]])  # bos, source, eos
    with pytest.raises(UserError, match=f"and the model reads at most 64 in all; give at most {longest}"):
        task.predict(model, words, rows, decoding=DecodingArguments(max_new_tokens=longest + 1))
    assert len(task.predict(model, words, rows, decoding=DecodingArguments(max_new_tokens=longest, num_beams=1))) == 2
