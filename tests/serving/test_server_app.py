"""The server of `modeling-mini serve` in this process, without a port: the hosts, errors and settings of a model."""

import json

import pytest
import torch
from transformers import GenerationConfig

from modeling_mini import MiniForCausalLM
from modeling_mini.serving.addresses import allowed_hosts
from modeling_mini.tokenization import train_tokenizer


for package in ("fastapi", "uvicorn", "openai"):
    pytest.importorskip(package)

import uvicorn  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from modeling_mini.serving.server import Server  # noqa: E402


HELLO = [{"role": "user", "content": "fox"}]


@pytest.fixture
def client(tiny_model, monkeypatch):
    """`client(host, **settings)`: a client of a server whose model has these settings for generation."""
    monkeypatch.setattr(uvicorn.Server, "run", lambda self: None)

    def build(host="127.0.0.1", **settings):
        torch.manual_seed(0)
        tokenizer = train_tokenizer(["the quick brown fox jumps over the lazy dog"], vocab_size=300)
        model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer), max_position_embeddings=64).eval()
        model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, **settings)
        server = Server(model, tokenizer, ["mini"], host=host, port=1)
        made = TestClient(server.server.config.app, f"http://{host}", raise_server_exceptions=False)
        made.model = model
        return made

    return build


@pytest.mark.parametrize(
    ("host", "named", "status"),
    [
        ("127.0.0.1", "localhost:8000", 200),
        ("127.0.0.1", "127.0.0.1:8000", 200),
        ("127.0.0.1", "[::1]:8000", 200),
        ("127.0.0.1", "evil.example:8000", 400),
        ("10.0.0.7", "10.0.0.7", 200),
        ("10.0.0.7", "evil.example", 400),
        ("0.0.0.0", "evil.example", 200),
    ],
)
def test_a_request_names_this_server(client, host, named, status):
    assert client(host).get("/health", headers={"Host": named}).status_code == status


def test_all_hosts_are_for_all_addresses_only():
    assert allowed_hosts("::") == allowed_hosts("0.0.0.0") == ["*"]
    assert allowed_hosts("mybox")[-1] == "mybox"
    assert allowed_hosts("fe80::1")[-1] == "[fe80::1]"


@pytest.mark.parametrize("path", ["completions", "chat/completions", "responses"])
def test_a_model_with_beams_streams_one_text(client, path):
    text = {"completions": "prompt", "chat/completions": "messages", "responses": "input"}[path]
    body = {text: HELLO if text == "messages" else "the fox", "stream": True}
    server = client(num_beams=4, num_return_sequences=2, max_new_tokens=5)
    assert server.model.generation_config.num_beams == 1  # a stream of beams would never end
    answer = server.post(f"/v1/{path}", json=body)
    assert answer.status_code == 200
    assert "error" not in answer.text
    assert ("response.completed" if path == "responses" else '"finish_reason":"length"') in answer.text


@pytest.mark.parametrize(("settings", "repeats"), [({"do_sample": False}, True), ({}, False)], ids=["greedy", "unset"])
def test_a_model_that_does_not_sample_is_left_so(client, settings, repeats):
    server = client(**settings)
    texts = {
        server.post("/v1/completions", json={"prompt": "the fox", "seed": seed}).json()["choices"][0]["text"]
        for seed in (1, 2)
    }
    assert len(texts) == (1 if repeats else 2)


@pytest.mark.parametrize("model", [5, None, "other", [1]])
def test_another_model_is_not_loaded(client, model):
    refused = client().post("/load_model", json={"model": model})
    assert refused.status_code == 404
    assert f"There is no model {model!r} here; ask for 'mini'." == refused.json()["error"]["message"]


def test_a_model_is_shown_by_its_name(client):
    [listed] = client().get("/v1/models").json()["data"]
    assert client().get("/v1/models/mini").json() == client().get("/v1/models/").json() == listed
    assert client().get("/v1/models/user/other").json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("stop", [[], None, "fox"])
def test_a_stop_text_may_be_left_out_or_empty(client, stop):
    assert client().post("/v1/completions", json={"prompt": "the", "max_tokens": 2, "stop": stop}).status_code == 200


@pytest.mark.parametrize(("path", "text"), [("completions", "prompt"), ("chat/completions", "messages")])
def test_a_stream_ends_as_those_of_openai(client, path, text):
    body = {text: HELLO if text == "messages" else "the fox", "stream": True, "max_tokens": 2}
    answer = client().post(f"/v1/{path}", json=body)
    *parts, end = answer.text.removesuffix("\n\n").split("\n\n")
    assert end == "data: [DONE]"
    assert all(json.loads(part.removeprefix("data: "))["model"] == "mini" for part in parts)


def test_the_model_is_open(client):
    assert '"status": "ready"' in client().post("/load_model", json={"model": "mini"}).text


def test_a_bias_chooses_the_token(client):
    body = {"messages": HELLO, "max_tokens": 3, "temperature": 0, "logit_bias": {"70": 100}}
    answer = client().post("/v1/chat/completions", json=body).json()
    text = answer["choices"][0]["message"]["content"]
    assert len(text) == 3
    assert len(set(text)) == 1


def test_a_template_of_the_client_is_refused(client):
    loops = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    body = {"messages": HELLO, "chat_template_kwargs": {"chat_template": loops}}
    assert client().post("/v1/chat/completions", json=body).status_code == 400


def test_a_defect_is_an_error_of_openai(client, monkeypatch):
    monkeypatch.setattr("modeling_mini.serving.server.check_request", lambda *_: 1 / 0)
    failed = client().post("/v1/completions", json={"prompt": "the fox"})
    assert failed.status_code == 500
    assert failed.json()["error"]["type"] == "server_error"
    assert "please report it" in failed.json()["error"]["message"]
