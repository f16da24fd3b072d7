"""The command line: output on standard output, and errors as one sentence and an exit code."""

import io

import pytest

from modeling_mini import MiniForCausalLM, MiniForSequenceClassification
from modeling_mini.cli import main
from modeling_mini.errors import UserError
from modeling_mini.presets import preset_names
from modeling_mini.tasks.generation import continue_text, encode_prompt
from modeling_mini.tokenization import train_tokenizer


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """A model and its tokenizer, saved in one folder."""
    tokenizer = train_tokenizer(["the model reads the text and writes the next word"], vocab_size=300)
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer), max_position_embeddings=32)
    model.save_pretrained(tmp_path / "checkpoint")
    tokenizer.save_pretrained(tmp_path / "checkpoint")
    return str(tmp_path / "checkpoint")


def test_presets_lists_every_preset(capsys):
    assert main(["presets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines[1:]) == preset_names()


def test_generate_writes_the_same_text_for_the_same_seed(checkpoint, capsys):
    texts = []
    for seed in ("1", "1", "2"):
        assert main(["generate", checkpoint, "the model", "--max_new_tokens", "12", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0].startswith("the model")
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("option", ["--max_new_tokens", "--max-new-tokens", "--max", "--max-new"])
def test_options_may_have_dashes_and_be_abbreviated(checkpoint, capsys, option):
    outputs = []
    for options in ([option, "3"], [f"{option}=3"], ["--max_new_tokens", "3"]):
        assert main(["generate", checkpoint, "the text-file --", *options, "--temperature", "0"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]
    assert outputs[0].startswith("the text-file --")


@pytest.mark.parametrize(("separator", "text"), [([], "--read-only files are"), (["--"], "--read-only")])
def test_a_text_that_looks_like_an_option_keeps_its_dashes(checkpoint, capsys, separator, text):
    options = ["--max-new-tokens", "3", "--temperature=0"]
    assert main(["generate", *options, *separator, checkpoint, text]) == 0
    assert capsys.readouterr().out.startswith(text)


def test_prompt_comes_from_standard_input_too(checkpoint, capsys, monkeypatch):
    options = ["--max_new_tokens", "5", "--temperature", "0"]
    assert main(["generate", checkpoint, "the text", *options]) == 0
    given = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO("the text"))
    assert main(["generate", checkpoint, *options]) == 0
    assert capsys.readouterr().out == given


def test_temperature_zero_is_greedy_decoding(checkpoint, capsys):
    from transformers import AutoTokenizer

    model, tokenizer = MiniForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    inputs = tokenizer("the", return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    expected = tokenizer.decode(tokens[0], skip_special_tokens=True)
    assert continue_text(model, tokenizer, "the", max_new_tokens=8, temperature=0) == expected


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_new_tokens": 0}, "--max_new_tokens is 0; give at least 1"),
        ({"temperature": -1.0}, "--temperature is -1.0; give at least 0"),
        ({"prompt": ""}, "The prompt is empty"),
        ({"prompt": "the text " * 100}, "the model reads at most 32; shorten it"),
    ],
)
def test_setting_out_of_range_is_refused(checkpoint, options, sentence):
    from transformers import AutoTokenizer

    model, tokenizer = MiniForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    if options.get("prompt") == "":
        tokenizer.bos_token = None
    with pytest.raises(UserError, match=sentence):
        continue_text(model, tokenizer, **({"prompt": "the"} | options))


def test_continuation_stays_within_the_context(checkpoint):
    from transformers import AutoTokenizer

    model, tokenizer = MiniForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    outputs, generate = [], model.generate
    model.generate = lambda ids, **options: outputs.append(generate(ids, **options)) or outputs[-1]
    model.generation_config.eos_token_id = None
    tokenizer.eos_token = None  # nothing ends the text early
    continue_text(model, tokenizer, "the text", max_new_tokens=1000)
    assert outputs[0].shape == (1, 32)


def test_missing_checkpoint_ends_with_a_sentence(capsys):
    assert main(["generate", "no/such/folder", "the"]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("Error: no/such/folder: there is no such folder")
    assert captured.out == ""


def test_checkpoint_with_another_head_writes_no_text(checkpoint, tiny_model, capsys):
    tiny_model(MiniForSequenceClassification, vocab_size=300).save_pretrained(checkpoint)
    assert main(["generate", checkpoint, "the"]) == 1
    assert "holds a MiniForSequenceClassification, but generate needs a MiniForCausalLM" in capsys.readouterr().err


def test_texts_may_follow_an_option(capsys):
    assert main(["classify", "no/such/folder", "--batch_size", "4", "one", "two"]) == 1
    assert "no/such/folder: there is no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["classify", "no/such/folder", "one", "--beams", "4"])
    with pytest.raises(SystemExit):
        main(["presets", "one"])


def test_no_subcommand_shows_the_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "train,eval,presets,plan,generate,translate,summarize,classify,answer" in capsys.readouterr().err


def test_bidirectional_checkpoint_ends_with_a_sentence(checkpoint, tiny_model, capsys):
    tiny_model(MiniForCausalLM, vocab_size=300, is_causal=False).save_pretrained(checkpoint)
    assert main(["generate", checkpoint, "the"]) == 1
    assert "has is_causal=False and does not continue text" in capsys.readouterr().err


def test_a_prompt_is_encoded_like_the_beginning_of_a_training_document(checkpoint):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    text = tokenizer("the text", add_special_tokens=False).input_ids
    assert encode_prompt(tokenizer, "the text", 32).tolist() == [[tokenizer.bos_token_id, *text]]


def test_an_unfinished_run_is_reported_as_such(tmp_path, capsys):
    (tmp_path / "run" / "checkpoint-10").mkdir(parents=True)
    assert main(["generate", str(tmp_path / "run"), "the"]) == 1
    assert "the run did not finish: continue it with --resume" in capsys.readouterr().err


def test_unknown_characters_of_a_prompt_are_reported(caplog):
    tokenizer = train_tokenizer(["abc"], "char", vocab_size=20)
    encode_prompt(tokenizer, "abxyc", 32)
    assert "2 tokens of the prompt are unknown" in caplog.text
