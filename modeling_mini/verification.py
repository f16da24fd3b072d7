"""Opens a saved model as every class of ours that its `auto_map` names, and keeps what each computes.

Two processes that call `open_all` can be compared bit for bit. One of them is usually this file run as a script, which
keeps the package out, so that transformers runs the code of the repository:

    python verification.py SOURCE REVISION THREADS RESULT

It writes RESULT.safetensors, or RESULT.txt with the reason why it could not.
"""

import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel


SAMPLE = "The quick brown fox\njumps over 13 lazy dogs, été comme hiver: 你好."
TOKENIZER = "AutoTokenizer"


def open_all(source: str | Path, is_remote: bool = False, **kwargs) -> dict[str, torch.Tensor]:
    """What every Auto class makes of the same tokens `[2, 16]`, and the ids of a text if there is a tokenizer.

    Heads that the checkpoint does not hold start from the same random numbers in every process.

    Args:
        source: a folder, or a repository on the Hub.
        is_remote: run the code of the source, and require that it was run, instead of an installed package's.
        kwargs: of `from_pretrained`, such as `revision`.

    Returns:
        Tensors by the name of the Auto class: logits, or hidden states where a class has none.

    Raises:
        RuntimeError: a class came from elsewhere than it should.
    """
    kwargs["trust_remote_code"] = is_remote
    config = AutoConfig.from_pretrained(source, **kwargs)
    length = min(16, config.max_position_embeddings)
    ids = (torch.arange(2 * length).reshape(2, length) * 7919 + 11) % config.vocab_size
    found = {}
    # Code of another name is not ours to run: nobody has consented to it.
    ours = {name: ref for name, ref in config.auto_map.items() if str(ref).startswith("modeling_mini.")}
    if hasattr(config, "quantization_config"):
        # transformers finds quantized weights by their full names, which are those of one class.
        ours = {name: ref for name, ref in ours.items() if ref == f"modeling_mini.{config.architectures[0]}"}
    for name in ours:
        torch.manual_seed(0)
        model = getattr(transformers, name).from_pretrained(source, use_safetensors=True, **kwargs).eval()
        if type(model).__module__.startswith("transformers_modules.") is not is_remote:
            raise RuntimeError(f"{name} gave {type(model).__module__}.{type(model).__name__}")
        found[name] = _logits(model, ids)
    if TOKENIZER in config.auto_map:
        return found
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **kwargs)
    except (OSError, ValueError):  # there is none
        return found
    chat = [{"role": "user", "content": SAMPLE}]
    texts = [SAMPLE, *([tokenizer.apply_chat_template(chat, tokenize=False)] if tokenizer.chat_template else [])]
    found[TOKENIZER] = torch.tensor([i for text in texts for i in tokenizer(text).input_ids])
    return found


@torch.no_grad()
def _logits(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    outputs = model(input_ids=ids.to(model.device), use_cache=False)
    if "start_logits" in outputs:
        return torch.stack([outputs.start_logits, outputs.end_logits]).cpu()
    return (outputs.logits if "logits" in outputs else outputs.last_hidden_state).cpu().contiguous()


def main(source: str, revision: str, threads: str, result: str) -> None:
    torch.set_num_threads(int(threads))
    transformers.logging.disable_progress_bar()
    try:
        found = open_all(source, is_remote=True, **({"revision": revision} if revision else {}))
    except Exception as error:
        Path(f"{result}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise SystemExit(1) from error
    save_file(found, f"{result}.safetensors")


if __name__ == "__main__":
    sys.modules["modeling_mini"] = None  # importing it now fails, as where it is not installed
    main(*sys.argv[1:])
