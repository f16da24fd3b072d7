"""Checkpoints load equal in this process and in a fresh one, with the package and, as remote code, without it."""

import json

import pytest
import torch
import transformers
from classes import AUTO_CLASS_OF, MODEL_CLASSES
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from modeling_mini import (
    MiniForCausalLM,
    MiniForMaskedLM,
    MiniForQuestionAnswering,
    MiniForSequenceClassification,
    MiniForTokenClassification,
    MiniModel,
)


AUTO_NAMES = {model_class.__name__: auto_class.__name__ for model_class, auto_class in AUTO_CLASS_OF.items()}
CODE = ["configuration_mini.py", "loss_mini.py", "masking_mini.py", "modeling_mini.py"]
each_class = pytest.mark.parametrize("model_class", MODEL_CLASSES, ids=lambda cls: cls.__name__)
language_models = pytest.mark.parametrize("model_class", [MiniForCausalLM, MiniForMaskedLM])

SPECIAL_TOKENS = {f"{name}_token": f"<{name}>" for name in ("pad", "bos", "eos", "unk", "mask")}
WORDS = ["the", "cat", "dog", "sees", "a", "small", "old", "house", "and", "sleeps", "near", "big", "tree", "rain"]
SENTENCE = "the old cat sees a small tree"


def word_tokenizer():
    """One token per word. Special tokens come first, so pad, bos and eos are 0, 1 and 2 as in MiniConfig."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL_TOKENS.values(), *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_input_names=names, **SPECIAL_TOKENS)


def primary_output(outputs):
    """The logits, or the hidden states of the bare trunk."""
    return outputs.start_logits if "start_logits" in outputs else outputs[0]


def trunk_of(model):
    return model.base_model.state_dict()


# In this process


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("shard_size", ["1GB", "20KB"], ids=["whole", "sharded"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@each_class
@torch.no_grad()
def test_a_loaded_model_computes_the_same_and_saves_the_same_bytes(
    tiny_model, random_ids, tmp_path, model_class, dtype, shard_size
):
    model, ids = tiny_model(model_class, id2label={0: "good", 1: "bad"}), random_ids(2, 9)
    if model.can_generate():
        model.generation_config = GenerationConfig(temperature=0.7, do_sample=True, eos_token_id=[2, 3])
    model.save_pretrained(tmp_path / "float32")
    model = model_class.from_pretrained(tmp_path / "float32", dtype=dtype)
    model.save_pretrained(tmp_path / "first", max_shard_size=shard_size)
    loaded, report = model_class.from_pretrained(tmp_path / "first", output_loading_info=True)
    assert not any(report.values()), report
    assert loaded.dtype == dtype
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert torch.equal(primary_output(loaded(ids)), primary_output(model(ids)))

    loaded.save_pretrained(tmp_path / "second", max_shard_size=shard_size)
    saved = content(tmp_path / "first")
    assert content(tmp_path / "second") == saved
    weights = [name for name in saved if name.endswith(".safetensors")]
    expected = {"config.json", *CODE, *weights}
    expected |= {"model.safetensors.index.json"} if shard_size == "20KB" else set()
    expected |= {"generation_config.json"} if model.can_generate() else set()
    assert saved.keys() == expected
    assert len(weights) > 1 if shard_size == "20KB" else weights == ["model.safetensors"]
    if dtype == torch.float32 and shard_size == "1GB":
        assert saved == content(tmp_path / "float32")


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("target_class", MODEL_CLASSES, ids=lambda cls: f"into {cls.__name__}")
@each_class
def test_a_checkpoint_of_one_head_passes_all_shared_weights_to_another(
    tiny_model, tmp_path, model_class, target_class, tied
):
    model = tiny_model(model_class, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    loaded, report = target_class.from_pretrained(tmp_path, output_loading_info=True)
    torch.testing.assert_close(trunk_of(loaded), trunk_of(model), rtol=0, atol=0)
    assert not [name for name in report["missing_keys"] if "layers" in name or "embed" in name or "norm" in name]
    assert not report["mismatched_keys"]
    if hasattr(model, "lm_head") and hasattr(loaded, "lm_head"):
        assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
        assert not report["missing_keys"]


@language_models
@pytest.mark.parametrize("tied", [True, False])
def test_a_file_holds_the_head_only_if_it_is_not_tied(tiny_model, tmp_path, model_class, tied):
    model = tiny_model(model_class, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert ("lm_head.weight" in saved) is not tied
    assert "model.embed_tokens.weight" in saved
    loaded = model_class.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) is tied
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("mean_resizing", [False, True], ids=["random rows", "rows near the mean"])
@pytest.mark.parametrize(
    ("size", "multiple", "resized"), [(120, None, 120), (97, 64, 128), (None, 64, 128), (64, None, 64)]
)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@language_models
@torch.no_grad()
def test_a_resized_model_keeps_the_logits_of_old_tokens_and_loads_equal(
    tiny_model, random_ids, tmp_path, model_class, tied, size, multiple, resized, mean_resizing
):
    model = tiny_model(model_class, tie_word_embeddings=tied, lm_head_bias=True)
    ids = random_ids(2, 9, vocab_size=64)
    before = model(ids).logits
    model.resize_token_embeddings(size, pad_to_multiple_of=multiple, mean_resizing=mean_resizing)
    after = model(ids, labels=ids)
    assert model.config.vocab_size == after.logits.shape[-1] == resized
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    old_tokens = min(resized, 97)
    torch.testing.assert_close(after.logits[..., :old_tokens], before[..., :old_tokens], rtol=0, atol=1e-5)

    model.save_pretrained(tmp_path)
    loaded, report = model_class.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    outputs = loaded(ids, labels=ids)
    assert torch.equal(outputs.logits, after.logits)
    assert torch.equal(outputs.loss, after.loss)
    # The loaded head is a MiniLMHead, even if the resize had replaced it.
    torch.testing.assert_close(loaded.train()(ids, labels=ids).loss, after.loss, rtol=1e-5, atol=0)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@torch.no_grad()
def test_a_model_with_new_tokens_that_it_never_predicts_generates_the_same(tiny_model, random_ids, tied):
    model = tiny_model(MiniForCausalLM, tie_word_embeddings=tied, lm_head_bias=True, eos_token_id=None)
    ids = random_ids(2, 9)
    settings = {"generation_config": GenerationConfig(max_new_tokens=20), "attention_mask": torch.ones_like(ids)}
    before = model.generate(ids, **settings)
    model.resize_token_embeddings(128, mean_resizing=False)
    model.lm_head.bias[97:] = -100
    assert torch.equal(model.generate(ids, **settings), before)
    model.lm_head.bias[100] = 100
    assert (model.generate(ids, **settings)[:, 9:] == 100).all()


@torch.no_grad()
def test_question_answering_head_saves_start_and_end_weights(tiny_model, random_ids, tmp_path):
    model, ids = tiny_model(MiniForQuestionAnswering), random_ids(2, 9)
    model.save_pretrained(tmp_path)
    loaded = MiniForQuestionAnswering.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).end_logits, model(ids).end_logits)
    assert not torch.equal(model(ids).end_logits, model(ids).start_logits)


# In a fresh process

FRESH = """
import json
import sys
from pathlib import Path

