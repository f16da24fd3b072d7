"""What `modeling-mini serve` refuses before it opens a model; `test_server.py` has the server."""

import socket
import sys
from types import SimpleNamespace

import pytest

from modeling_mini import MiniForMaskedLM, MiniForSequenceClassification
from modeling_mini.cli import main
from modeling_mini.serving.serve import model_names


@pytest.fixture
def refusal(free_port, capsys, monkeypatch):
    """`refusal(checkpoint, *options)`: the sentence with which the command ends, before a server starts."""
    started = SimpleNamespace(Server=lambda *args, **kwargs: pytest.fail("the server starts"))
    monkeypatch.setitem(sys.modules, "modeling_mini.serving.server", started)

    def run(checkpoint, *options):
        capsys.readouterr()  # the progress of saving it
        assert main(["serve", str(checkpoint), "--port", str(free_port), *options]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert len(captured.err.splitlines()) == 1
        return captured.err

    return run


def test_a_port_in_use_is_refused_before_the_checkpoint_is_opened(refusal, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert f"--port {port} is in use on 127.0.0.1; choose another port" in refusal(tmp_path, "--port", str(port))


def test_an_address_of_another_machine_is_refused(refusal, tmp_path):
    error = refusal(tmp_path, "--host", "192.0.2.1")
    assert "--host 192.0.2.1 --port" in error
    assert "no server can listen there (Cannot assign requested address); give" in error
    for name in ("no such host", "x" * 100):
        assert "no server can listen there" in refusal(tmp_path, "--host", name)


@pytest.mark.parametrize(
    ("head", "fields", "sentence"),
    [
        (MiniForSequenceClassification, {}, "but serve needs a MiniForCausalLM"),
        (MiniForMaskedLM, {"is_causal": False}, "but serve needs a MiniForCausalLM"),
        (None, {"is_causal": False}, "has is_causal=False and does not continue text"),
    ],
    ids=["classifier", "encoder", "bidirectional"],
)
def test_a_model_that_writes_no_text_is_refused(refusal, checkpoint, head, fields, sentence):
    assert sentence in refusal(checkpoint(*([head] if head else []), **fields))


def test_a_device_that_does_not_exist_is_refused(refusal, checkpoint):
    assert "--device nosuch cannot be used: " in refusal(checkpoint(), "--device", "nosuch")


def test_a_missing_package_is_named_with_the_extra(refusal, checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    assert 'fastapi is not installed; install it with: pip install "modeling_mini[serving]"' in refusal(checkpoint())


@pytest.mark.parametrize("options", [["--port", "0"], ["--port", "65536"], ["--dtype", "int3"], ["--log_level", "x"]])
def test_wrong_values_are_refused(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["serve", "run", *options])
    assert stopped.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_a_model_has_a_short_name(tmp_path, monkeypatch):
    (tmp_path / "runs" / "mini").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_names("runs/mini/") == ["mini", "runs/mini/", "runs/mini", str(tmp_path / "runs" / "mini")]
    assert model_names("alice/mini") == ["mini", "alice/mini"]
    assert model_names("runs/mini/.")[0] == "mini"
