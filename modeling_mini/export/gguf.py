"""GGUF files for llama.cpp and the programs built on it (Ollama, LM Studio), with the tokenizer inside.

A pre-norm decoder has the layers of GPT-2, so llama.cpp runs it as its architecture `gpt2`: the sinusoids become the
table of positions, and the scale of the embedding goes into the table of tokens. GPT-2 has the tanh approximation of
GELU, which llama.cpp looks up in a float16 table on a CPU.
"""

import importlib.util
import json
import logging
import math
import signal
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import ACT2FN

from ..configuration_mini import MiniConfig
from ..errors import UserError, shortened
from ..model_folders import read_config
from ..modeling_mini import sinusoidal_positions
from ..tokenization import LONGEST_WORD
from ..writing import write_json
from .checkpoint import open_checkpoint
from .parity import accepted, example
from .run import REPORT


logger = logging.getLogger(__name__)

# `--outtype` as in llama.cpp's own converter: the largest accepted difference of the logits, as a part of the largest
# one (at least 1). Q8_0 and Q4_0 store a weight in 8 or 4 bits, and a scale for each 32 of a row.
TOLERANCES = {"f32": 1e-4, "f16": 1e-2, "q8_0": 1e-1, "q4_0": 5e-1}
DEFAULT_TYPE = "f16"
LLAMA_CPP_TOLERANCE = 1e-2  # in addition, where GELU is llama.cpp's
_BLOCK = 32
_CONTEXT_STEP = 256  # llama.cpp rounds the size of its cache up to a multiple, and stops at a position without a row
_GELUS = ("gelu", "gelu_python", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_accurate")

# llama.cpp has a fixed list of pre-tokenizers: regular expression of `Split` -> name there. `ByteLevel` is `gpt-2`.
_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_SPACES}": "llama-bpe",
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_SPACES}": "qwen2",
}

_LONG_WORDS = f".{{{LONGEST_WORD}}}(?=.)"  # our own tokenizers split longer words, which llama.cpp does not

# Kinds of text on which pre-tokenizers differ; llama.cpp must read each as the tokenizer does.
SAMPLES = (
    "It's the model's 2nd reading: we'll see, don't we?",
    "你好,世界!模型一次读一个词。",
    "def f(x):\n    return x[0] + 1_000.5  # 12345\n\n\n\tpass\r\n",
    "  two spaces, three   spaces, a tab\t and an end  ",
    "caf\u00e9 \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 \u0645\u0631\u062d\u0628\u0627 \u0967\u0968\u0969",
    "source<eos>target",
)


