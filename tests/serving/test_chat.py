"""`modeling-mini chat`: a conversation of several turns, within the context, and how it ends."""

import io
import json
import signal

import pytest
from transformers import AutoTokenizer

from modeling_mini import MiniForCausalLM, MiniForSequenceClassification
from modeling_mini.cli import main
from modeling_mini.commands import Stopped
from modeling_mini.serving import chat as module
from modeling_mini.serving.conversations import MessageTooLong, fit_conversation
from modeling_mini.tokenization import train_tokenizer


GREEDY = ["--temperature", "0", "--max_new_tokens", "6"]


CONTEXT = 128


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """`checkpoint(model_class)`: the folder of a model whose context holds a few turns."""

    def build(model_class=MiniForCausalLM, name="checkpoint", **overrides):
        tokenizer = train_tokenizer(["the quick brown fox jumps over the lazy dog"], vocab_size=300)
        model = tiny_model(model_class, vocab_size=len(tokenizer), max_position_embeddings=CONTEXT, **overrides)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return build


@pytest.fixture
def conversations(monkeypatch):
    """The conversations of the chats of a test."""
    made = []

    class Conversation(module.Conversation):
        def __init__(self, *args):
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(module, "Conversation", Conversation)
    return made


@pytest.fixture
def chat(checkpoint, monkeypatch, capsys):
    """`chat(text, *options)`: exit code, answers and remarks of a chat whose standard input is a text."""

    def run(text, *options, folder=None):
        monkeypatch.setattr("sys.stdin", io.StringIO(text) if isinstance(text, str) else text)
        exit_code = main(["chat", str(folder or checkpoint()), *options])
        captured = capsys.readouterr()
        return exit_code, captured.out, captured.err

    return run


def expected_answer(folder, messages, new_tokens=6):
    model, tokenizer = MiniForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**inputs, max_new_tokens=new_tokens, do_sample=False)
    return tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_an_answer_continues_all_messages(chat, checkpoint, conversations):
    folder = checkpoint()
    exit_code, output, _ = chat("the fox\n\nthe dog\n", *GREEDY, "--system_prompt", "jump", folder=folder)
    assert exit_code == 0
    first, second = (message["content"] for message in conversations[0].messages[1::2])
    messages = [{"role": "system", "content": "jump"}, {"role": "user", "content": "the fox"}]
    assert first == expected_answer(folder, messages).strip()
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "the dog"}]
    assert second == expected_answer(folder, messages).strip()
    assert output.split() == f"{first} {second}".split()


def test_the_oldest_turns_leave_a_full_context(chat, conversations):
    exit_code, _, remarks = chat("the quick brown fox\n" * 5, *GREEDY)
    assert exit_code == 0
    assert "The oldest 4 messages do not fit into the context of 128 tokens any more." in remarks
    assert 2 <= len(conversations[0].messages) < 10
    assert conversations[0].messages[0]["role"] == "user"


def test_a_message_that_fills_the_context_is_left_out(chat, conversations):
    exit_code, _, remarks = chat("the dog\n" + "the fox " * 60 + "\nthe fox\n", *GREEDY)
    assert exit_code == 0
    assert "and the model reads at most 127; shorten it" in remarks
    assert "oldest" not in remarks  # the earlier turn is still there
    assert [message["role"] for message in conversations[0].messages] == ["user", "assistant"] * 2
    assert conversations[0].messages[0]["content"] == "the dog"


@pytest.mark.parametrize("roles", ["uau", "uuau", "uu", "au", "u"])
def test_the_last_message_and_whole_turns_are_kept(roles):
    tokenizer = train_tokenizer(["the quick brown fox jumps over the lazy dog"], vocab_size=300)
    names = {"u": "user", "a": "assistant"}
    messages = [{"role": names[role], "content": "the fox"} for role in roles]
    alone = fit_conversation(tokenizer, messages[-1:], 1000, 1, [])[0]["input_ids"].shape[1]
    inputs, kept = fit_conversation(tokenizer, messages, alone + 1, 1, [])
    assert kept == messages[-1:]
    assert inputs["input_ids"].shape[1] == alone
    assert len(messages) == len(roles)
    assert fit_conversation(tokenizer, messages, 1000, 1, [])[1] == messages
    with pytest.raises(MessageTooLong, match=f"{alone} tokens, and the model reads at most {alone - 1}"):
        fit_conversation(tokenizer, messages, alone, 1, [])


