"""llama.cpp reads, computes and writes what PyTorch does, from a GGUF file. `make llamacpp` installs it."""

import json
import random
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from modeling_mini import MiniForCausalLM
from modeling_mini.presets import preset_path
from modeling_mini.tokenization import LONGEST_WORD, train_tokenizer


pytest.importorskip("gguf", reason="modeling_mini[gguf] is not installed")
llama_cpp = pytest.importorskip("llama_cpp", reason="`make llamacpp` installs llama-cpp-python")

from modeling_mini.export.gguf import SAMPLES, export  # noqa: E402, imports gguf


pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NEW_TOKENS = 200
LONGEST_PIECE = 32  # bytes of a token that `Llama.detokenize` of llama-cpp-python 0.3.36 can write
# Shape, hidden_act, language of the text, updates of training.
CASES = {
    "nano-en": ("nano", "gelu", "en", 100),
    "nano-zh": ("nano", "gelu", "zh", 100),
    "nano-en-tanh": ("nano", "gelu_new", "en", 100),
    "small-en": ("small", "gelu", "en", 30),
    "small-zh": ("small", "gelu", "zh", 30),
}
# Largest difference of a log-probability in nats, for texts of the training data.
BOUNDS = {"f32": 0.01, "f16": 0.02, "q8_0": 0.3, "q4_0": 0.5}


def corpus(language):
    if language == "zh":
        return [(ROOT / "README.zh-CN.md").read_text(encoding="utf-8")]
    from modeling_mini.data.builtin.python_docs import python_documents

    return [row["text"] for row, _ in zip(python_documents(), range(100))]


@pytest.fixture(scope="module", params=CASES)
def trained(request, tmp_path_factory):
    """Model, tokenizer, texts and folder of a model that was trained a little, so that few choices are ties."""
    preset, activation, language, updates = CASES[request.param]
    texts = corpus(language)
    tokenizer = train_tokenizer(texts, vocab_size=1024, model_max_length=256)
    config = AutoConfig.from_pretrained(preset_path(preset))
    config.vocab_size, config.hidden_act, config.max_position_embeddings = len(tokenizer), activation, 256
    torch.manual_seed(0)
    model = MiniForCausalLM(config)
    ids = torch.tensor([id for text in texts for id in tokenizer(text).input_ids])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(updates):
        starts = torch.randint(len(ids) - 64, (8,)).tolist()
        rows = torch.stack([ids[start : start + 64] for start in starts])
        model(rows, labels=rows).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp(request.param)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, tokenizer, texts, folder


@pytest.fixture(scope="module", params=["f32", "f16", "q8_0", "q4_0"])
def loaded(request, trained, tmp_path_factory):
    """`trained`, and the same model in llama.cpp, which was exported as `outtype`."""
    model, tokenizer, texts, folder = trained
    file = export(folder, tmp_path_factory.mktemp("gguf"), Namespace(checkpoint=str(folder), outtype=request.param))
    llama = llama_cpp.Llama(str(file), n_ctx=256, n_batch=256, n_threads=1, logits_all=True, verbose=False)
    return model, tokenizer, texts, llama, request.param, file


def encode(llama, text, add_bos=False):
    return llama.tokenize(text.encode(), add_bos=add_bos, special=True)


def random_texts():
    """Mixed letters, digits, punctuation, white space, scripts and emoji, in runs of random length."""
    generator = random.Random(0)
    kinds = ["abcXYZ", "0123456789", " ", "\n\t\r \u00a0\u3000", ".,;:!?'\"()[]{}", "+-*/=<>|~^%$#@&", "你好世界模型"]
    kinds += ["éüßøñ", "абвгд", "عربي", "हिन्दी", "日本語カタカナ", "한국어", "😀🎉👩‍👩‍👧", "'s't're've'm'll'd", "①½Ⅷ٣"]
    for _ in range(500):
        yield "".join(
            generator.choice(generator.choice(kinds)) for _ in range(generator.randint(1, 8)) for _ in range(4)
        )