root, mode = Path(sys.argv[1]), sys.argv[2]

if mode == "installed":
    import modeling_mini

import torch
import transformers

torch.set_num_threads(1)
trust = {"trust_remote_code": True} if mode == "remote" else {}
results = {}
"""

LOAD = (
    FRESH
    + """
ids = torch.load(root / "ids.pt")


def open_and_compare(auto_name, directory, expected):
    model = getattr(transformers, auto_name).from_pretrained(directory, **trust).eval()
    outputs = model(ids)
    primary = outputs.start_logits if "start_logits" in outputs else outputs[0]
    kind = {"class": type(model).__name__, "module": type(model).__module__}
    return model, kind | {"equal": torch.equal(primary, expected)}


for name, auto_name in json.loads((root / "names.json").read_text()).items():
    expected = torch.load(root / name / "expected.pt")
    model, first = open_and_compare(auto_name, root / name, expected)
    again = root / f"{mode}-again" / name
    model.save_pretrained(again)
    results[name] = {"first": first, "again": open_and_compare(auto_name, again, expected)[1]}
    results[name]["files"] = sorted(path.name for path in again.iterdir())

    # The checkpoint of the causal language model opens as every class.
    model = getattr(transformers, auto_name).from_pretrained(root / "MiniForCausalLM", **trust)
    trunk = model.base_model.state_dict()
    saved = torch.load(root / "trunk.pt")
    results[name]["from_causal"] = {
        "class": type(model).__name__,
        "equal": trunk.keys() == saved.keys() and all(torch.equal(trunk[key], saved[key]) for key in saved),
    }
