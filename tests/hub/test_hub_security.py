"""Verification of an upload, code of others, tokens, and private repositories."""

import ast
import contextlib
import itertools
import json
import logging

import pytest
from hub_shared import CODE, ENDPOINTS, damage_config, files_of
from huggingface_hub import HfApi

from modeling_mini import MiniConfig, MiniForCausalLM, cli
from modeling_mini.errors import UserError
from modeling_mini.hub import fresh_process
from modeling_mini.hub import push as sharing
from modeling_mini.training.arguments import MiniTrainingArguments
from modeling_mini.training.sharing import push_apart


@pytest.mark.slow
def test_verification_reports_other_outputs_and_missing_code(hub, checkpoint):
    folder = checkpoint()
    expected = sharing.outputs_of(folder, MiniConfig.from_pretrained(folder))
    sharing.verify(folder, expected)
    model = MiniForCausalLM.from_pretrained(folder)
    model.model.layers[0].mlp.up_proj.bias.data[0] += 1e-3
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="checkpoint opens, but AutoModel, .*AutoModelForCausalLM.* differ"):
        sharing.verify(folder, expected)
    (folder / "configuration_mini.py").unlink()
    with pytest.raises(UserError, match="checkpoint does not open without modeling_mini: .*configuration_mini.py"):
        sharing.verify(folder, expected)


@pytest.mark.slow
def test_no_code_of_a_repository_runs_without_consent(hub, checkpoint, tmp_path, fresh_python, no_verification):
    sharing.push(checkpoint(), "alice/mini")
    trap = f"\nopen({str(tmp_path / 'executed')!r}, 'w').close()\n"
    for name in CODE:
        blob = files_of(hub)[name]
        HfApi().upload_file(path_or_fileobj=blob.data + trap.encode(), path_in_repo=name, repo_id="alice/mini")
    script = """
import transformers

transformers.AutoTokenizer.from_pretrained("alice/mini")  # has no code of its own
for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM"):
    try:
        getattr(transformers, name).from_pretrained("alice/mini")
        print("LOADED", name)
    except ValueError as error:
        print("REFUSED", name, error)
"""
    output = fresh_python(script, hub=hub).stdout
    assert "LOADED" not in output
    refusals = output.split("REFUSED")[1:]
    assert len(refusals) == 3
    assert all("trust_remote_code=True" in refusal for refusal in refusals)
    assert not (tmp_path / "executed").exists()
    # If the package is installed, its code is run instead.
    script = "import modeling_mini\nfrom transformers import AutoModel\nAutoModel.from_pretrained('alice/mini')"
    assert fresh_python(script, hub=hub, installed=True).returncode == 0
    assert not (tmp_path / "executed").exists()
    consented = fresh_python(
        "import transformers as t\nt.AutoModel.from_pretrained('alice/mini', trust_remote_code=True)", hub=hub
    )
    assert consented.returncode == 0, consented.stderr
    assert (tmp_path / "executed").exists(), "the trap does not work"