def test_commands_are_those_of_transformers_chat(chat, conversations):
    exit_code, output, remarks = chat("the fox\n!clear\n!help\n!save\n!exit\nthe dog\n", *GREEDY)
    assert exit_code == 0
    assert conversations[0].messages == []
    assert module.HELP in remarks
    assert module.HELP not in output
    assert "There is no command !save; !help shows the commands." in remarks


def test_the_same_seed_writes_the_same_answers(chat, checkpoint):
    folder = checkpoint()
    answers = [chat("the fox\nthe dog\n", "--seed", seed, folder=folder)[1] for seed in ("1", "1", "2")]
    assert answers[0] == answers[1] != answers[2]


@pytest.mark.parametrize(
    ("number", "exit_code", "roles"),
    [(signal.SIGINT, 0, ["user", "assistant"] * 2), (signal.SIGTERM, 143, ["user"])],
    ids=["SIGINT", "SIGTERM"],
)
def test_ctrl_c_ends_the_answer_and_sigterm_the_chat(chat, conversations, monkeypatch, number, exit_code, roles):
    def stop_after_a_word(model, tokenizer, inputs, *args, streamer, **options):
        streamer.put(inputs["input_ids"])
        streamer.put(tokenizer("fox jumps over", return_tensors="pt", add_special_tokens=False).input_ids[0])
        raise Stopped(number)

    monkeypatch.setattr(module, "write", stop_after_a_word)
    ended, output, _ = chat("the\nthe\n")
    assert ended == exit_code
    assert [message["role"] for message in conversations[0].messages] == roles
    if number == signal.SIGINT:
        assert conversations[0].messages[1]["content"] == "fox jumps over"
        assert output == "fox jumps over\n" * 2


def test_a_terminal_gets_a_prompt_and_ctrl_d_ends_the_chat(chat, conversations, monkeypatch):
    lines = iter(["the fox", UnicodeDecodeError("utf-8", b"\xff", 0, 1, ""), "\udcff", EOFError()])

    def read(prompt):
        line = next(lines)
        if isinstance(line, Exception):
            raise line
        return line

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("builtins.input", read)
    exit_code, _, remarks = chat(Terminal(), *GREEDY)
    assert exit_code == 0
    assert module.HELP in remarks
    assert remarks.count("The line is not UTF-8") == 2
    assert len(conversations[0].messages) == 2


@pytest.mark.parametrize("task", ["text-generation", "translation"])
def test_a_run_of_train_is_said_to_continue_text(chat, checkpoint, task):
    folder = checkpoint()
    assert "This model was trained" not in chat("", folder=folder)[2]
    (folder / "_run.json").write_text(json.dumps({"data": {"task": task}}))
    assert f"This model was trained for {task}, not on conversations" in chat("", folder=folder)[2]


def test_checkpoints_that_cannot_chat_are_refused(chat, checkpoint):
    classifier = checkpoint(MiniForSequenceClassification, "classifier")
    assert "chat needs a MiniForCausalLM" in chat("", folder=classifier)[2]
    adapter = checkpoint(name="adapter")
    (adapter / "config.json").rename(adapter / "adapter_config.json")
    assert "contains no config.json; it is an adapter: merge it (PEFT's" in chat("", folder=adapter)[2]
    encoder = checkpoint(name="encoder", is_causal=False)
    assert "encoder has is_causal=False and does not continue text" in chat("", folder=encoder)[2]
    silent = checkpoint(name="silent")
    (silent / "chat_template.jinja").unlink()
    assert "has no chat template; use `modeling-mini generate`" in chat("", folder=silent)[2]
    (silent / "chat_template.jinja").write_text("{{ raise_exception('Roles must alternate') }}")
    exit_code, _, error = chat("the\n", folder=silent)
    assert exit_code == 1
    assert "The chat template refuses the conversation: Roles must alternate." in error


def test_beams_are_refused(chat):
    assert "--num_beams: a chat shows each word as it is written" in chat("", "--num_beams", "2")[2]
