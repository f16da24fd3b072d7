"""`modeling-mini serve`, asked through OpenAI's own client. `make serving` installs what it needs."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
import torch
from transformers import AutoTokenizer

from modeling_mini import MiniForCausalLM
from modeling_mini.tasks.generation import continue_text
from modeling_mini.tokenization import train_tokenizer


for package in ("fastapi", "uvicorn", "openai"):
    pytest.importorskip(package)

import openai  # noqa: E402


pytestmark = pytest.mark.slow

CONTEXT = 64
HELLO = [{"role": "user", "content": "fox"}]


@pytest.fixture(scope="module")
def folder(tiny_model, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("runs") / "mini"
    tokenizer = train_tokenizer(["the quick brown fox jumps over the lazy dog"], vocab_size=300)
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer), max_position_embeddings=CONTEXT)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def start(folder, port, log, *options, command=("-m", "modeling_mini.cli", "serve")):
    """A server that answers; the folder of the Hub's cache does not exist."""
    words = [sys.executable, *command, str(folder), "--host", "127.0.0.1", "--port", str(port), *options]
    environment = os.environ | {"HF_HOME": str(log.parent / "no-cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(words, env=environment, cwd=log.parent, stdout=file, stderr=file)
    deadline = time.monotonic() + 300
    while not is_up(port):
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.5)
    return process


def is_up(port):
    try:
        return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    """OpenAI's client of a running server."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start(folder, port, tmp_path_factory.mktemp("server") / "log", "--device", "cpu")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as client:
        yield client
    process.terminate()
    process.wait()


def test_the_model_is_listed_under_its_short_name(server):
    assert [model.id for model in server.models.list()] == ["mini"]


@pytest.mark.parametrize("short", [True, False], ids=["short-name", "path"])
def test_a_completion_is_what_generate_writes(server, folder, short):
    model, tokenizer = MiniForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    expected = continue_text(model, tokenizer, "the fox", max_new_tokens=9, temperature=0)
    name = "mini" if short else str(folder)
    answer = server.completions.create(model=name, prompt="the fox", max_tokens=9, temperature=0)
    assert "the fox" + answer.choices[0].text == expected
    assert answer.model == "mini"
    assert answer.usage.completion_tokens == 9
    parts = server.completions.create(model=name, prompt="the fox", max_tokens=9, temperature=0, stream=True)
    assert "the fox" + "".join(part.choices[0].text for part in parts) == expected


def test_chat_streamed_and_whole_and_responses_agree(server, folder):
    model, tokenizer = MiniForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    ids = model.generate(**inputs, max_new_tokens=9, do_sample=False)
    expected = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    request = {"model": "mini", "messages": HELLO, "max_tokens": 9, "temperature": 0}
    assert server.chat.completions.create(**request).choices[0].message.content == expected
    parts = list(server.chat.completions.create(**request, stream=True))
    assert "".join(part.choices[0].delta.content or "" for part in parts) == expected
    assert parts[-1].choices[0].finish_reason == "length"
    response = server.responses.create(model="mini", input="fox", max_output_tokens=9, temperature=0)
    assert response.output_text == expected


def test_sampling_is_the_default_and_a_seed_repeats_it(server):
    texts = [
        server.completions.create(model="mini", prompt="the fox", max_tokens=12, seed=seed).choices[0].text
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


def test_an_answer_ends_with_the_context(server, folder):
    length = len(AutoTokenizer.from_pretrained(folder)("the fox").input_ids)
    for request in ({}, {"max_tokens": 5000}):
        answer = server.completions.create(model="mini", prompt="the fox", temperature=0, **request)
        assert answer.usage.completion_tokens == CONTEXT - length  # these weights write no eos
        assert answer.choices[0].finish_reason == "length"


def test_a_stop_text_ends_an_answer(server):
    whole = server.completions.create(model="mini", prompt="the fox", max_tokens=20, temperature=0).choices[0].text
    stop = whole[3:5]
    answer = server.completions.create(model="mini", prompt="the fox", max_tokens=20, temperature=0, stop=[stop])
    assert whole.startswith(answer.choices[0].text)
    assert stop in answer.choices[0].text  # as transformers has it; OpenAI leaves the text out
    assert len(answer.choices[0].text) < len(whole)


@pytest.mark.parametrize(
    ("request_fields", "error_class", "sentence"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "There is no model 'gpt-4' here; ask for 'mini'."),
        ({"n": 2}, openai.BadRequestError, "n is 2, which this server cannot do; leave it out."),
        ({"prompt": "the fox " * 60}, openai.BadRequestError, "and the model reads at most 63; shorten it."),
        ({"prompt": "the fox " * 60, "stream": True}, openai.BadRequestError, "reads at most 63; shorten it."),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens is 0; give a whole number of at least 1."),
        ({"extra_body": {"colour": 1}}, openai.UnprocessableEntityError, "colour"),
    ],
    ids=["model", "n", "long", "long-streamed", "max_tokens", "unknown-field"],
)
def test_a_wrong_request_gets_a_sentence(server, request_fields, error_class, sentence):
    with pytest.raises(error_class) as refused:
        server.completions.create(**({"model": "mini", "prompt": "the fox"} | request_fields))
    assert sentence in refused.value.body["message"]
    assert refused.value.body["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"{bad", b"[1]", b""])
def test_a_body_that_is_not_json_gets_a_sentence(server, body):
    request = urllib.request.Request(f"{server.base_url}completions", body, {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    assert refused.value.code == 400
    assert "The body is not a JSON object" in json.load(refused.value)["error"]["message"]


@pytest.mark.parametrize("path", ["reset", "v1/audio/transcriptions", "v1/systemone"])
def test_endpoints_that_no_text_model_has_are_not_there(server, path):
    address = f"{str(server.base_url).removesuffix('v1/')}{path}"
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(urllib.request.Request(address, b"{}"), timeout=60)
    assert refused.value.code == 404
    assert "Not Found" in json.load(refused.value)["error"]["message"]


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
def test_a_signal_ends_the_server(folder, free_port, tmp_path, number, exit_code):
    process = start(folder, free_port, tmp_path / "log")
    process.send_signal(number)
    assert process.wait(timeout=60) == exit_code
    log = (tmp_path / "log").read_text()
    assert f"Serving the model mini at http://127.0.0.1:{free_port}/v1" in log
    assert "Traceback" not in log
    assert log.endswith(f"Stopped by {signal.Signals(number).name}.\n")


def test_options_reach_the_server(folder, free_port, tmp_path):
    options = ("--enable-cors", "--dtype", "bfloat16", "--default_seed", "1", "--log_level", "error")
    process = start(folder, free_port, tmp_path / "log", *options)
    try:
        body, headers = (
            b'{"prompt": "fox", "max_tokens": 3}',
            {"Content-Type": "application/json", "Origin": "http://a"},
        )
        request = urllib.request.Request(f"http://127.0.0.1:{free_port}/v1/completions", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            assert json.load(answer)["usage"]["completion_tokens"] == 3
            assert answer.headers["Access-Control-Allow-Origin"]
    finally:
        process.terminate()
        process.wait()
    assert "[Request received]" not in (tmp_path / "log").read_text()  # a warning of transformers


def test_transformers_own_command_serves_the_model_after_our_import(folder, free_port, tmp_path):
    main = "import modeling_mini; from transformers.cli.transformers import main; main()"
    process = start(folder, free_port, tmp_path / "log", command=("-c", main, "serve"))
    try:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{free_port}/v1", api_key="none") as client:
            answer = client.completions.create(model=str(folder), prompt="the fox", max_tokens=3)
        assert answer.usage.completion_tokens == 3
    finally:
        process.terminate()
        process.wait()
