"""The model card of a repository: written, completed, kept and validated."""

import pytest
from classes import MODEL_CLASSES
from hub_server import card_errors
from hub_shared import files_of
from huggingface_hub import HfApi, ModelCard

from modeling_mini.errors import UserError
from modeling_mini.hub import push as sharing
from modeling_mini.hub.model_card import REPOSITORY, write_model_card
from modeling_mini.tasks.base import TaskArguments
from modeling_mini.tasks.text_generation import TextGeneration
from modeling_mini.training.arguments import MiniTrainingArguments, ModelArguments
from modeling_mini.training.report import card_facts


@pytest.mark.slow
def test_the_example_in_the_card_of_every_class_runs(hub, checkpoint, fresh_python, no_verification):
    for model_class in MODEL_CLASSES:
        sharing.push(checkpoint(model_class), f"alice/{model_class.__name__}", license="mit", language=["en", "zh"])
    script = "from huggingface_hub import hf_hub_download\nimport re\n" + "".join(
        f"""
text = open(hf_hub_download("alice/{model_class.__name__}", "README.md")).read()
exec(re.search(r"```python\\n(.*?)```", text, re.DOTALL)[1])
print(type(model).__name__)
"""
        for model_class in MODEL_CLASSES
    )
    finished = fresh_python(script, hub=hub)
    assert finished.returncode == 0, finished.stderr
    for model_class in MODEL_CLASSES:
        assert f"\n{model_class.__name__}\n" in finished.stdout
        card = files_of(hub, f"alice/{model_class.__name__}")["README.md"].data.decode()
        assert "license: mit" in card
        assert "- zh" in card
        assert REPOSITORY not in card


def test_a_card_in_the_checkpoint_is_kept_and_completed(hub, checkpoint, no_verification, caplog):
    folder = checkpoint()
    (folder / "README.md").write_text(
        "---\nlicense: cc-by-4.0\ntags: [fable]\n---\n\n# Mine\n\n![a](plot.png) [n](notes.md) [b](../secret.png)\n"
    )
    for name in ("plot.png", "notes.md", "../secret.png"):
        (folder / name).write_bytes(b"png")
    sharing.push(folder, "alice/mini", language=["en"])
    assert "README.md links to notes.md, which is not uploaded" in caplog.text
    assert not {"notes.md", "secret.png"} & set(files_of(hub))
    card = files_of(hub)["README.md"].data.decode()
    assert "license: cc-by-4.0" in card
    assert all(f"- {tag}\n" in card for tag in ("fable", "modeling_mini", "custom_code"))
    assert "# Mine" in card
    assert 'from_pretrained("alice/mini", trust_remote_code=True)' in card
    assert "pipeline_tag: text-generation" in card
    assert files_of(hub)["plot.png"].data == b"png"


@pytest.fixture
def run_card(tmp_path):
    """`run_card(margin, **training_arguments)`: the card of a run with made-up results and local files, as text."""

    def write(margin, sample="the", dataset=None, folder=".", overrides=None, **training):
        (tmp_path / folder).mkdir(exist_ok=True)
        for name in ("shape.json", "text.txt"):
            (tmp_path / name).write_text("{}")
        results = {"validation_loss": 2.0, "validation_loss_margin": margin, "perplexity": 7.389, "bits_per_byte": 1.5}
        results |= dict.fromkeys(("parameters", "context", "vocabulary", "updates", "tokens_per_update"), 1000)
        results |= {"train_tokens": None, "train_seconds": 12.3, "hardware": "an abacus", "seed": 1, "sample": sample}
        facts = card_facts(
            TextGeneration(TaskArguments(dataset=dataset or str(tmp_path / "text.txt"))),
            results,
            {},
            ModelArguments(model=str(tmp_path / "shape.json"), config_overrides=overrides),
            MiniTrainingArguments(output_dir=str(tmp_path), use_cpu=True, **training),
        )
        write_model_card(tmp_path / folder, facts)
        return (tmp_path / folder / "README.md").read_text()

    return write