print("RESULTS", json.dumps(results))
"""
)

UNTRUSTED = (
    FRESH
    + """
for auto_name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM"):
    try:
        getattr(transformers, auto_name).from_pretrained(root)
        results[auto_name] = "loaded"
    except Exception as error:
        results[auto_name] = str(error)
results["executed"] = (root / "executed").exists()
# The sentinel works: with consent, the same code runs.
transformers.AutoModel.from_pretrained(root, trust_remote_code=True)
results["executed with consent"] = (root / "executed").exists()
print("RESULTS", json.dumps(results))
"""
)

PIPELINES = (
    FRESH
    + """
sentence = (root / "sentence.txt").read_text()


def run(task, name, text, **kwargs):
    return transformers.pipeline(task, model=str(root / name), device="cpu", **trust)(text, **kwargs)


settings = {"max_new_tokens": 6, "do_sample": False, "return_full_text": False}
[generated] = run("text-generation", "MiniForCausalLM", sentence, **settings)
filled = run("fill-mask", "MiniForMaskedLM", sentence.replace("cat", "<mask>"), top_k=3)
labels = run("text-classification", "MiniForSequenceClassification", [sentence, "the dog"], top_k=None, batch_size=2)
tokens = run("token-classification", "MiniForTokenClassification", sentence)
results = {
    "text-generation": generated["generated_text"],
    "fill-mask": [[row["token"], row["score"]] for row in filled],
    "text-classification": [{row["label"]: row["score"] for row in rows} for rows in labels],
    "token-classification": [[row["word"], row["entity"], float(row["score"])] for row in tokens],
}
print("RESULTS", json.dumps(results))
"""
)


@pytest.fixture(scope="session")
def run_fresh(run_python):
    """`run_fresh(script, root, mode, cache)`: the results of a script that starts with an empty cache."""

    def run(script, root, mode, cache):
        cache.mkdir()  # fails if it exists
        result = run_python(script, root, mode, cache=cache, token=None, installed=mode == "installed")
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout.split("RESULTS ")[-1])

    return run


@pytest.fixture(scope="module")
def worded_model(tiny_model):
    """`worded_model(model_class)`: a model whose vocabulary is that of `word_tokenizer`."""

    def build(model_class):
        model = tiny_model(
            model_class,
            vocab_size=len(word_tokenizer()),
            num_labels=3 if "Classification" in model_class.__name__ else 2,
            lm_head_bias=True,
            # One tied and one untied head; the untied one generates more varied texts.
            tie_word_embeddings=model_class is not MiniForCausalLM,
        )
        if hasattr(model, "lm_head"):
            model.lm_head.bias.data[: len(SPECIAL_TOKENS)] = -100  # predict words only, so that no text ends early
        return model

    return build


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, worded_model):
    """A directory with a checkpoint and a tokenizer for each head, inputs, and the expected output of each model."""
    root = tmp_path_factory.mktemp("checkpoints")
    torch.set_num_threads(1)
    ids = torch.randint(5, len(word_tokenizer()), (2, 9), generator=torch.Generator().manual_seed(0))
    torch.save(ids, root / "ids.pt")
    (root / "names.json").write_text(json.dumps(AUTO_NAMES))
    (root / "sentence.txt").write_text(SENTENCE)
    for model_class in MODEL_CLASSES:
        model = worded_model(model_class)
        model.save_pretrained(root / model_class.__name__)
        word_tokenizer().save_pretrained(root / model_class.__name__)
        with torch.no_grad():
            torch.save(primary_output(model(ids)), root / model_class.__name__ / "expected.pt")
        if model_class is MiniForCausalLM:
            torch.save(trunk_of(model), root / "trunk.pt")
    return root


@pytest.fixture(scope="module", params=["installed", "remote"])
def mode(request):
    return request.param


@pytest.fixture(scope="module")
def loaded(run_fresh, checkpoints, mode):
    return run_fresh(LOAD, checkpoints, mode, checkpoints / f"{mode}-load")


@pytest.fixture(scope="module")
def piped(run_fresh, checkpoints, mode):
    return run_fresh(PIPELINES, checkpoints, mode, checkpoints / f"{mode}-pipelines")


@pytest.mark.slow
@pytest.mark.versions
@each_class
def test_fresh_process_loads_bit_equal(loaded, mode, model_class):
    first = loaded[model_class.__name__]["first"]
    assert first["class"] == model_class.__name__
    assert first["module"].startswith("modeling_mini." if mode == "installed" else "transformers_modules.")
    assert first["equal"]


@pytest.mark.slow
@pytest.mark.versions
@each_class
def test_checkpoint_saved_again_by_the_fresh_process_loads_bit_equal(loaded, mode, model_class):
    again = loaded[model_class.__name__]["again"]
    assert again["class"] == model_class.__name__
    assert again["module"].startswith("modeling_mini." if mode == "installed" else "transformers_modules.")
    assert again["equal"]
    assert {*CODE, "config.json", "model.safetensors"} <= set(loaded[model_class.__name__]["files"])


@pytest.mark.slow
@pytest.mark.versions
@each_class
def test_causal_checkpoint_opens_as_each_class_in_a_fresh_process(loaded, model_class):
    assert loaded[model_class.__name__]["from_causal"] == {"class": model_class.__name__, "equal": True}


@pytest.mark.slow
@pytest.mark.versions
def test_remote_code_runs_only_with_consent(run_fresh, worded_model, tmp_path):
    worded_model(MiniModel).save_pretrained(tmp_path / "model")
    for name in CODE:
        path = tmp_path / "model" / name
        path.write_text(path.read_text() + f"\n\nopen({str(tmp_path / 'model' / 'executed')!r}, 'w').close()\n")
    results = run_fresh(UNTRUSTED, tmp_path / "model", "untrusted", tmp_path / "cache")
    for auto_name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM"):
        assert "trust_remote_code=True" in results[auto_name]
    assert results["executed"] is False
    assert results["executed with consent"] is True


@pytest.mark.slow
@pytest.mark.versions
@torch.no_grad()
def test_text_generation_pipeline_equals_greedy_generate(piped, checkpoints):
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoints / "MiniForCausalLM")
    model = MiniForCausalLM.from_pretrained(checkpoints / "MiniForCausalLM")
    inputs = tokenizer(SENTENCE, return_tensors="pt")
    generated = model.generate(**inputs, generation_config=GenerationConfig(max_new_tokens=6))
    continuation = tokenizer.decode(generated[0, inputs.input_ids.shape[1] :], skip_special_tokens=True)
    assert piped["text-generation"] == continuation
    assert len(set(continuation.split())) > 2


@pytest.mark.slow
@pytest.mark.versions
@torch.no_grad()
def test_fill_mask_pipeline_equals_the_most_probable_tokens(piped, checkpoints):
    tokenizer = word_tokenizer()
    model = MiniForMaskedLM.from_pretrained(checkpoints / "MiniForMaskedLM")
    ids = tokenizer(SENTENCE.replace("cat", "<mask>"), return_tensors="pt").input_ids
    assert ids[0, 2] == tokenizer.mask_token_id
    values, tokens = model(ids).logits[0, 2].softmax(-1).topk(3)
    assert [token for token, _ in piped["fill-mask"]] == tokens.tolist()
    assert [score for _, score in piped["fill-mask"]] == pytest.approx(values.tolist(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.versions
@torch.no_grad()
def test_text_classification_pipeline_equals_each_text_alone(piped, checkpoints):
    model = MiniForSequenceClassification.from_pretrained(checkpoints / "MiniForSequenceClassification")
    for text, scores in zip([SENTENCE, "the dog"], piped["text-classification"], strict=True):
        values = model(**word_tokenizer()(text, return_tensors="pt")).logits[0].softmax(-1)
        assert scores == pytest.approx({f"LABEL_{i}": value.item() for i, value in enumerate(values)}, rel=1e-4)


@pytest.mark.slow
@pytest.mark.versions
@torch.no_grad()
def test_token_classification_pipeline_equals_the_most_probable_label_of_each_word(piped, checkpoints):
    model = MiniForTokenClassification.from_pretrained(checkpoints / "MiniForTokenClassification")
    values, labels = model(**word_tokenizer()(SENTENCE, return_tensors="pt")).logits[0].softmax(-1).max(-1)
    assert [word for word, *_ in piped["token-classification"]] == SENTENCE.split()
    assert [label for _, label, _ in piped["token-classification"]] == [f"LABEL_{i}" for i in labels.tolist()]
    assert [score for *_, score in piped["token-classification"]] == pytest.approx(values.tolist(), rel=1e-4)
