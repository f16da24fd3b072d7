"""The examples of docs/export.md that write text with an exported file."""

import re
from pathlib import Path

from transformers import AutoTokenizer

from modeling_mini import MiniForCausalLM


DOCS = Path(__file__).resolve().parents[2] / "docs" / "export.md"


def check_example(python, exported, without):
    """Run the example of a format with the files in `exported`, without some packages: it writes what `generate` does.

    Args:
        python: runs a script in a separate process.
        exported: a folder in the folder of a causal model, named after the format.
    """
    examples = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.S)
    [example] = [text for text in examples if f'folder = "runs/quickstart/{exported.name}"' in text]
    assert example.count("\n") <= 25
    example = example.replace(f"runs/quickstart/{exported.name}", str(exported)).replace("Return the", "the quick")
    process = python("import sys\n" + "".join(f"sys.modules[{name!r}] = None\n" for name in without) + example)
    assert process.returncode == 0, process.stderr

    model, tokenizer = MiniForCausalLM.from_pretrained(exported.parent), AutoTokenizer.from_pretrained(exported.parent)
    inputs = tokenizer("the quick", return_tensors="pt")
    model.generation_config.eos_token_id = None
    ids = model.generate(inputs["input_ids"], do_sample=False, max_new_tokens=40)[0]
    assert process.stdout.rstrip("\n") == tokenizer.decode(ids, skip_special_tokens=True).rstrip("\n")
