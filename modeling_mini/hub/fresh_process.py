"""Opens a saved model by several Auto classes, and keeps what each computes.

Two processes that call `open_all` can be compared bit for bit. One of them runs this file as a script, which keeps the
package out, so that transformers runs the code beside the weights:

    python fresh_process.py SOURCE REVISION THREADS RESULT AUTO_CLASS...

It writes RESULT.safetensors, or RESULT.txt with the reason why it could not.
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel


SAMPLE = "The quick brown fox\njumps over 13 lazy dogs, été comme hiver: 你好."
TOKENIZER = "AutoTokenizer"


def open_all(
    source: str | Path, auto_classes: Iterable[str], is_remote: bool = False, **kwargs
) -> dict[str, torch.Tensor]:
    """What each Auto class makes of the same tokens `[2, 16]`, and the ids of a text if there is a tokenizer.

    Heads that the checkpoint does not hold start from the same random numbers in every process.

    Args:
        source: a folder, or a repository on the Hub.
        auto_classes: their names in transformers.
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
    for name in auto_classes:
        torch.manual_seed(0)
        model = getattr(transformers, name).from_pretrained(source, use_safetensors=True, **kwargs).eval()
        if type(model).__module__.startswith("transformers_modules.") is not is_remote:
            raise RuntimeError(f"{name} gave {type(model).__module__}.{type(model).__name__}")
        found[name] = _logits(model, ids)
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


def main(source: str, revision: str, threads: str, result: str, *auto_classes: str) -> None:
    torch.set_num_threads(int(threads))
    transformers.logging.disable_progress_bar()
    try:
        found = open_all(source, auto_classes, is_remote=True, **({"revision": revision} if revision else {}))
    except Exception as error:
        Path(f"{result}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise SystemExit(1) from error
    save_file(found, f"{result}.safetensors")


if __name__ == "__main__":
    sys.modules["modeling_mini"] = None  # importing it now fails, as where it is not installed
    main(*sys.argv[1:])