def test_a_token_is_never_printed_logged_or_pushed(
    hub, checkpoint, tmp_path, capsys, caplog, monkeypatch, no_verification
):
    """With and without failures, at every log level, and in every file of every commit."""
    folder = checkpoint()
    for name in ("huggingface_hub", "transformers", "httpx", "httpx2", "modeling_mini"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        monkeypatch.setattr(logging.getLogger(name), "level", logging.DEBUG)
    for name in ("httpcore", "httpcore2"):  # it logs all headers of an answer, and the stand-in puts the token there
        monkeypatch.setattr(logging.getLogger(name), "level", logging.INFO)
    monkeypatch.setattr(sharing, "_quiet", contextlib.nullcontext)
    with caplog.at_level(logging.DEBUG):
        assert cli.main(["push", str(folder), "alice/mini"]) == 0
        for fault in itertools.product(["error", "drop"], ENDPOINTS.values()):
            hub.fail(*fault[1], fault[0], times=9)
            cli.main(["push", str(checkpoint(name="new", lm_head_bias=True)), "alice/mini"])
            hub.faults.clear()
    printed = capsys.readouterr()
    assert "Error" in printed.err
    assert "hf_alice" not in printed.out + printed.err + caplog.text
    for commit in hub.repository("alice/mini").history():
        assert not [path for path, blob in commit.files.items() if b"hf_alice" in blob.data]


def test_exported_code_imports_only_torch_transformers_and_huggingface_hub():
    """huggingface_hub, on which transformers depends, provides `strict`. Harmful parts of Python are not used."""
    allowed = {"torch", "transformers", "huggingface_hub"}
    allowed |= {
        "collections",
        "copy",
        "difflib",
        "functools",
        "inspect",
        "math",
        "numbers",
        "os",
        "pathlib",
        "re",
        "typing",
    }
    assert {path.name for path in sharing.CODE_FILES} == CODE, "a repository carries exactly these code files"
    for path in sharing.CODE_FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, ast.unparse(node)
            elif isinstance(node, ast.ImportFrom):
                is_ours = node.level == 1 and f"{node.module}.py" in CODE
                assert is_ours or (node.level == 0 and node.module.split(".")[0] in allowed), ast.unparse(node)
        nodes = list(ast.walk(ast.parse(path.read_text())))
        names = {node.id for node in nodes if isinstance(node, ast.Name)}
        assert not names & {"eval", "exec", "open", "compile", "__import__", "input", "globals", "setattr", "delattr"}
        os_attributes = {
            node.attr for node in nodes if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os"
        }
        assert os_attributes <= {"PathLike"}
        assert not [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module in ("os", "pathlib.os")]
        attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
        assert not attributes & {"read_text", "read_bytes", "write_text", "write_bytes", "unlink", "rename", "rmdir"}


def test_verification_runs_no_code_of_others(hub, checkpoint, tmp_path, caplog):
    """Someone else has added code to the repository, at paths from which transformers would run it."""
    trap = f"import os\nopen({str(tmp_path / 'executed')!r}, 'w').write(str(dict(os.environ)))\n"
    tokenizer = {"auto_map": {"AutoTokenizer": ["evil.Tok", "evil.Tok"]}}
    HfApi().create_repo("alice/mini")
    for path, text in {
        "custom_generate/generate.py": trap + "def generate(*args, **kwargs): pass\n",
        "evil.py": trap,
        "tokenizer_config.json": json.dumps(tokenizer),
    }.items():
        HfApi().upload_file(path_or_fileobj=text.encode(), path_in_repo=path, repo_id="alice/mini")
    folder = checkpoint()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    sharing.push(folder, "alice/mini")
    assert not (tmp_path / "executed").exists()
    assert "also contains code that was not checked: ['custom_generate/generate.py', 'evil.py']" in caplog.text


def test_the_verifying_process_has_neither_token_nor_network(checkpoint, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.setenv(name, "hf_alice")
    environment = {}
    monkeypatch.setattr("subprocess.run", lambda *args, env, **kwargs: environment.update(env))
    with pytest.raises(UserError, match="the process ended early"):
        sharing.verify(checkpoint(), {})
    assert "hf_alice" not in environment.values()
    assert environment["HF_HUB_OFFLINE"] == "1"


def test_code_in_a_checkpoint_is_never_run(checkpoint, tmp_path, monkeypatch):
    folder = checkpoint()
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w').close()\n")
    monkeypatch.setattr("builtins.input", lambda *args: "y")
    (folder / "tokenizer.json").unlink()
    tokenizer = {"auto_map": {"AutoTokenizer": ["evil.Tok", "evil.Tok"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"contains no tokenizer.json"):
        sharing.push(folder, "alice/mini", dry_run=True)
    assert cli.main(["generate", str(folder), "the"]) == 1
    damage_config(folder, model_type="other", auto_map={"AutoConfig": "evil.Config"})
    with pytest.raises(UserError, match="contains an? other model; this command is for modeling_mini models only"):
        sharing.push(folder, "alice/mini", dry_run=True)
    assert not (tmp_path / "executed").exists()


def test_a_repository_made_public_in_between_gets_nothing(hub, checkpoint, monkeypatch):
    HfApi().create_repo("alice/mini", private=True)

    def publish(*args):
        hub.repository("alice/mini").private = False

    folder = checkpoint()
    monkeypatch.setattr(sharing, "verify", publish)
    with pytest.raises(UserError, match="alice/mini exists and is public, but a private repository was requested"):
        sharing.push(folder, "alice/mini", private=True)
    assert set(files_of(hub)) == {".gitattributes"}


@pytest.mark.parametrize(
    "name", ["README.md", "chat_template.jinja", "config.json", "metrics.json", "vocab.json", "any.txt", "loss.png"]
)
def test_nothing_outside_the_folder_is_read_through_a_link(hub, checkpoint, tmp_path, name):
    folder, secret = checkpoint(), tmp_path / "secret"
    secret.write_bytes((folder / name).read_bytes() if (folder / name).exists() else b"{}")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(secret)
    with pytest.raises(UserError, match=f"{name} in .* is a link that leads out of the folder; copy .*cp -rL"):
        sharing.push(folder, "alice/mini", dry_run=True)


def test_a_folder_of_templates_that_is_a_link_is_refused(hub, checkpoint, tmp_path):
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "tool.jinja").write_text("secret")
    folder = checkpoint()
    (folder / "additional_chat_templates").symlink_to(tmp_path / "templates")
    with pytest.raises(UserError, match="additional_chat_templates in .* is a link"):
        sharing.push(folder, "alice/mini", dry_run=True)


@pytest.mark.parametrize("what", ["template", "expression"])
def test_a_tokenizer_that_never_finishes_ends_the_push(hub, checkpoint, monkeypatch, what):
    limit = fresh_process.within_limit
    monkeypatch.setattr(fresh_process, "within_limit", lambda compute: limit(compute, seconds=0.5))
    folder = checkpoint()
    if what == "template":
        loop = "{% for i in range(1000) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"  # some seconds
        (folder / "chat_template.jinja").write_text(loop)
    else:
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        expression = {"Regex": r"(?:(?:\w+\W*)*)*\d\d\d\d\z"}
        split = {"type": "Split", "pattern": expression, "behavior": "Isolated", "invert": False}
        tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, tokenizer["pre_tokenizer"]]}
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    monkeypatch.setattr(sharing, "verify", lambda *args: None)
    with pytest.raises(UserError, match="the tokenizer or its chat template did not finish a sentence in 0.5 seconds"):
        sharing.push(folder, "alice/mini")
    assert "alice/mini" not in hub.repositories


def test_a_result_and_an_error_arrive_within_the_limit():
    assert fresh_process.within_limit(lambda: 5) == 5
    with pytest.raises(ZeroDivisionError):
        fresh_process.within_limit(lambda: 1 / 0)


def test_a_push_saves_no_reference_to_code_of_others(hub, checkpoint, no_verification):
    folder = checkpoint()
    damage_config(folder, auto_map={"AutoModel": "other/repo--evil.Model"}, custom_pipelines={"x": {"impl": "evil.X"}})
    sharing.push(folder, "alice/mini")
    assert json.loads(files_of(hub)["config.json"].data)["auto_map"] == MiniConfig().auto_map
    assert not [name for name, blob in files_of(hub).items() if b"evil" in blob.data]


def test_a_push_in_a_process_of_its_own_imports_nothing_of_the_current_folder(tmp_path, monkeypatch, capfd):
    for name in ("json", "argparse", "modeling_mini"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="could not be pushed"):
        push_apart(MiniTrainingArguments(output_dir="nothing"), ["push", "nothing", "alice/mini"])
    assert "nothing" in capfd.readouterr().err  # the sentence of `push`
    assert not (tmp_path / "ran").exists()
