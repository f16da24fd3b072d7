"""Opens a saved model with several Auto classes and records their outputs.

The outputs of `open_all` in two processes can be compared bit for bit. One process runs this file as a script, which
blocks the import of the package, so that transformers runs the code next to the weights:

    python fresh_process.py SOURCE REVISION THREADS RESULT AUTO_CLASS...

It writes RESULT.safetensors, or RESULT.txt with the reason for the failure.
"""

import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from queue import Empty, Queue

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase


SAMPLE = "The quick brown fox\njumps over 13 lazy dogs, été comme hiver: 你好."
TOKENIZER = "AutoTokenizer"
TIME_LIMIT = 60.0  # seconds, for a sentence and a chat of one message


def open_all(
    source: str | Path, auto_classes: Iterable[str], is_remote: bool = False, **kwargs
) -> dict[str, torch.Tensor]:
    """The outputs of each Auto class on the same tokens `[2, 16]`, and the ids of a text if there is a tokenizer.

    Heads that the checkpoint does not contain are initialized with the same random numbers in every process.

    Args:
        source: a folder, or a repository on the Hub.
        auto_classes: their names in transformers.
        is_remote: run the code of the source instead of the installed package, and check that it was run.
        kwargs: arguments of `from_pretrained`, such as `revision`.

    Returns:
        Tensors by the name of the Auto class: logits, or hidden states if a class has no logits.

    Raises:
        RuntimeError: a class came from the source instead of the package, or the reverse.
    """
    kwargs["trust_remote_code"] = is_remote
    config = AutoConfig.from_pretrained(source, **kwargs)
    length = min(16, config.max_position_embeddings)
    ids = (torch.arange(2 * length).reshape(2, length) * 7919 + 11) % config.vocab_size
    outputs = {}
    for name in auto_classes:
        torch.manual_seed(0)
        model = getattr(transformers, name).from_pretrained(source, use_safetensors=True, **kwargs).eval()
        if type(model).__module__.startswith("transformers_modules.") is not is_remote:
            raise RuntimeError(f"{name} gave {type(model).__module__}.{type(model).__name__}")
        outputs[name] = _logits(model, ids)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **kwargs)
    except (OSError, ValueError):  # no tokenizer
        return outputs
    outputs[TOKENIZER] = within_limit(lambda: _ids(tokenizer))
    return outputs


def _ids(tokenizer: PreTrainedTokenizerBase) -> torch.Tensor:
    chat = [{"role": "user", "content": SAMPLE}]
    texts = [SAMPLE, *([tokenizer.apply_chat_template(chat, tokenize=False)] if tokenizer.chat_template else [])]
    return torch.tensor([i for text in texts for i in tokenizer(text).input_ids])


def within_limit(compute: Callable[[], torch.Tensor], seconds: float = TIME_LIMIT) -> torch.Tensor:
    """The result of a function, which may run a template or an expression of others that never ends.

    Raises:
        RuntimeError: it did not end in time. Its thread ends with the process.
    """
    results: Queue = Queue()

    def work():
        try:
            results.put((compute(), None))
        except Exception as error:
            results.put((None, error))

    threading.Thread(target=work, daemon=True).start()
    try:
        result, error = results.get(timeout=seconds)
    except Empty:
        raise RuntimeError(
            f"the tokenizer or its chat template did not finish a sentence in {seconds:g} seconds"
        ) from None
    if error is not None:
        raise error
    return result


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
        outputs = open_all(source, auto_classes, is_remote=True, **({"revision": revision} if revision else {}))
    except Exception as error:
        Path(f"{result}.txt").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        raise SystemExit(1) from error
    save_file(outputs, f"{result}.safetensors")


if __name__ == "__main__":
    sys.modules["modeling_mini"] = None  # importing it fails, as if it were not installed
    main(*sys.argv[1:])