def test_llama_cpp_reads_text_as_the_same_tokens(loaded):
    _, tokenizer, texts, llama, outtype, _ = loaded
    if outtype != "f32":
        pytest.skip("the tokenizer does not depend on the type of the weights")
    for text in [*SAMPLES, *texts, *random_texts()]:
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert encode(llama, text) == ids, text
        assert encode(llama, text, add_bos=True) == tokenizer(text).input_ids
        if max(map(len, tokenizer.convert_ids_to_tokens(ids))) <= LONGEST_PIECE:
            assert llama.detokenize(ids, special=True).decode() == text
    word = "x" + "ab" * LONGEST_WORD  # only our tokenizer splits it
    assert llama.detokenize(encode(llama, word)).decode() == word
    # A text-to-text model reads a source and the separator.
    assert encode(llama, "a b<eos>", add_bos=True) == [*tokenizer("a b").input_ids, tokenizer.eos_token_id]


@torch.no_grad()
def test_log_probabilities_and_greedy_text_are_the_same(loaded):
    model, tokenizer, texts, llama, outtype, file = loaded
    text = tokenizer(max(texts, key=len)).input_ids[:250]
    expected = model(torch.tensor([text])).logits[0].log_softmax(-1)
    llama.reset()
    llama.eval(text)
    found = torch.from_numpy(llama.scores[: len(text)].copy()).log_softmax(-1)
    targets = torch.tensor(text[1:])[:, None]
    difference = (found - expected)[:-1].gather(-1, targets).abs()
    everywhere = (found - expected).abs().max().item()

    prompt = text[:8]
    ids = torch.tensor([prompt])
    written = model.generate(ids, max_new_tokens=NEW_TOKENS, do_sample=False, eos_token_id=None)[0, 8:].tolist()
    llama.reset()
    tokens = llama.generate(prompt, temp=0.0)
    by_llama = [next(tokens) for _ in range(NEW_TOKENS)]
    index = next((i for i in range(NEW_TOKENS) if written[i] != by_llama[i]), None)
    margin = 0.0
    if index is not None:
        logits = model(torch.tensor([prompt + written[:index]])).logits[0, -1]
        margin = (logits[written[index]] - logits[by_llama[index]]).item()
    report = json.loads((file.parent / "export_report.json").read_text())["differences"]
    sys.stdout.write(  # `make llamacpp ARGS=-s` shows them
        f"\n{model.config.hidden_size} {model.config.hidden_act} {outtype}: |log p| of the text differs by "
        f"{difference.max():.1e} (mean {difference.mean():.1e}), of all tokens by {everywhere:.1e}; greedy text at "
        f"{index}, margin {margin:.1e}; export {[f'{value:.1e}' for value in report.values()]}\n"
    )
    assert difference.max() <= BOUNDS[outtype]
    assert abs(margin) <= 2 * BOUNDS[outtype]


def test_text_in_text_out(loaded):
    model, tokenizer, texts, llama, outtype, _ = loaded
    prompt = texts[0][:40].strip()
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    written = model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :]
    choice = llama.create_completion(prompt, max_tokens=16, temperature=0.0)["choices"][0]
    if outtype == "f32":
        assert choice["text"] == tokenizer.decode(written, skip_special_tokens=True)


def test_chat_template_and_special_tokens(loaded):
    _, tokenizer, _, llama, _, _ = loaded
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]
    chat.append({"role": "user", "content": [{"type": "text", "text": "A text."}]})
    formatter = llama_cpp.llama_chat_format.Jinja2ChatFormatter(
        template=llama.metadata["tokenizer.chat_template"], bos_token="<bos>", eos_token="<eos>"
    )
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert formatter(messages=chat).prompt == prompt
    assert encode(llama, prompt) == tokenizer(prompt, add_special_tokens=False).input_ids
    assert llama.create_chat_completion(chat, max_tokens=4)["choices"][0]["message"]["content"] is not None
    assert (llama.token_bos(), llama.token_eos()) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_llama_cpp_generates_beyond_a_short_context(checkpoint, tmp_path):
    """The context is 64, but llama.cpp has room for 256 tokens, and would abort at a position without a row."""
    folder = checkpoint()
    file = export(folder, tmp_path, Namespace(checkpoint=str(folder), outtype="f16"))
    llama = llama_cpp.Llama(str(file), n_ctx=0, n_threads=1, verbose=False)
    tokens = llama.generate([1], temp=0.0)
    assert len([next(tokens) for _ in range(llama.n_ctx() - 2)]) == 254
    report = json.loads((tmp_path / "export_report.json").read_text())
    assert "logits of 64 tokens of llama.cpp" in report["differences"]
