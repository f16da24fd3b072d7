"""Fixtures for all tests: tiny models whose parameters are all far from their defaults, random token ids, and runs."""

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
from unittest import mock

import huggingface_hub
import pytest
import torch
import transformers
from hub_server import HubServer
from safetensors.torch import load_file
from transformers import AutoTokenizer, Trainer

from modeling_mini import MiniConfig, MiniForCausalLM
from modeling_mini.hub import push as sharing
from modeling_mini.tasks import task_class
from modeling_mini.tokenization import train_tokenizer
from modeling_mini.training.arguments import parse_arguments
from modeling_mini.training.optim import optimizer_of


collect_ignore = ["conformance"]  # `make conformance` prepares and runs that folder

TRAIN = Path(__file__).resolve().parent.parent / "train.py"
WORDS = "the model reads a word and then it says what the next word in the text will be".split()
VOCAB_SIZE = 97
FIRST_ORDINARY_TOKEN = 5  # lower ids are special tokens such as padding


@pytest.fixture(autouse=True)
def _reproducible():
    """The same random numbers for each test, in any order of tests; one thread, so that sums round the same way."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _environment():
    """The environment variables of before each test: PEFT's BOFT leaves CXX=gcc, with which torch.compile fails."""
    with mock.patch.dict(os.environ):
        yield


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

    The weights of the layers are ten times as large as usual: small weights make attention nearly uniform, which hides
    errors in it.
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
    """`random_ids(2, 10)`: `[2, 10]` ids without special tokens, different at each call."""

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
            span = slice(length - len(row), None) if side == "left" else slice(len(row))
            ids[i, span], mask[i, span] = row, 1
        return ids, mask

    return build


@pytest.fixture(scope="session")
def gradients():
    """`gradients(model)`: a copy of each gradient by parameter name; the gradients are then cleared."""

    def collect(model):
        copies = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        return copies

    return collect


@pytest.fixture
def hub(request, monkeypatch, tmp_path):
    """A separate Hub server for a test. The client of this process uses it and is logged in as alice.

    The indirect parameter is the way in which files are uploaded: `lfs` (the default), `regular` or `xet`.
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
        monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)  # may belong to another server
        monkeypatch.setenv("HF_TOKEN", "hf_alice")
        monkeypatch.setenv("HF_HUB_DISABLE_XET", str(int(server.transfer != "xet")))
        yield server


@pytest.fixture
def checkpoint(tiny_model, tmp_path):
    """`checkpoint(model_class)`: the folder of a saved model, with a tokenizer of its vocabulary."""

    def build(model_class=MiniForCausalLM, name="checkpoint", **overrides):
        tokenizer = train_tokenizer(["the quick brown fox jumps over the lazy dog"], vocab_size=300)
        model = tiny_model(model_class, vocab_size=len(tokenizer), max_position_embeddings=64, **overrides)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    return build


@pytest.fixture
def save_states():
    """`save_states(folder, *options)`: the states that the Trainer stores with the model in a folder."""

    def save(folder, *options):
        args = parse_arguments(["--output_dir", str(folder.parent), *options])[2]
        model = MiniForCausalLM.from_pretrained(folder)
        trainer = Trainer(model, args, eval_dataset=[1], optimizer_cls_and_kwargs=optimizer_of(args).for_trainer(args))
        trainer.create_optimizer_and_scheduler(4)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        trainer.optimizer.step()
        trainer._save_rng_state(folder)
        torch.save(trainer.optimizer.state_dict(), folder / "optimizer.pt")
        torch.save(trainer.lr_scheduler.state_dict(), folder / "scheduler.pt")

    return save


@pytest.fixture
def no_verification(monkeypatch):
    """A push starts no fresh processes to verify the model, and does not wait between attempts."""
    monkeypatch.setattr("modeling_mini.hub.push.verify", lambda *args: None)
    monkeypatch.setattr("time.sleep", lambda seconds: None)


@pytest.fixture(scope="session")
def run_python():
    """`run_python(script, *arguments, cache=folder)`: run a script outside this repository; the finished process.

    Caches are in `cache`, which is created if it is missing. The process is offline unless it gets a `hub`, where it
    is logged in with `token`. With `installed=False` the package cannot be imported.
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
    """`run_python` with a cache that is empty at first and is kept for later calls of the same test."""
    return functools.partial(run_python, cache=tmp_path / "fresh-cache")


@pytest.fixture
def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def two_processes(tmp_path, free_port):
    """`two_processes(script_path, *arguments)`: run a script by torchrun on a CPU; the finished launcher."""

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


@pytest.fixture
def datasets_cache(tmp_path, monkeypatch):
    """Keep what `datasets` stores in the test's own folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def tokenizer():
    """A tokenizer for the words of `made_data`; some test files define another one of this name."""
    from made_data import number_tokenizer  # here, because it imports `datasets`, which most tests do not need

    return number_tokenizer()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Sixty short documents with some regularity, labelled by their first words."""
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
    """Arguments of a run of ten updates: about three seconds; with dropout, so that random states matter."""
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
    """`run(arguments)`: run train.py in a separate process with caches of this test; return code and output."""
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
    """Make a finished run look as if it was killed before its last checkpoint (at `update`) and its report."""
    shutil.rmtree(folder / f"checkpoint-{update}")
    for name in ("metrics.json", "model.safetensors"):
        (folder / name).unlink()


@pytest.fixture
def same_weights():
    """`same_weights(folder, other)`: assert that two runs have the same final weights, except for rounding."""

    def check(folder, other, rtol=1e-3, atol=2e-4):
        weights, other_weights = (load_file(path / "model.safetensors") for path in (folder, other))
        assert weights.keys() == other_weights.keys()
        for name, expected in other_weights.items():
            # The bias of keys adds the same number to all scores of a query, so its gradient is only rounding, which
            # Adam scales up to whole steps.
            if not name.endswith("k_proj.bias"):
                torch.testing.assert_close(weights[name], expected, rtol=rtol, atol=atol, msg=lambda m, n=name: n + m)

    return check


@pytest.fixture
def quickstart(tiny_model, tmp_path, monkeypatch):
    """A working directory with an untrained tiny model in the output folder of the quickstart."""
    tokenizer = train_tokenizer(["Return the next word of the text."], vocab_size=300)
    model = tiny_model(MiniForCausalLM, vocab_size=len(tokenizer))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "runs" / "quickstart")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def applications(quickstart, tiny_model, tmp_path):
    """Adds untrained models in the output folders of the recipes of the tasks, and a document."""
    tokenizer = AutoTokenizer.from_pretrained("runs/quickstart")
    for name in ("translation", "summarization", "text-classification-scratch", "generative-question-answering"):
        task = name.removesuffix("-scratch")
        model_class = task_class(task).model_class
        model = tiny_model(model_class, vocab_size=len(tokenizer), is_causal=model_class is MiniForCausalLM)
        for part in (model, tokenizer):
            part.save_pretrained(tmp_path / "runs" / name)
        data = {"task": task, "block_size": 64, "max_target_tokens": 4}
        (tmp_path / "runs" / name / "_run.json").write_text(json.dumps({"data": data}))
    (tmp_path / "document.txt").write_text("Return the text. It has words.")


@pytest.fixture
def without_verification(monkeypatch):
    monkeypatch.setattr(sharing, "verify", lambda *args: None)
