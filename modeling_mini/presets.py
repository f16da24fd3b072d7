"""Find the `configuration/` directory, and the model presets in it by name.

A preset is the content of a `config.json`, so transformers loads it like any other config:

    >>> from transformers import AutoConfig, AutoModelForCausalLM
    >>> from modeling_mini.presets import preset_path
    >>> model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(preset_path("nano")))
"""

import os
from difflib import get_close_matches
from pathlib import Path


def configuration_path(*parts: str) -> Path:
    """Path of `configuration/`, or of `parts` below it, e.g. `configuration_path("recipes", "x.yaml")`.

    In an installed wheel the directory is inside the package; in a checkout it is next to the package. The parts need
    not exist. Raises `FileNotFoundError` if the directory is in neither place.
    """
    package = Path(__file__).resolve().parent
    # Look inside first: next to an installed package are other packages.
    candidates = (package / "configuration", package.parent / "configuration")
    for directory in candidates:
        if (directory / "models").is_dir():
            return directory.joinpath(*parts)
    raise FileNotFoundError(
        f"The presets are neither in {candidates[0]} nor in {candidates[1]}; install modeling_mini again, or run it "
        "from a complete checkout."
    )


def preset_names() -> list[str]:
    """Names of all model presets, in alphabetical order."""
    return sorted(path.stem for path in configuration_path("models").glob("*.json"))


def preset_path(name_or_path: str | os.PathLike) -> Path:
    """Path for `AutoConfig.from_pretrained`: the JSON file of a preset, or an existing path unchanged.

    A preset takes precedence over a directory of the same name in the working directory; write `./name` for the
    directory. Raises `ValueError` for anything else.
    """
    if name_or_path in (names := preset_names()):
        return configuration_path("models", f"{name_or_path}.json")
    if (path := Path(name_or_path)).exists():
        return path
    nearest = get_close_matches(path.name.lower().removesuffix(".json"), names, n=1, cutoff=0)
    raise ValueError(
        f"{os.fspath(name_or_path)!r} is neither a preset nor an existing path; the nearest preset is {nearest[0]!r}, "
        "and `modeling-mini presets` lists them all."
    )


def count_parameters(config, vocab_size: int | None = None) -> int:
    """Number of parameters of the language model that `config` describes; a tied matrix counts once.

    `vocab_size` replaces that of the config, which is an upper bound until the tokenizer is trained.

    A formula, because building the model takes time and memory for each layer, even without weights.
    """
    hidden, inner = config.hidden_size, config.intermediate_size
    vocabulary = config.vocab_size if vocab_size is None else vocab_size
    # Four projections and two feed-forward matrices, all with a bias, and two norms.
    layer = 4 * hidden * hidden + 2 * hidden * inner + 9 * hidden + inner
    last_norm = 2 * hidden if config.norm_first else 0
    head = 0 if config.tie_word_embeddings else vocabulary * hidden
    bias = vocabulary if config.lm_head_bias else 0
    return vocabulary * hidden + config.num_hidden_layers * layer + last_norm + head + bias


def preset_table() -> str:
    """All presets as text: a line of headings, then one line per preset, the smallest first."""
    from .configuration_mini import MiniConfig

    configs = {name: MiniConfig.from_pretrained(preset_path(name)) for name in preset_names()}
    sizes = {name: count_parameters(config) for name, config in configs.items()}
    rows = [("preset", "parameters", "layers x hidden x heads", "vocabulary", "mask", "norm")]
    for name in sorted(configs, key=sizes.get):
        config = configs[name]
        rows.append(
            (
                name,
                f"{sizes[name]:,}",
                f"{config.num_hidden_layers} x {config.hidden_size} x {config.num_attention_heads}",
                f"{config.vocab_size:,}",
                "causal" if config.is_causal else "bidirectional",
                "pre-norm" if config.norm_first else "post-norm",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    alignments = "<><><<"  # numbers to the right, words to the left
    columns = [f"{alignment}{width}" for alignment, width in zip(alignments, widths, strict=True)]
    return "\n".join("  ".join(map(format, row, columns)).rstrip() for row in rows)
