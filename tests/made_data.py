"""Small data sets with patterns that a tiny model can learn, a tokenizer for their words, and tasks to read them."""

import json
import random
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from modeling_mini.tasks import task_class
from modeling_mini.tasks.base import Task, TaskArguments
from modeling_mini.tokenization import train_tokenizer


NUMBERS = "one two three four five six seven eight nine".split()
FRENCH = dict(zip(NUMBERS, "un deux trois quatre cinq six sept huit neuf".split()))


def build(name: str, **arguments) -> Task:
    """`build("translation", block_size=64)`: a task with these `TaskArguments`."""
    return task_class(name)(TaskArguments(task=name, **arguments))


def number_tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer for the words of the data sets below."""
    return train_tokenizer([" ".join(NUMBERS), " ".join(FRENCH.values()), "axis : int or None"], vocab_size=320)


def jsonl(path: Path, rows: list[dict]) -> str:
    """Write rows as lines of JSON, and return the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def counting(count: int, seed: int = 0) -> list[dict]:
    """Translations of one to four English numbers into French."""
    draw = random.Random(seed)
    words = [[draw.choice(NUMBERS) for _ in range(draw.randint(1, 4))] for _ in range(count)]
    return [{"source": " ".join(row), "target": " ".join(FRENCH[word] for word in row)} for row in words]


def questions(count: int, seed: int = 0) -> list[dict]:
    """Which word comes after another? One question in four names a word that is not in its context."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        words = draw.sample(NUMBERS, 6)
        index = draw.randrange(5)
        if i % 4 == 3:
            missing = draw.choice([word for word in NUMBERS if word not in words])
            answers, question = {"text": [], "answer_start": []}, f"after {missing}"
        else:
            text = words[index + 1]
            start = " ".join(words[: index + 1]) + " "
            answers, question = {"text": [text], "answer_start": [len(start)]}, f"after {words[index]}"
        rows.append({"question": question, "context": " ".join(words), "answers": answers})
    return rows


def ends(count: int, seed: int = 0) -> list[dict]:
    """Which word is the last, or the last but one? One question in four has no answer."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        words = draw.choices(NUMBERS, k=6)
        question = draw.choice(["last", "last", "before", "seventh"])
        index = {"last": 5, "before": 4, "seventh": None}[question]
        answers = {"text": [], "answer_start": []}
        if index is not None:
            answers = {"text": [words[index]], "answer_start": [sum(len(word) + 1 for word in words[:index])]}
        rows.append({"question": question, "context": " ".join(words), "answers": answers})
    return rows
