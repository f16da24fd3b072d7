"""GGUF files: their metadata, tokenizer and tensors, and what cannot be exported. No llama.cpp is needed."""

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from modeling_mini import MiniForCausalLM, MiniForMaskedLM, MiniForSequenceClassification
from modeling_mini.cli import main
from modeling_mini.errors import UserError
from modeling_mini.tokenization import SPECIAL_TOKENS, train_tokenizer


gguf = pytest.importorskip("gguf", reason="modeling_mini[gguf] is not installed")

from modeling_mini.export import gguf as gguf_export  # noqa: E402, imports the package


UNTIED = {"tie_word_embeddings": False, "layer_norm_eps": 1e-3, "hidden_act": "gelu_new"}


@pytest.fixture
def export(tmp_path):
    """`export(folder, "f32")`: the file that is written for a checkpoint."""

    def run(folder, outtype="f32"):
        output = tmp_path / "gguf"
        output.mkdir(exist_ok=True)
        return gguf_export.export(folder, output, Namespace(checkpoint=str(folder), outtype=outtype))

    return run


def fields(file):
    return {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}


def types(file):
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}


def test_metadata_describe_the_model_and_its_tokenizer(checkpoint, export):
    folder = checkpoint(**UNTIED)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    found = fields(export(folder, "f16"))
    expected = {
        "general.architecture": "gpt2",
        "general.name": "checkpoint",
        "general.file_type": gguf.LlamaFileType.MOSTLY_F16,
        "gpt2.block_count": 2,
        "gpt2.context_length": 256,  # of 64: llama.cpp's cache has a multiple of 256
        "gpt2.embedding_length": 32,
        "gpt2.feed_forward_length": 48,
        "gpt2.attention.head_count": 4,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokenizer.convert_ids_to_tokens(range(len(tokenizer))),
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.mask_token_id": 4,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }
    assert {name: found[name] for name in expected} == expected
    assert found["gpt2.attention.layer_norm_epsilon"] == pytest.approx(1e-3)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    assert [merge.split() for merge in found["tokenizer.ggml.merges"]] == merges
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    assert found["tokenizer.ggml.token_type"] == [control] * 5 + [normal] * (len(tokenizer) - 5)


def test_rows_of_the_embedding_without_a_token_are_marked_as_unused(checkpoint, export, tiny_model):
    folder = checkpoint()
    tokens = len(PreTrainedTokenizerFast.from_pretrained(folder))
    tiny_model(MiniForCausalLM, vocab_size=tokens + 2, max_position_embeddings=300).save_pretrained(folder)
    found = fields(export(folder))
    assert found["tokenizer.ggml.tokens"][tokens:] == [f"[PAD{tokens}]", f"[PAD{tokens + 1}]"]
    assert found["tokenizer.ggml.token_type"][tokens:] == [int(gguf.TokenType.UNUSED)] * 2
    assert found["gpt2.context_length"] == 512


@pytest.mark.parametrize("overrides", [{}, UNTIED], ids=["tied", "untied"])
def test_transformers_reads_the_file_as_a_gpt2_with_the_same_outputs(checkpoint, export, tiny_model, overrides):
    file = export(checkpoint(**overrides))
    reader = gguf.GGUFReader(file)
    vocab_size = fields(file)["tokenizer.ggml.tokens"]
    model = tiny_model(MiniForCausalLM, vocab_size=len(vocab_size), max_position_embeddings=64, **overrides)
    gpt2 = gguf_export.as_gpt2(file, model.config)
    for block in gpt2.transformer.h:
        block.mlp.act = model.model.layers[0].mlp.act_fn
    ids = torch.randint(5, len(vocab_size), (2, 64))
    torch.testing.assert_close(gpt2(ids).logits, model(ids).logits, rtol=0, atol=2e-4)
    assert ("output.weight" in {tensor.name for tensor in reader.tensors}) == bool(overrides)


def test_types_of_tensors_are_those_of_llama_cpps_converter(checkpoint, export):
    folder = checkpoint(**UNTIED)
    by_type = {outtype: types(export(folder, outtype)) for outtype in gguf_export.TOLERANCES}
    assert set(by_type["f32"].values()) == {"F32"}
    for name, kind in by_type["f16"].items():
        is_small = name == "position_embd.weight" or "norm" in name or name.endswith(".bias")
        assert kind == ("F32" if is_small else "F16"), name
        # Rows of 48 numbers are not blocks of 32.
        expected = "F32" if is_small else "F16" if "ffn_down" in name else "Q8_0"
        assert by_type["q8_0"][name] == expected, name
        is_table = name in ("token_embd.weight", "output.weight")
        assert by_type["q4_0"][name] == ("Q4_0" if expected == "Q8_0" and not is_table else expected), name


@pytest.mark.parametrize("outtype", ["f32", "f16", "q8_0", "q4_0"])
def test_report_has_the_differences(checkpoint, export, outtype):
    file = export(checkpoint(), outtype)
    report = json.loads((file.parent / "export_report.json").read_text())
    exact = report["differences"]["logits of 64 tokens read by transformers, gelu"]
    assert exact <= {"f32": 1e-5, "f16": 5e-3, "q8_0": 0.05, "q4_0": 0.3}[outtype]
    assert report["differences"]["logits of 64 tokens read by transformers, gelu_new"] > exact / 2


@pytest.mark.parametrize("name", ["position_embd.weight", "token_embd.weight", "blk.1.attn_qkv.weight"])
def test_file_that_computes_something_else_is_refused(checkpoint, export, monkeypatch, name):
    tensors = gguf_export.tensors

    def defective(model):
        named = tensors(model)
        return named | {name: named[name].roll(1, 0)}

    monkeypatch.setattr(gguf_export, "tensors", defective)
    with pytest.raises(UserError, match="does not compute .*: logits of 64 tokens read by transformers"):
        export(checkpoint())


@pytest.mark.parametrize(
    ("model_class", "overrides", "reason"),
    [
        (MiniForCausalLM, {"norm_first": False}, "norm_first is False"),
        (MiniForCausalLM, {"is_causal": False}, "is_causal is False"),
        (MiniForCausalLM, {"hidden_act": "relu"}, "hidden_act is 'relu'"),
        (MiniForCausalLM, {"lm_head_bias": True}, "lm_head_bias is True"),
        (MiniForMaskedLM, {}, "it is a MiniForMaskedLM"),
        (MiniForSequenceClassification, {}, "it is a MiniForSequenceClassification"),
    ],
    ids=["post-norm", "bidirectional", "activation", "bias", "masked", "classifier"],
)
def test_model_that_llama_cpp_cannot_run_is_refused(checkpoint, export, model_class, overrides, reason):
    with pytest.raises(UserError, match=f"because {reason}.*llama.cpp runs a MiniForCausalLM with"):
        export(checkpoint(model_class, **overrides))


@pytest.mark.parametrize(
    ("kind", "steps"), [("char", "WordLevel with Split"), ("uncased", "BPE with BertPreTokenizer, ByteLevel, Split")]
)
def test_tokenizer_of_another_kind_is_refused(checkpoint, export, kind, steps):
    folder = checkpoint()
    train_tokenizer(["the quick brown fox"], kind, 300).save_pretrained(folder)
    with pytest.raises(UserError, match=rf"llama.cpp has no tokenizer of this kind \({steps}\)"):
        export(folder)


def bpe(*steps, **options):
    tokenizer = Tokenizer(models.BPE({"a": 0}, [], **options))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


LLAMA_3, QWEN_2 = gguf_export.SPLITS
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT_2 = pre_tokenizers.ByteLevel(add_prefix_space=False)


@pytest.mark.parametrize(
    ("tokenizer", "name"),
    [
        (bpe(GPT_2), "gpt-2"),
        (bpe(GPT_2, split(".{384}(?=.)")), "gpt-2"),
        (bpe(split(LLAMA_3), BYTES, ignore_merges=True), "llama-bpe"),
        (bpe(split(QWEN_2), BYTES), "qwen2"),
        (bpe(split(LLAMA_3), BYTES), None),  # llama.cpp ignores merges for whole words
        (bpe(split(r"\d"), GPT_2), None),
        (bpe(split(r"\w+"), BYTES), None),
        (bpe(pre_tokenizers.ByteLevel(add_prefix_space=True)), None),
        (bpe(pre_tokenizers.Whitespace()), None),
        (bpe(GPT_2, unk_token="a"), None),
        (bpe(GPT_2, dropout=0.1), None),
        (Tokenizer(models.Unigram([("a", 0.0)])), None),
    ],
    ids="gpt2 ours llama3 qwen2 merges digits words space whitespace unknown dropout unigram".split(),
)
def test_pre_tokenizers_that_llama_cpp_has(tokenizer, name):
    assert gguf_export.pre_tokenizer_name(json.loads(tokenizer.to_str())) == name


def test_normalizer_is_refused():
    tokenizer = bpe(GPT_2)
    tokenizer.normalizer = normalizers.NFC()
    assert gguf_export.pre_tokenizer_name(json.loads(tokenizer.to_str())) is None


def test_chat_template_renders_without_the_tag_of_transformers(checkpoint, export):
    folder = checkpoint()
    template = fields(export(folder))["tokenizer.chat_template"]
    assert "generation %}" not in template
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}] * 2
    original = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    rendered = tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False, add_generation_prompt=True)
    assert rendered == original
    assert SPECIAL_TOKENS["eos_token"] in rendered