def export(checkpoint: Path, output: Path, args: Namespace) -> Path:
    """Write a causal pre-norm checkpoint and its tokenizer as one GGUF file, and check what it computes.

    The file is opened as a GPT-2 by transformers, and by llama.cpp if llama-cpp-python is installed. The logits must
    be those of the PyTorch model within the tolerances, and llama.cpp must read `SAMPLES` as the tokenizer does.

    Args:
        checkpoint: the folder of a trained model.
        output: an existing folder.
        args: `checkpoint`, how the user named the folder, and `outtype`, the type of the weight matrices (None for
            `DEFAULT_TYPE`).

    Returns:
        The file.

    Raises:
        UserError: llama.cpp has no such model or tokenizer, or the outputs differ.
    """
    check_config(read_config(checkpoint, args.checkpoint), args.checkpoint)
    model, tokenizer = open_checkpoint(checkpoint, args.checkpoint)
    vocabulary = _Vocabulary(tokenizer, args.checkpoint)
    if (length := table_length(model.config)) > model.config.max_position_embeddings:
        logger.info(
            "The file has %d positions, because llama.cpp uses multiples of %d; the context of the model is %d.",
            length,
            _CONTEXT_STEP,
            model.config.max_position_embeddings,
        )
    outtype = args.outtype or DEFAULT_TYPE
    file = output / f"model-{outtype.upper()}.gguf"
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GPT2])
    writer.add_name(Path(args.checkpoint).absolute().name)
    _add_shape(writer, model.config, outtype)
    vocabulary.write(writer, model.config.vocab_size)
    for name, tensor in tensors(model).items():
        kind = gguf.GGMLQuantizationType[tensor_type(name, tensor, outtype)]
        writer.add_tensor(name, gguf.quantize(tensor.numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    check(file, model, tokenizer, outtype)
    return file


def check_config(config: MiniConfig, source: str) -> None:
    """Refuse a model that llama.cpp's architecture `gpt2` cannot compute. Raises `UserError` with the field."""
    architecture = str((config.architectures or ["model without a head"])[0])
    unsupported = {
        f"it is a {architecture}": architecture != "MiniForCausalLM",
        "is_causal is False": not config.is_causal,
        "norm_first is False (post-norm)": not config.norm_first,
        f"hidden_act is {config.hidden_act!r}": config.hidden_act not in _GELUS,
        "lm_head_bias is True": config.lm_head_bias,
    }
    if reason := next((reason for reason, applies in unsupported.items() if applies), None):
        raise UserError(
            f"{source} cannot be exported to gguf, because {reason}; llama.cpp runs a MiniForCausalLM with "
            "norm_first=True, a GELU and no bias in its head."
        )


def table_length(config: MiniConfig) -> int:
    """Rows of the table of positions: the context, rounded up as llama.cpp does for its cache."""
    return math.ceil(config.max_position_embeddings / _CONTEXT_STEP) * _CONTEXT_STEP


@torch.no_grad()
def tensors(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The weights of a causal pre-norm model by llama.cpp's names, in float32, `[out, in]` like `nn.Linear`.

    Our embedding is scaled by sqrt(D) and our head is not. With tied weights the file holds one table, scaled, and the
    last LayerNorm is divided by the scale: logits = (table * s) (norm / s).
    """
    config, trunk = model.config, model.model
    scale = config.hidden_size**0.5
    head_scale = scale if config.tie_word_embeddings else 1.0
    named = {
        "token_embd.weight": trunk.embed_tokens.weight * scale,
        "position_embd.weight": sinusoidal_positions(torch.arange(table_length(config)), config.hidden_size),
        "output_norm.weight": trunk.norm.weight / head_scale,
        "output_norm.bias": trunk.norm.bias / head_scale,
    }
    if not config.tie_word_embeddings:
        named["output.weight"] = model.lm_head.weight
    for number, layer in enumerate(trunk.layers):
        attention = layer.self_attn
        modules = {
            "attn_norm": [layer.input_layernorm],
            "attn_qkv": [attention.q_proj, attention.k_proj, attention.v_proj],
            "attn_output": [attention.o_proj],
            "ffn_norm": [layer.post_attention_layernorm],
            "ffn_up": [layer.mlp.up_proj],
            "ffn_down": [layer.mlp.down_proj],
        }
        for name, parts in modules.items():
            for kind in ("weight", "bias"):
                named[f"blk.{number}.{name}.{kind}"] = torch.cat([getattr(part, kind) for part in parts])
    return {name: tensor.detach().float().contiguous() for name, tensor in named.items()}


def tensor_type(name: str, tensor: torch.Tensor, outtype: str) -> str:
    """The type of a tensor in a file, chosen as by llama.cpp's converter: vectors and positions stay in float32.

    A row that is not a multiple of 32 cannot be Q8_0 or Q4_0, and is F16. With `q4_0`, the tables of tokens are Q8_0:
    they lose most by 4 bits.
    """
    if tensor.ndim == 1 or name == "position_embd.weight":
        return "F32"
    if outtype in ("q8_0", "q4_0") and tensor.shape[-1] % _BLOCK:
        return "F16"
    if outtype == "q4_0" and name in ("token_embd.weight", "output.weight"):
        return "Q8_0"
    return outtype.upper()


def _add_shape(writer: gguf.GGUFWriter, config: MiniConfig, outtype: str) -> None:
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(table_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_layer_norm_eps(config.layer_norm_eps)
    file_types = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
    writer.add_file_type(gguf.LlamaFileType[file_types[outtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


class _Vocabulary:
    """A byte-level BPE tokenizer in the terms of llama.cpp. Raises `UserError` for any other tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, source: str):
        self.tokenizer = tokenizer
        settings = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
        model = settings.get("model", {})
        self.pre = pre_tokenizer_name(settings)
        if self.pre is None:
            raise UserError(
                f"{source} cannot be exported to gguf, because llama.cpp has no tokenizer of this kind "
                f"({model.get('type', 'slow')} with {_names(settings.get('pre_tokenizer'))}); it has byte-level BPE, "
                "as train.py trains it by default."
            )
        self.merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
        self.added = {token["id"]: token["special"] for token in settings["added_tokens"]}

    def write(self, writer: gguf.GGUFWriter, size: int) -> None:
        """Write tokens for the `size` rows of the embedding; rows without a token are marked as unused."""
        kinds = gguf.TokenType
        tokens, types = [], []
        by_id = {index: token for token, index in self.tokenizer.get_vocab().items()}
        for index in range(size):
            tokens.append(by_id.get(index, f"[PAD{index}]"))
            if index not in by_id:
                types.append(kinds.UNUSED)
            elif index in self.added:
                types.append(kinds.CONTROL if self.added[index] else kinds.USER_DEFINED)
            else:
                types.append(kinds.NORMAL)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_merges(self.merges)
        for name in ("bos", "eos", "unk", "pad", "mask"):
            if (index := getattr(self.tokenizer, f"{name}_token_id")) is not None:
                getattr(writer, f"add_{name}_token_id")(index)
        writer.add_add_bos_token(self.tokenizer.bos_token_id is not None)
        writer.add_add_eos_token(False)
        if isinstance(self.tokenizer.chat_template, str):
            writer.add_chat_template(plain_template(self.tokenizer.chat_template))


def pre_tokenizer_name(settings: dict) -> str | None:
    """llama.cpp's name for the pre-tokenizer of a `tokenizer.json`, or None if it has no tokenizer like this."""
    model, pre = settings.get("model", {}), settings.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    plain = {"dropout": None, "unk_token": None, "byte_fallback": False, "normalizer": None}
    plain |= {"continuing_subword_prefix": None, "end_of_word_suffix": None}
    if model.get("type") != "BPE" or any(
        (model | settings).get(name) not in (value, "") for name, value in plain.items()
    ):
        return None
    bytes_of = [step for step in steps if step.get("type") == "ByteLevel" and not step["add_prefix_space"]]
    splits = [step["pattern"].get("Regex") for step in steps if step.get("type") == "Split"]
    if len(bytes_of) != 1 or len(splits) + 1 != len(steps):
        return None
    if bytes_of[0]["use_regex"]:
        is_plain = splits in ([], [_LONG_WORDS]) and not model.get("ignore_merges")
        return "gpt-2" if is_plain else None
    name = SPLITS.get(splits[0]) if len(splits) == 1 else None
    return name if bool(model.get("ignore_merges")) == (name == "llama-bpe") else None


def _names(pre_tokenizer: dict | None) -> str:
    """The kinds of the steps of a pre-tokenizer, for a message."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer] if pre_tokenizer else [])
    return ", ".join(step["type"] for step in steps) or "no pre-tokenizer"


def plain_template(template: str) -> str:
    """A chat template without the tag `generation` of transformers, which only newer readers of GGUF know."""
    for tag, plain in (("endgeneration", "endif"), ("generation", "if true")):
        template = template.replace(f"{{% {tag} %}}", f"{{% {plain} %}}")
    return template


@torch.no_grad()
def check(file: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, outtype: str) -> None:
    """Compare a file with the PyTorch model, and record the differences next to it.

    Raises:
        UserError: the logits differ by more than the tolerance, or llama.cpp reads a text as other tokens.
    """
    length = min(512, model.config.max_position_embeddings)
    ids, _ = example(model.config, 1, length)
    expected = model(ids).logits[0]
    differences, limits = {}, {}
    gpt2 = as_gpt2(file, model.config)
    for activation in sorted({model.config.hidden_act, "gelu_new"}):  # ours, and that of llama.cpp
        for block in gpt2.transformer.h:
            block.mlp.act = ACT2FN[activation]
        key = f"logits of {length} tokens read by transformers, {activation}"
        is_ours = activation == model.config.hidden_act
        limits[key] = TOLERANCES[outtype] + (0 if is_ours else LLAMA_CPP_TOLERANCE)
        differences[key] = accepted(key, gpt2(ids).logits[0], expected, limits[key])
    if importlib.util.find_spec("llama_cpp") is not None:
        logits = llama_cpp_logits(file, ids[0].tolist(), tokenizer)
        if logits is not None:
            key = f"logits of {length} tokens of llama.cpp"
            limits[key] = TOLERANCES[outtype] + LLAMA_CPP_TOLERANCE
            differences[key] = accepted(key, logits, expected, limits[key])
    write_json(file.parent / REPORT, {"tolerances": limits, "differences": differences})


def as_gpt2(file: Path, config: MiniConfig) -> GPT2LMHeadModel:
    """The file as transformers reads it: a GPT-2 with dequantized weights."""
    shape = GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=table_length(config),
        n_embd=config.hidden_size,
        n_layer=config.num_hidden_layers,
        n_head=config.num_attention_heads,
        n_inner=config.intermediate_size,
        layer_norm_epsilon=config.layer_norm_eps,
        tie_word_embeddings=config.tie_word_embeddings,
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
    )
    return GPT2LMHeadModel.from_pretrained(file.parent, gguf_file=file.name, config=shape, dtype=torch.float32).eval()


# In a process of its own, because a program compiled for another processor ends without an exception.
_LLAMA_CPP = """
import json, sys
import numpy
from llama_cpp import Llama

file, output = sys.argv[1:]
request = json.load(sys.stdin)
length = len(request["ids"])
llama = Llama(file, n_ctx=length, n_batch=length, logits_all=True, verbose=False)
llama.eval(request["ids"])
numpy.save(output, llama.scores[:length])
print(json.dumps([llama.tokenize(text.encode(), add_bos=False, special=True) for text in request["texts"]]))
"""


def llama_cpp_logits(file: Path, ids: list[int], tokenizer: PreTrainedTokenizerBase) -> torch.Tensor | None:
    """Logits `[T, V]` of tokens in llama.cpp, or None where it does not run on this processor.

    Raises:
        UserError: llama.cpp refuses the file, or reads one of `SAMPLES` as other tokens than the tokenizer.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "logits.npy")
        command = [sys.executable, "-c", _LLAMA_CPP, str(file.absolute()), str(output)]
        request = json.dumps({"ids": ids, "texts": SAMPLES})
        # `-c` puts the current folder first on sys.path, and that of the user may hold files of others.
        result = subprocess.run(command, input=request, cwd=folder, capture_output=True, text=True, check=False)
        if result.returncode == -signal.SIGILL:
            logger.warning(
                "llama.cpp was compiled for another processor, so only transformers has read the file; compile it "
                'again: CMAKE_ARGS="-DGGML_NATIVE=OFF" pip install --force-reinstall --no-cache-dir llama-cpp-python'
            )
            return None
        if result.returncode:
            reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
            raise UserError(f"llama.cpp does not run the exported file: {shortened(reason, 300)}; it is deleted.")
        logits = torch.from_numpy(np.load(output))
    for text, tokens in zip(SAMPLES, json.loads(result.stdout), strict=True):
        expected = tokenizer(text, add_special_tokens=False).input_ids
        if tokens != expected:
            raise UserError(
                f"llama.cpp reads {text!r} as tokens {shortened(str(tokens), 100)}, but the tokenizer of the model as "
                f"{shortened(str(expected), 100)}; the export is deleted."
            )
    return logits
