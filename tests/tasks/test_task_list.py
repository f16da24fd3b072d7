"""The list of tasks: each has a file and a recipe, and the baselines predict what their names say."""

import shlex

import pytest
from datasets import Dataset
from made_data import NUMBERS, build, counting

from modeling_mini.cli import _PREDICTIONS, _parse
from modeling_mini.data.builtin import BUILTIN
from modeling_mini.errors import UserError
from modeling_mini.tasks import TASKS, choose_dataset, task_class
from modeling_mini.tasks.base import TaskArguments
from modeling_mini.tasks.question_answering import closest_sentence, rest_of_line
from modeling_mini.training.arguments import parse_arguments
from modeling_mini.training.recipes import recipe_names


pytestmark = pytest.mark.usefixtures("datasets_cache")


def test_every_task_has_a_file_and_a_recipe():
    recipes = {parse_arguments([name])[1].task for name in recipe_names()}
    assert recipes == set(TASKS)
    assert {task_class(name).default_dataset for name in TASKS} <= {*BUILTIN, None}
    assert [task_class(name).name for name in TASKS] == list(TASKS)
    assert len({task_class(name) for name in TASKS}) == len(TASKS)


def test_an_unknown_task_is_refused_with_the_names_of_all():
    with pytest.raises(
        UserError, match=r"There is no task 'nope' in this version of modeling_mini; it has fill-mask, "
    ):
        task_class("nope")


def test_a_task_without_built_in_data_needs_a_data_set(monkeypatch):
    monkeypatch.setattr(task_class("translation"), "default_dataset", None)
    with pytest.raises(UserError, match="translation has no built-in data; name a data set with --dataset"):
        choose_dataset(TaskArguments(task="translation"))


def test_baselines_predict_what_their_names_say():
    predictions = dict(build("translation").baselines(Dataset.from_list(counting(3)), None))
    assert predictions == {"copy the source": [pair["source"] for pair in counting(3)]}
    texts = [{"text": f"{word} item", "label": "a" if i < 5 else "b"} for i, word in enumerate(NUMBERS)] * 4
    rows = Dataset.from_list(texts)
    predictions = dict(build("text-classification").baselines(rows, rows))
    assert predictions["most frequent label"] == ["a"] * len(rows)
    assert predictions["bag of words + logistic regression"] == rows["label"][:]
    pairs = [(word, "no", "the rest") for word in NUMBERS] + [(word, "yes", f"the {word}") for word in NUMBERS]
    pairs = Dataset.from_list([{"text": f"{w} item", "text_pair": pair, "label": label} for w, label, pair in pairs])
    predictions = dict(build("text-classification").baselines(pairs, pairs))
    assert predictions["share of common words + logistic regression"] == pairs["label"][:]
    chinese = Dataset.from_list([{"text": t, "label": t[0]} for t in ("打开文件", "打开窗口", "关闭文件", "关闭窗口")])
    predictions = dict(build("text-classification").baselines(chinese, chinese))
    assert predictions["bag of words + logistic regression"] == chinese["label"][:]
    assert rest_of_line("What type is `axis`?", "sum of it\naxis : int or None\n  what") == "int or None"


@pytest.mark.parametrize("name", TASKS)
def test_a_task_says_whether_its_baselines_need_training(name):
    columns = {"text": "a b", "source": "a b", "target": "c", "document": "a b", "summary": "c"}
    columns |= {"question": "is it a?", "context": "it is a", "answers.text": ["a"]}
    rows = Dataset.from_list([{**columns, "label": label} for label in "ab"])
    task = build(name)
    trained, untrained = ([name for name, _ in task.baselines(rows, train)] for train in (rows, None))
    assert (trained != untrained) == task.trains_baselines


@pytest.mark.parametrize(
    ("question", "context", "sentence"),
    [
        (
            "Where was the Queen born?",
            "A king ruled. The queen was\nborn in Bonn. She was old.",
            "The queen was born in Bonn.",
        ),
        ("谁写了这本书？", "他是国王。她写了一本书！", "她写了一本书！"),
        ("谁？", "他走了。\u3000谁写了？", "谁写了？"),
        ("Who?", "No word. Of it.", ""),
        ("Who?", "", ""),
    ],
)
def test_the_closest_sentence_shares_most_words_with_the_question(question, context, sentence):
    assert closest_sentence(question, context) == sentence


@pytest.mark.parametrize("name", sorted(set(TASKS) - {"fill-mask"}))
def test_the_usage_of_a_task_is_a_command_for_it(name):
    usage = task_class(name).usage.format(folder="'my run'", prompt="'The '")
    args = _parse(shlex.split(usage.partition(" <")[0]))
    assert args.checkpoint == "my run"
    assert args.command == "generate" or name in _PREDICTIONS[args.command][0]