def test_the_card_of_a_run_has_intervals_and_no_local_paths(run_card, tmp_path):
    card = run_card(0.1, warmup_steps=0.25, resume=True)
    assert str(tmp_path) not in card
    assert "trained from scratch (shape: `shape.json`) with\nmodeling_mini on `text.txt`" in card
    assert "| 2.0000 (1.9000 to 2.1000) | 7.3890 (6.6859 to 8.1662) | 1.5000 (1.4250 to 1.5750) |" in card
    [entry] = ModelCard(card).data.to_dict()["model-index"]
    metrics = {metric["type"]: metric for metric in entry["results"][0]["metrics"]}
    assert metrics["bits_per_byte"]["args"]["confidence_interval_95"] == [1.425, 1.575]
    assert "warm-up over 25% of the updates" in card
    assert 'tokenizer("The", ' in card.replace("'", '"')  # without the space at the end of the prompt "The "
    assert "12 s since the last resumption on an abacus" in card
    assert card_errors(card) == []


HOSTILE = "````\n# Heading\n<script>alert(1)</script>\n````````\n---\n![x](http://evil)"


def test_no_text_breaks_the_card(run_card, tmp_path, monkeypatch):
    """The sample, the names of the data and of the folder, and the overrides."""
    name = "a `b` <i>|\n# Heading"
    names = {"dataset": f"some/{name}", "folder": name, "overrides": '{"hidden_act": "`<b>"}', "prompt": "x\n```\ny"}
    card = run_card(0.1, sample=HOSTILE, **names)
    assert f"{9 * '`'}text\n{HOSTILE}\n{9 * '`'}\n" in card
    assert "# a \\`b\\` &lt;i&gt;\\| # Heading\n" in card
    assert "on ``some/a `b` <i>| # Heading``" in card
    assert '(shape: ``shape.json with {"hidden_act": "`<b>"}``)' in card
    outside = card.replace(HOSTILE, "")
    assert not [line for line in outside.splitlines() if line.startswith(("# Heading", "<script", "```\ny"))]
    assert ModelCard(card).data.to_dict()["model-index"][0]["results"][0]["dataset"]["name"] == f"some/{name}"
    assert card_errors(card) == []


def test_a_pushed_card_has_the_name_of_the_repository(hub, checkpoint, run_card, no_verification):
    folder = checkpoint()
    (folder / "README.md").write_text(run_card(0.1, folder="a `b` <i>"))
    sharing.push(folder, "alice/mini")
    assert "\n# mini\n" in files_of(hub)["README.md"].data.decode()


def test_a_single_row_gives_no_interval(run_card):
    card = run_card(0.0)
    assert "| 2.0000 | 7.3890 | 1.5000 |" in card
    assert "confidence_interval" not in card


def test_a_card_edited_on_the_hub_is_kept(hub, checkpoint, no_verification):
    folder = checkpoint()
    sharing.push(folder, "alice/mini")
    card = b"---\nlicense: cc-by-4.0\n---\n\n# Written there\n"
    HfApi().upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="alice/mini")
    sharing.push(folder, "alice/mini", language=["en"])
    pushed = files_of(hub)["README.md"].data.decode()
    assert "license: cc-by-4.0" in pushed
    assert "# Written there" in pushed
    assert "language:\n- en" in pushed


def test_metadata_that_the_hub_rejects_are_refused(hub, checkpoint, no_verification):
    with pytest.raises(UserError, match='The Hub rejects the metadata of the card .*"license" must be one of'):
        sharing.push(checkpoint(), "alice/mini", license="my own")
    with pytest.raises(UserError, match="--language english is not an ISO 639 code"):
        sharing.push(checkpoint(), "alice/mini", language=["en", "english"], dry_run=True)
    assert hub.repositories == {}


def test_a_card_with_invalid_yaml_is_refused(checkpoint):
    folder = checkpoint()
    (folder / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(UserError, match=r"The metadata in .*README.md are not valid"):
        sharing.push(folder, "alice/mini", dry_run=True)
