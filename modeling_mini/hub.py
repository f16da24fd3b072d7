"""Sharing: the model card of a trained checkpoint."""

from pathlib import Path

import torch
import transformers
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from .arguments import DataArguments, MiniTrainingArguments, ModelArguments
from .data import EMBEDDED_CORPUS


_CARD = """---
{metadata}
---

# {name}

A {parameters:,}-parameter causal Transformer language model with sinusoidal positions, trained from scratch with
modeling_mini (shape: `{preset}`) on {corpus}.

## Use

With the package installed, `import modeling_mini` and any Auto class. Without it, transformers runs the code in this
repository if you allow it to:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("PATH", trust_remote_code=True)
model = AutoModelForCausalLM.from_pretrained("PATH", trust_remote_code=True)
inputs = tokenizer({prompt!r}, return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, do_sample=True, max_new_tokens=100)[0], skip_special_tokens=True))
```

## Results

On held-out documents of the same corpus, over all tokens:

| loss (nats per token) | perplexity | bits per byte |
|---|---|---|
| {validation_loss:.4f} | {perplexity:.2f} | {bits_per_byte:.4f} |

![Loss over updates](loss.png)

Sample (temperature 0.8, top 50, seed {seed}):

````text
{sample}
````

## Training

{updates} updates, {train_tokens} tokens in the corpus, {optimizer}, {schedule} schedule, seed {seed};
torch {torch}, transformers {transformers}. `run.json` holds the arguments of the model and the data.

## Limits

A small model of its training text: it continues text in that style, knows nothing else reliably, and has not been
aligned, filtered or tested for any use in which its words matter.
"""


def write_model_card(
    folder: Path,
    results: dict,
    model_args: ModelArguments,
    data_args: DataArguments,
    training_args: MiniTrainingArguments,
) -> None:
    """Write README.md with the metadata that the Hub reads, from the results of `report.write_report`."""
    embedded = data_args.dataset == EMBEDDED_CORPUS
    # Of a local path, the last part alone: the rest is nobody else's business.
    dataset = Path(data_args.dataset).name if Path(data_args.dataset).exists() else data_args.dataset
    metadata = ModelCardData(
        language="en" if embedded else None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["modeling_mini", "causal-lm", "custom_code"],
        model_name=folder.name,
        eval_results=[
            EvalResult(
                "text-generation",
                metric_type=name,
                metric_value=round(results[name], 4),
                dataset_type=dataset,
                dataset_name=dataset,
            )
            for name in ("perplexity", "bits_per_byte")
        ],
    )
    corpus = "the reference topics and docstrings of Python's standard library" if embedded else f"`{dataset}`"
    optimizer = (
        f"Muon at {training_args.muon_learning_rate} and AdamW at {training_args.learning_rate}"
        if training_args.use_muon
        else f"{training_args.optim} at {training_args.learning_rate}"
    )
    train_tokens = results["train_tokens"]
    values = {
        **results,
        "name": folder.name,
        "preset": model_args.model + (f" with {model_args.config_overrides}" if model_args.config_overrides else ""),
        "corpus": corpus,
        "prompt": training_args.prompt,
        "optimizer": optimizer,
        "schedule": str(getattr(training_args.lr_scheduler_type, "value", training_args.lr_scheduler_type)),
        "train_tokens": "an unknown number of" if train_tokens is None else f"{train_tokens:,}",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "metadata": metadata.to_yaml(),
    }
    ModelCard(_CARD.format(**values)).save(folder / "README.md")
