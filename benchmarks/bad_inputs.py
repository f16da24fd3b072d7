"""Give every command bad inputs, and check that each is refused with one sentence: no traceback, no result.

    python benchmarks/bad_inputs.py                    a table; exit code 1 if one input is not refused well
    python benchmarks/bad_inputs.py --only recipe      the cases whose name contains a word

A case is a name, a command line, and, where it needs them, the bytes of standard input and files to write. `{run}`
stands for a copy of a tiny checkpoint, and `{folder}` for the folder of the case. Most cases run in one process; those
with a shell command run in a process of their own, because they are about its streams.
"""

import argparse
import io
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple


os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parents[1]


class Case(NamedTuple):
    """One bad input.

    Args:
        name: what is bad.
        argv: the words after `modeling-mini`; or one text, which is a command of bash with `$M` for `modeling-mini`.
        stdin: standard input, or None for an empty one.
        files: content by name, written into the folder of the case before the command.
        prepare: changes the folder of the case further.
    """

    name: str
    argv: list[str] | str
    stdin: bytes | None = None
    files: dict[str, bytes] = {}
    prepare: Callable[[Path], None] | None = None


def checkpoint(path: Path, head: str) -> None:
    """Save a tiny model with its tokenizer, like the folder of a run."""
    from modeling_mini import MiniConfig, modeling_mini
    from modeling_mini.tokenization import train_tokenizer

    tokenizer = train_tokenizer(["the model reads the text and writes the next word"], vocab_size=300)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    labels = {"num_labels": 2} if head == "MiniForSequenceClassification" else {}
    config = MiniConfig(vocab_size=len(tokenizer), max_position_embeddings=32, **sizes, **labels)
    getattr(modeling_mini, head)(config).save_pretrained(path)
    tokenizer.save_pretrained(path)


def train(*words: str) -> list[str]:
    """A training that would take seconds if it were not refused."""
    return ["train", "quickstart", "--dataset", "{folder}/t.txt", "--output_dir", "{folder}/out", *words]


TEXT = {"t.txt": b"the model reads a word\n" * 50}


def value(*words: str) -> Case:
    """A value of an argument of a run that cannot work."""
    return Case(f"value: {' '.join(words)}"[:70], train("--optimizer", "adamw", *words), files=TEXT)


def recipe(name: str, content: bytes) -> Case:
    """A recipe that cannot be read."""
    return Case(f"recipe: {name}", ["train", "{folder}/r.yaml"], files={"r.yaml": content})


def data(name: str, file: str, content: bytes, *words: str) -> Case:
    """A data file that cannot be read."""
    command = ["train", "quickstart", "--dataset", f"{{folder}}/{file}", "--output_dir", "{folder}/out", *words]
    return Case(f"data: {name}", command, files={file: content})


def broken(name: str, command: str, change: Callable[[Path], None]) -> Case:
    """A checkpoint that was damaged after it was saved."""
    words = {"generate": ["the"], "classify": ["the"], "push": ["user/repo", "--dry_run"], "eval": []}[command]
    return Case(
        f"checkpoint: {name}: {command}", [command, "{run}", *words], prepare=lambda folder: change(folder / "run")
    )


def edit(name: str, **fields) -> Callable[[Path], None]:
    """Change fields of a JSON file of the checkpoint."""

    def change(run: Path) -> None:
        path = run / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return change


def write(name: str, content: bytes) -> Callable[[Path], None]:
    """Write a file of the folder."""

    def change(folder: Path) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)

    return change


def rename(name: str, new_name: str) -> Callable[[Path], None]:
    """Give a file of the checkpoint another name."""
    return lambda run: (run / name).replace(run / new_name) and None


def link(name: str) -> Callable[[Path], None]:
    """Replace a file of the checkpoint by a link to a file outside."""

    def change(run: Path) -> None:
        outside = run.parent / "private"
        outside.write_bytes((run / name).read_bytes() if (run / name).exists() else b"private")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(outside)

    return change


