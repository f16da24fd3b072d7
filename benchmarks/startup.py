"""Seconds to import, load and generate a first token, compared with GPT-2 and Llama of transformers in the same shape.

    python benchmarks/startup.py           # 6 layers x 384; a few minutes

Each measurement runs in a separate process, and the models alternate. "without the package" is our checkpoint on a
machine that has transformers alone: the checkpoint carries the code. Writes startup.json and startup.png.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from peers import MODELS, build, parser_with_shape, shape_of
from results import plot_bars, ratios, save, spread
from tqdm import tqdm

from modeling_mini.tables import markdown_table


STEPS = ("import", "load", "first token")

IMPORT = """
import json, time
times = [time.perf_counter()]
import transformers
times.append(time.perf_counter())
import modeling_mini
times.append(time.perf_counter())
print(json.dumps([time - before for before, time in zip(times, times[1:])]))
"""
FIRST_TOKEN = """
import json, time
start = time.perf_counter()
{imports}
from transformers import AutoModelForCausalLM
times = [time.perf_counter()]
model = AutoModelForCausalLM.from_pretrained({folder!r}, trust_remote_code=True)
times.append(time.perf_counter())
import torch
model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=1, do_sample=False)
times.append(time.perf_counter())
print(json.dumps([time - before for before, time in zip([start, *times], times)]))
"""


def main() -> None:
    parser = parser_with_shape(__doc__)
    parser.set_defaults(rounds=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        results = measure(args, Path(temporary))
    groups = {step: {name: times[step] for name, times in results["models"].items()} for step in STEPS}
    save(args.output, "startup", results, plot_bars("seconds", groups))
    sys.stdout.write(table(results) + "\n")


def measure(args, folder: Path) -> dict[str, dict]:
    """Seconds in each round: `{"import": [[transformers, ours], ...], "models": {"model": {"step": [...]}}}`."""
    for name in MODELS:
        build(name, **shape_of(args, 8192, 256)).save_pretrained(folder / name)
    models = {name: FIRST_TOKEN.format(imports="", folder=str(folder / name)) for name in MODELS[1:]}
    ours = str(folder / MODELS[0])
    models[MODELS[0]] = FIRST_TOKEN.format(imports="import modeling_mini", folder=ours)
    models["without the package"] = FIRST_TOKEN.format(imports="", folder=ours)
    results = {"import": [], "models": {name: {step: [] for step in STEPS} for name in models}}
    for _ in tqdm(range(args.rounds), unit="round"):
        results["import"].append(run(IMPORT, folder))
        for name, code in models.items():
            for step, seconds in zip(STEPS, run(code, folder), strict=True):
                results["models"][name][step].append(seconds)
    return results


def run(code: str, folder: Path) -> list[float]:
    """The numbers in the last line that a script prints."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(folder / "modules")}
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def table(results: dict[str, dict]) -> str:
    alone, added = zip(*results["import"], strict=True)
    added = [1000 * seconds for seconds in added]
    rows = [["seconds", *STEPS, "total", "modeling_mini total / this total"]]
    totals = {
        name: [sum(steps) for steps in zip(*times.values(), strict=True)] for name, times in results["models"].items()
    }
    for name, times in results["models"].items():
        row = [name, *(spread(times[step], ".2f") for step in STEPS), spread(totals[name], ".2f")]
        rows.append([*row, ratios(totals["modeling_mini"], totals[name])])
    return (
        f"import transformers: {spread(alone, '.2f')} s; importing modeling_mini adds {spread(added, '.1f')} ms.\n\n"
        + markdown_table(rows)
    )


if __name__ == "__main__":
    main()
