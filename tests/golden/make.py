"""Writes tests/golden/vN: a tiny checkpoint of each class in format N, with its outputs, to test later versions.

    python tests/golden/make.py

Run it once, when `FORMAT_VERSION` increases. Never rewrite a folder after the release of its version: it represents
the repositories that users have pushed. The folder of the causal model is a complete repository, with the code and the
tokenizer of that version. The other folders contain config and weights.
"""

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

import modeling_mini
from modeling_mini import MiniConfig, MiniForCausalLM
from modeling_mini.configuration_mini import AUTO_CLASSES, FORMAT_VERSION
from modeling_mini.hub import push
from modeling_mini.hub.fresh_process import SAMPLE, open_all
from modeling_mini.tokenization import train_tokenizer


def main() -> None:
    transformers.logging.set_verbosity_error()
    root = Path(__file__).parent / f"v{FORMAT_VERSION}"
    tokenizer = train_tokenizer([SAMPLE], kind="char")
    for seed, model_class in enumerate(getattr(modeling_mini, name) for name in AUTO_CLASSES):
        folder = root / model_class.__name__
        folder.mkdir(parents=True)  # fails if the folder exists
        config = MiniConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            norm_first=seed % 2 == 1,
            tie_word_embeddings=seed % 3 == 1,
            id2label={0: "a", 1: "b", 2: "c"},
        )
        torch.manual_seed(seed)
        model = model_class(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
        if model_class is MiniForCausalLM:
            tokenizer.save_pretrained(folder)
            expected = open_all(folder, AUTO_CLASSES.values())
            # Only outputs that need no new head: versions may initialize a head that the checkpoint lacks differently.
            stable = ("AutoModel", "AutoModelForCausalLM", "AutoModelForMaskedLM", "AutoTokenizer")
            expected = {name: tensor for name, tensor in expected.items() if name in stable}
        else:
            name = AUTO_CLASSES[model_class.__name__]
            expected = {name: open_all(folder, [name])[name]}
            for path in push.CODE_FILES:
                (folder / path.name).unlink()
        save_file(expected, folder / "expected.safetensors")


if __name__ == "__main__":
    main()
