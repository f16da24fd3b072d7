"""What every test shares: tiny models whose parameters are all far from their defaults, and random token ids."""

import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import functools
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from hub_server import HubServer
from safetensors.torch import load_file

from modeling_mini import MiniConfig


collect_ignore = ["conformance"]  # `make conformance` runs that folder, and lays out what it needs

TRAIN = Path(__file__).resolve().parent.parent / "train.py"
WORDS = "the model reads a word and then it says what the next word in the text will be".split()
VOCAB_SIZE = 97
FIRST_ORDINARY_TOKEN = 5  # ids below are kept for padding and its like


@pytest.fixture(autouse=True)
def _reproducible():
    """The same random numbers for each test, in any order; one thread, so that sums round alike everywhere."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_config():
    def build(**overrides):
        sizes = {
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
        }
        return MiniConfig(**(sizes | overrides))

    return build


@pytest.fixture(scope="session")
def tiny_model(tiny_config):
    """`tiny_model(MiniForCausalLM, norm_first=False)`: in eval mode, with no parameter near 0 or 1 by default.

    Weights of the layers are drawn here, ten times as large as usual: small ones make attention nearly uniform and
    hide errors in it.
    """

    def build(model_class, weight_std=0.2, **overrides):
        torch.manual_seed(0)
        model = model_class(tiny_config(**overrides))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.ndim == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
                elif "embed_tokens" not in name:
                    parameter.normal_(std=weight_std)
        return model.eval()

    return build


@pytest.fixture(scope="session")
def random_ids():
    """`random_ids(2, 10)`: `[2, 10]` ids without special tokens, others at each call."""

    def draw(*shape, vocab_size=VOCAB_SIZE):
        return torch.randint(FIRST_ORDINARY_TOKEN, vocab_size, shape)

    return draw


@pytest.fixture(scope="session")
def pad():
    """`pad([row, row], "left")`: ids and attention mask `[B, T]` of rows of different lengths."""

    def build(rows, side, pad_token_id=0):
        length = max(len(row) for row in rows)
        ids = torch.full((len(rows), length), pad_token_id)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(length - len(row), None) if side == "left" else slice(len(row))
            ids[i, place], mask[i, place] = row, 1
        return ids, mask

    return build


@pytest.fixture(scope="session")
def gradients():
    """`gradients(model)`: a copy of each gradient by parameter name, which are then cleared."""

    def collect(model):
        found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return found

    return collect


@pytest.fixture
def hub(request, monkeypatch, tmp_path):
    """A running Hub of its own for a test, with this process's client pointed at it, logged in as alice.

    Parametrized indirectly with how files are uploaded: `lfs` (the default), `regular` or `xet`.
    """
    constants = huggingface_hub.constants
    with HubServer(getattr(request, "param", "lfs")) as server:
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
            "HF_HUB_DISABLE_XET": server.transfer != "xet",
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", server.url)
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # an API made for another server
        monkeypatch.setenv("HF_TOKEN", "hf_alice")
        monkeypatch.setenv("HF_HUB_DISABLE_XET", str(int(server.transfer != "xet")))
        yield server


@pytest.fixture(scope="session")
def run_python():
    """`run_python(script, *arguments, cache=folder)`: the finished process, far from this repository.

    Caches are in `cache`, which is made if it is not there; offline unless it is given a Hub, and then logged in with
    `token`. `installed=False` keeps the package out.
    """

    def run(script, *arguments, cache, hub=None, token="hf_alice", installed=False):
        cache.mkdir(exist_ok=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "HF_"))}
        environment |= {"HF_HOME": str(cache), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment |= {"HF_HUB_OFFLINE": "1"} if hub is None else {"HF_ENDPOINT": hub.url}
        environment |= {} if token is None else {"HF_TOKEN": token}
        environment |= {"HF_HUB_DISABLE_XET": "1"} if hub is None or hub.transfer != "xet" else {}
        environment |= {"PYTHONPATH": str(Path(__file__).parents[1])} if installed else {}
        # The package may be installed where the tests run; copies inside transformers_modules have longer names.
        without = "" if installed else "import sys\nsys.modules['modeling_mini'] = None\n"
        return subprocess.run(
            [sys.executable, "-c", without + script, *map(str, arguments)],
            cwd=cache,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture
def fresh_python(run_python, tmp_path):
    """`run_python` with caches that are empty at first, and that later calls of the same test find as they were."""
    return functools.partial(run_python, cache=tmp_path / "fresh-cache")


@pytest.fixture
def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def two_processes(tmp_path, free_port):
    """`two_processes(script_path, *arguments)`: run by torchrun on one CPU; the finished launcher."""

    def run(*command):
        launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port}"]
        environment = {"HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(
            [*launch, *map(str, command)],
            env=os.environ | environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Sixty short documents with some order in them, labelled by their first words."""
    path = tmp_path_factory.mktemp("corpus") / "documents.jsonl"
    generator = torch.Generator().manual_seed(0)
    with path.open("w") as file:
        for _ in range(60):
            picks = torch.randint(len(WORDS) - 3, (12,), generator=generator).tolist()
            text = ". ".join(" ".join(WORDS[i : i + 4]) for i in picks)
            file.write(json.dumps({"text": text, "label": text.split()[0]}) + "\n")
    return path


@pytest.fixture
def arguments(corpus, tmp_path):
    """A run of ten updates in about three seconds, with dropout, so that random states matter."""
    overrides = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "hidden_dropout": 0.1}
    options = {
        "dataset": corpus,
        "output_dir": tmp_path / "run",
        "config_overrides": json.dumps(overrides),
        "block_size": 32,
        "max_steps": 10,
        "per_device_train_batch_size": 4,
        "warmup_steps": 2,
        "save_steps": 4,
        "eval_steps": 5,
        "logging_steps": 1,
        "prompt": "the model",
    }
    return [str(word) for name, value in options.items() for word in (f"--{name}", value)]


@pytest.fixture
def run(tmp_path):
    """`run(arguments)`: train.py in a process of its own; its folder of caches is the test's."""
    environment = {**os.environ, "HF_HOME": str(tmp_path / "hf"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def start(arguments, hub=None, **options):
        command = [sys.executable, str(TRAIN), *arguments]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} | options
        login = {"HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_alice", "HF_HUB_DISABLE_XET": "1"}
        online = {} if hub is None else {"HF_ENDPOINT": hub.url} | login
        return subprocess.Popen(command, env=environment | online, cwd=tmp_path, text=True, **streams)

    def finish(arguments, **options):
        process = start(arguments, **options)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    finish.start = start
    return finish


def lose_the_end(folder, update):
    """Leave a finished run as if it had been killed before its last checkpoint, of that update, and its report."""
    shutil.rmtree(folder / f"checkpoint-{update}")
    for name in ("metrics.json", "model.safetensors"):
        (folder / name).unlink()


@pytest.fixture
def same_weights():
    """`same_weights(folder, other)`: two runs ended with the same weights, but for rounding."""

    def check(folder, other, rtol=1e-3, atol=2e-4):
        found, wanted = (load_file(path / "model.safetensors") for path in (folder, other))
        assert found.keys() == wanted.keys()
        for name, weights in wanted.items():
            # The bias of keys adds the same to all scores of a query: its gradient is rounding, of which Adam makes
            # whole steps.
            if not name.endswith("k_proj.bias"):
                torch.testing.assert_close(found[name], weights, rtol=rtol, atol=atol, msg=lambda m, n=name: n + m)

    return check