def not_finite(run: Path) -> None:
    """Write a weight that is not a number."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(run / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = torch.nan
    save_file(weights, run / "model.safetensors", metadata={"format": "pt"})


def remove(name: str) -> Callable[[Path], None]:
    """Delete a file of the checkpoint."""
    return lambda run: (run / name).unlink()


def truncate(name: str, size: int) -> Callable[[Path], None]:
    """Cut a file of the checkpoint."""
    return lambda run: os.truncate(run / name, size)


NAMES = [
    Case("name: recipe", ["train", "quikstart"]),
    Case("name: recipe file", ["train", "nosuch.yaml"]),
    Case("name: recipe of 5,000 letters", ["train", "x" * 5000]),
    Case("name: option of train", ["train", "--lerning_rate", "1"]),
    Case("name: option of train with dashes", ["train", "--lerning-rate=1"]),
    Case("name: second word of train", ["train", "quickstart", "small"]),
    Case("name: task", ["train", "--task", "translate"]),
    Case("name: data file", ["train", "--dataset", "nosuch.txt"]),
    Case("name: data folder", ["train", "--dataset", "nosuch/"]),
    Case("name: empty data set", ["train", "--dataset", ""]),
    Case("name: data set of 5,000 letters", ["train", "--dataset", "x" * 5000 + ".txt"]),
    Case("name: model to fine-tune", ["train", "--init_from", "nosuch/"]),
    Case("name: preset", train("--model", "smal"), files=TEXT),
    Case("name: tokenizer", train("--tokenizer", "./nosuch"), files=TEXT),
    Case("name: checkpoint of eval", ["eval", "nosuch"]),
    Case("name: option of eval", ["eval", "--batchsize", "3"]),
    Case("name: split of eval", ["eval", "--split", "tests"]),
    Case("name: checkpoint of generate", ["generate", "nosuch", "the"]),
    Case("name: checkpoint of classify", ["classify", "../nosuch", "the"]),
    Case("name: empty checkpoint", ["generate", "", "the"]),
    Case("name: checkpoint of another task", ["classify", "{run}", "the"]),
    Case("name: checkpoint of export", ["export", "nosuch", "--to", "onnx"]),
    Case("name: output of export", ["export", "{run}", "--to", "onnx", "--output", "{run}"]),
    Case("name: format of export", ["export", "{run}", "--to", "onx"]),
    Case("name: option of generate", ["generate", "{run}", "the", "--temprature", "1"]),
    Case("name: option of push", ["push", "{run}", "user/repo", "--licence", "mit"]),
    Case("name: model of plan", ["plan", "smal"]),
    Case("name: option of plan", ["plan", "nano", "--gpu", "3"]),
    Case("name: no model of plan", ["plan"]),
    Case("name: subcommand", ["summarise", "x"]),
    Case("name: no subcommand", []),
]
VALUES = [
    *(
        value(*words.split(" "))
        for words in (
            "--per_device_train_batch_size 0|--gradient_accumulation_steps 0|--gradient_accumulation_steps -1|"
            "--learning_rate nan|--learning_rate inf|--learning_rate fast|--seed -1|--seed 99999999999999999999|"
            "--adam_beta1 2|--adam_epsilon 0|--weight_decay nan|--label_smoothing_factor 5|--muon_momentum 5|"
            "--neftune_noise_alpha nan|--dataloader_num_workers -1|--max_steps 0|--max_steps -1 --num_train_epochs 0|"
            "--eval_steps 0|--save_steps -1|--save_total_limit 0|--block_size 4|--block_size 99999999999|"
            "--validation_fraction 2|--optim nosuch|--optim adamw_8bit|--optim lomo|--optim_args lr=5|"
            "--lr_scheduler_type nosuch|--lr_scheduler_type cosine_with_min_lr|--lr_scheduler_kwargs nosuch|"
            '--lr_scheduler_kwargs {"x":1}|--report_to nosuch|--report_to dvclive|--fsdp full_shard|'
            "--accelerator_config nosuch.json|--deepspeed nosuch.json|--prediction_loss_only true|"
            "--batch_eval_metrics true|--label_names x|--config_overrides {|--config_overrides [1]|"
            '--config_overrides {"hidden_size":65}|--config_overrides {"hiden_size":64}|--fp16 true --bf16 true|'
            "--torch_compile_backend nosuch|--attn_implementation nosuch|--streaming true"
        ).split("|")
    ),
    Case("value: empty output folder", ["train", "--output_dir", ""]),
    Case("value: output folder is a file", ["train", "--output_dir", "{folder}/t.txt"], files=TEXT),
    Case(
        "value: stride as long as a row", train("--task", "question-answering", "--block_size", "16", "--stride", "16")
    ),
    Case("value: temperature nan", ["generate", "{run}", "the", "--temperature", "nan"]),
    Case("value: temperature inf", ["generate", "{run}", "the", "--temperature", "inf"]),
    Case("value: temperature 1e-320", ["generate", "{run}", "the", "--temperature", "1e-320"]),
    Case("value: seed of generate", ["generate", "{run}", "the", "--seed", "-1"]),
    Case("value: top_k", ["generate", "{run}", "the", "--top_k", "0"]),
    Case("value: batch of classify", ["classify", "{run}", "the", "--batch_size", "0"]),
    Case("value: length of an export", ["export", "{run}", "--to", "litert", "--max_length", "0"]),
    Case("value: licence", ["push", "{run}", "user/repo", "--license", "no: such ["]),
    Case("value: shard size", ["push", "{run}", "user/repo", "--max_shard_size", "large"]),
    Case("value: memory of plan", ["plan", "nano", "--memory", "much"]),
    Case("value: devices of plan", ["plan", "nano", "--gpus", "0"]),
    Case("value: output of eval is a file", ["eval", "--output", "{folder}/t.txt"], files=TEXT),
    Case("value: examples of eval", ["eval", "--max_examples", "0"]),
]
VALUES += [
    value("--config_overrides", overrides)
    for overrides in (
        '{"trust_remote_code": true}',
        '{"from_dict": 1}',
        '{"model_type": "gpt2"}',
        '{"dtype": "nonsense"}',
        '{"num_hidden_layers": 100000000}',
        '{"hidden_size": 10000000000}',
        '{"d_model": 32, "hidden_size": 64}',
        '{"eos_token_id": -5}',
        '{"max_position_embeddings": 4096}',
    )
]
VALUES += [
    value("--metric_for_best_model", "bleu", "--eval_strategy", "steps"),
    value("--early_stopping_patience", "2", "--eval_strategy", "no"),
    value("--load_best_model_at_end", "true", "--eval_strategy", "no"),
    value("--metric_for_best_model", "perplexity", "--greater_is_better", "true"),
    value("--resume"),
    Case("value: beams of a sampled text", ["generate", "{run}", "the", "--num_beams", "2", "--top_k", "5"]),
    Case("value: penalty of eval", ["eval", "{run}", "--task", "translation", "--repetition_penalty", "0"]),
    Case("value: output folder with files of others", train(), files=TEXT, prepare=write("out/README.md", b"mine")),
    Case(
        "value: results of others",
        ["eval", "--output", "{folder}/out"],
        prepare=write("out/results.json", b'{"mine": 1}'),
    ),
]
RECIPES = [
    recipe("a key twice", b"seed: 1\nseed: 2\n"),
    recipe("nested 5,000 deep", b"a: " + b"[" * 5000),
    recipe("UTF-16", "seed: 1\n".encode("utf-16")),
    recipe("Latin-1", b"prompt: caf\xe9\n"),
    recipe("a list", b"- seed: 1\n"),
    recipe("a word", b"seed\n"),
    recipe("not YAML", b"a: [1\n"),
    recipe("NUL characters", b"\0\0\0"),
    recipe("unknown argument", b"lerning_rate: 1\n"),
    recipe("two values for one", b"learning_rate: [1, 2]\n"),
    recipe("a mapping for a text", b"dataset: {a: b}\n"),
    recipe("code", b"prompt: !!python/object/apply:os.system [ls]\n"),
    recipe("overrides that are a list", b"config_overrides: [1]\n"),
    recipe("missing data file", b"dataset: nosuch.txt\n"),
]
ANSWERING = ("--task", "question-answering")
SQUAD = (
    '{"data": [{"paragraphs": [{"context": "one two", "qas": [{"id": "7", "question": "which?", "answers": '
    '[{"text": "three", "answer_start": 0}]}]}]}]}'
)
DATA = [
    data("empty file", "a.txt", b""),
    data("one document", "a.jsonl", b'{"text": "one"}\n'),
    data("JSON that is cut", "a.jsonl", b'{"text": "one"}\n{"text": "tw'),
    data("JSON without text", "a.jsonl", b'{"words": "one"}\n{"words": "two"}\n'),
    data("JSON of numbers", "a.jsonl", b'{"text": 1}\n{"text": 2}\n'),
    data("UTF-16 text", "a.txt", "the text\n".encode("utf-16")),
    data("Latin-1 text", "a.txt", b"caf\xe9\n" * 9),
    data("gzip that is cut", "a.txt.gz", b"\x1f\x8b\x08\x00\x00"),
    data("parquet that is none", "a.parquet", b"PAR1 nothing"),
    data("unknown format", "a.docx", b"PK"),
    data("CSV without the column", "a.csv", b"words\none\ntwo\n"),
    data("labels that are missing", "a.csv", b"text,label\none,\ntwo,\n", "--task", "text-classification"),
    data("null", "a.json", b"null"),
    data("100,000 brackets", "a.json", b"[" * 100_000),
    data("half a character", "a.jsonl", b'{"text": "one"}\n{"text": "half \\ud83d"}\n'),
    data("a key twice", "a.jsonl", b'{"text": "one", "text": "two"}\n'),
    data("GBK in a JSON array", "a.json", '[{"text": "中文文本"}]'.encode("gbk")),
    data("a pointer of Git LFS", "a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
    data("a zip archive", "a.csv", b"PK\x03\x04...."),
    data("more cells than columns", "a.csv", b"text,label\none,two,three\n"),
    data("a condition that is code", "a.csv", b"text\none\n", "--where", "__import__('os')"),
    data("a condition on no column", "a.csv", b"text\none\n", "--where", "lang == 'en'"),
    data("a condition that no row meets", "a.csv", b"text\none\n", "--where", "text == 'two'"),
    data("no split column", "a.csv", b"text\none\n", "--split_column", "fold"),
    data("two sources", "a.csv", b"text\none\n", "--train_file", "{folder}/a.csv"),
    data("a validation file that is missing", "a.csv", b"text\none\n", "--validation_file", "{folder}/b.csv"),
    data("answers of numbers", "a.jsonl", b'{"question": "q", "context": "c", "answers": 1}\n', *ANSWERING),
    data("answers that are elsewhere", "a.json", SQUAD.encode(), *ANSWERING),
    data("a name that looks like a pattern", "lab[1].jsonl", b'{"words": "one"}\n'),
    Case("data: a pattern", train("--dataset", "{folder}/*.txt"), files=TEXT),
    Case(
        "data: a pipe", train("--dataset", "{folder}/pipe.txt"), prepare=lambda folder: os.mkfifo(folder / "pipe.txt")
    ),
    Case(
        "data: a link that leads nowhere",
        train("--dataset", "{folder}/a.txt"),
        prepare=lambda folder: (folder / "a.txt").symlink_to("nowhere"),
    ),
    Case("data: a folder of pictures", train("--dataset", "{folder}/data"), prepare=write("data/a.png", b"")),
    Case(
        "data: a file named after two splits",
        train("--dataset", "{folder}/data"),
        prepare=write("data/train_test.csv", b"text\none\n"),
    ),
]
CHECKPOINTS = [
    *(
        broken(name, command, change)
        for command in ("generate", "push")
        for name, change in (
            ("weights that are cut", truncate("model.safetensors", 1000)),
            (
                "weights that are a Git LFS pointer",
                write("model.safetensors", b"version https://git-lfs.github.com\n"),
            ),
            ("no weights", remove("model.safetensors")),
            ("no config", remove("config.json")),
            ("config of {", write("config.json", b"{")),
            ("hidden_size as text", edit("config.json", hidden_size="128")),
            ("another vocabulary", edit("config.json", vocab_size=1000)),
            ("more layers than weights", edit("config.json", num_hidden_layers=3)),
            ("another model type", edit("config.json", model_type="gpt2")),
            ("no tokenizer", remove("tokenizer.json")),
            ("tokenizer that is cut", truncate("tokenizer.json", 100)),
        )
    ),
    *(
        broken(name, "generate", change)
        for name, change in (
            ("weights in a pickle", rename("model.safetensors", "pytorch_model.bin")),
            (
                "index that leads out",
                write("model.safetensors.index.json", b'{"weight_map": {"a": "../b.safetensors"}}'),
            ),
            ("weights that are not finite", not_finite),
        )
    ),
    broken("a card that is a link", "push", link("README.md")),
    broken("a config that is a link", "push", link("config.json")),
    broken("run record of {", "eval", write("_run.json", b"{")),
    broken("run record of []", "eval", write("_run.json", b"[]")),
    Case("checkpoint: a file", ["generate", "{folder}/t.txt", "the"], files=TEXT),
    Case("checkpoint: fine-tuned from no model", train("--init_from", "{folder}"), files=TEXT),
]
STREAMS = [
    Case("stream: argument that is not UTF-8", ["generate", "{run}", "caf\udce9"]),
    Case("stream: prompt of train that is not UTF-8", ["train", "--prompt", "caf\udce9"]),
    Case("stream: input that is not UTF-8", ["generate", "{run}"], b"caf\xe9"),
    Case("stream: second line that is not UTF-8", ["classify", "{labels}"], b"cafe\ncaf\xe9\n"),
    Case("stream: UTF-16", ["classify", "{labels}"], "the".encode("utf-16")),
    Case("stream: no text", ["classify", "{labels}"], b"\n\n"),
    Case("stream: no JSON", ["classify", "{labels}", "--jsonl"], b"the\n"),
    Case("stream: 100,000 brackets", ["classify", "{labels}", "--jsonl"], b"[" * 100_000),
    Case("stream: half a character", ["classify", "{labels}", "--jsonl"], b'{"text": "a", "id": "\\ud83d"}\n'),
    Case("stream: JSON without text", ["classify", "{labels}", "--jsonl"], b'{"words": "a"}\n'),
    Case("stream: closed input", "$M generate {run} <&-"),
    Case("stream: closed input of classify", "$M classify {labels} <&-"),
    Case("stream: closed output", "$M generate {run} the >&-"),
    Case("stream: full output", "$M generate {run} the > /dev/full"),
    Case(
        "stream: folder that was deleted", "mkdir {folder}/x && cd {folder}/x && rmdir ../x && $M generate {run} the"
    ),
]
CASES = [*NAMES, *VALUES, *RECIPES, *DATA, *CHECKPOINTS, *STREAMS]

_NOISE = re.compile(r"^(usage:| |\[transformers\]|Generating|Loading|Continuing|.*\d+%\||.*(it|rows)/s)|Warning")


class Outcome(NamedTuple):
    """What a command wrote to standard error, and its exit code; None if an exception came through."""

    error: str
    exit_code: int | None


def run_case(case: Case, folder: Path, checkpoints: dict[str, Path]) -> Outcome:
    """Run a case in an empty folder."""
    for name, content in case.files.items():
        (folder / name).write_bytes(content)
    for name, path in checkpoints.items():
        shutil.copytree(path, folder / name)
    if case.prepare is not None:
        case.prepare(folder)
    places = {"folder": folder, **{name: folder / name for name in checkpoints}}

    def filled(word: str) -> str:
        return re.sub(r"\{(folder|run|labels)\}", lambda match: str(places[match[1]]), word)

    if isinstance(case.argv, str):
        variables = os.environ | {"M": f"{sys.executable} -m modeling_mini.cli", "PYTHONPATH": str(ROOT)}
        command = ["bash", "-c", filled(case.argv)]
        result = subprocess.run(command, env=variables, capture_output=True, timeout=300, check=False)
        return Outcome(result.stderr.decode(errors="replace"), result.returncode)
    return in_process([filled(word) for word in case.argv], case.stdin or b"")


def in_process(argv: list[str], stdin: bytes) -> Outcome:
    """Run a command in this process with these words and this standard input."""
    from modeling_mini.cli import main

    logging.getLogger().handlers.clear()  # each command logs to the standard error that it finds
    error, previous = io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8", errors="surrogateescape")
    try:
        with redirect_stderr(error), redirect_stdout(io.StringIO()):
            exit_code = main(argv)
    except SystemExit as end:
        exit_code = end.code
    finally:
        sys.stdin = previous
    return Outcome(error.getvalue(), exit_code)


def judge(outcome: Outcome) -> tuple[str, str]:
    """The first sentence of an outcome, and what is wrong with it: "" if nothing is."""
    lines = [line for line in re.split(r"[\r\n]+", outcome.error) if line.strip() and not _NOISE.search(line)]
    sentence = next((line for line in lines if "rror: " in line), (lines or [""])[0])
    if "Traceback" in outcome.error:
        return lines[-2 if len(lines) > 1 else -1], "traceback"
    if outcome.exit_code not in (1, 2):
        return sentence, f"exit code {outcome.exit_code}"
    if "rror: " not in sentence:
        return sentence, "no sentence"
    if lines[-1] is not sentence:
        return sentence, "more than one sentence"
    return sentence, ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases whose name contains this text")
    cases = [case for case in CASES if parser.parse_args().only in case.name]
    refused = 0
    with tempfile.TemporaryDirectory() as temporary:
        checkpoints = {"run": Path(temporary, "causal"), "labels": Path(temporary, "classifier")}
        for path, head in zip(checkpoints.values(), ("MiniForCausalLM", "MiniForSequenceClassification"), strict=True):
            checkpoint(path, head)
        sys.stdout.write("| input | first sentence | exit | ok |\n|---|---|---|---|\n")
        for number, case in enumerate(cases):
            folder = Path(temporary, str(number))
            folder.mkdir()
            outcome = run_case(case, folder, checkpoints)
            sentence, fault = judge(outcome)
            refused += not fault
            sentence = sentence.replace(temporary, "").replace("|", "\\|")[:160]
            sys.stdout.write(f"| {ascii(case.name)[1:-1]} | {sentence} | {outcome.exit_code} | {fault or 'yes'} |\n")
            sys.stdout.flush()
            shutil.rmtree(folder)
    sys.stdout.write(f"\n{refused} of {len(cases)} bad inputs are refused with one sentence.\n")
    return int(refused < len(cases))


if __name__ == "__main__":
    raise SystemExit(main())