_STAND_IN = """
import numpy

class Llama:
    def __init__(self, file, n_ctx, **options):
        open(file).close()
        self.scores = numpy.zeros((n_ctx, 2), numpy.float32)

    def eval(self, ids):
        pass

    def tokenize(self, text, **options):
        return []
"""


def test_files_in_the_current_folder_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "llama_cpp.py").write_text(_STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "model.gguf").touch()
    for name in ("numpy", "json", "llama_cpp"):
        (checkpoint / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(checkpoint)
    logits = gguf_export.llama_cpp_logits(Path("model.gguf"), [5, 6, 7], lambda text, **_: Namespace(input_ids=[]))
    assert logits.shape == (3, 2)
    assert not (tmp_path / "ran").exists()


def test_command_writes_the_type_that_is_asked_for(checkpoint, tmp_path, capsys):
    output = tmp_path / "files"
    words = ["export", str(checkpoint()), "--to", "gguf", "--output", str(output)]
    assert main(words) == 0
    assert f"{output / 'model-F16.gguf'} is ready" in capsys.readouterr().out
    assert main([*words, "--outtype", "q8_0"]) == 0
    files = {"model-F16.gguf", "model-Q8_0.gguf", "export_report.json"}
    assert {path.name for path in output.iterdir()} == files
