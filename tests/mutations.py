"""Breaks the code on purpose, one way at a time in a copy, and shows which test notices: `make mutations`.

Fails if a mutation is noticed neither by the tests of this project nor by those of transformers.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm


REPOSITORY = Path(__file__).parents[1]
NAMES = ["modeling_mini", "configuration_mini", "registration", "arguments", "training", "repository", "verification"]
MODEL, CONFIG, REGISTRATION, ARGUMENTS, TRAINING, REPOSITORY_CLASS, VERIFICATION = (
    f"modeling_mini/{name}.py" for name in NAMES
)
ERRORS = "modeling_mini/errors.py"
DATA = "modeling_mini/data.py"
PACKING = "modeling_mini/packing.py"
PROMPTED = "modeling_mini/prompted.py"
FILL_MASK = "modeling_mini/tasks/fill_mask.py"
CLASSIFICATION = "modeling_mini/tasks/text_classification.py"
ANSWERING = "modeling_mini/tasks/question_answering.py"
OURS = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
# Most mutations are noticed here, and in seconds: the start of test processes would take longer.
QUICK = [
    f"tests/test_{name}.py"
    for name in (
        "capabilities",
        "tasks",
        "registration",
        "configuration",
        "parity",
        "equivalences",
        "loss",
        "generation",
        "loading",
        "properties",
        "compatibility",
        "hub_saving",
        "hub",
        "training",
    )
]
# The golden losses notice every change of a number, and say nothing of what went wrong.
ALL_OURS = (*OURS, "-n", "2", "--deselect", "tests/test_golden.py", "tests")
THEIRS = ("tests/conformance/run.py", "--models", "mini", "--pytest", "-x", "-k")


class Mutation(NamedTuple):
    what: str
    file: str
    old: str
    new: str


MUTATIONS = [
    Mutation(
        "attention drops `**kwargs`",
        MODEL,
        "            scaling=self.scaling,\n            **kwargs,\n        )\n        output",
        "            scaling=self.scaling,\n        )\n        output",
    ),
    Mutation(
        "layer drops `**kwargs`",
        MODEL,
        "attention_mask, past_key_values, **kwargs)[0]",
        "attention_mask, past_key_values)[0]",
    ),
    Mutation(
        "causal head drops `**kwargs`",
        MODEL,
        "inputs_embeds, use_cache=use_cache, **kwargs\n",
        "inputs_embeds, use_cache=use_cache\n",
    ),
    Mutation(
        "trunk without `post_init`",
        MODEL,
        "        self.gradient_checkpointing = False\n        self.post_init()\n",
        "        self.gradient_checkpointing = False\n",
    ),
    Mutation(
        "language models without `post_init`",
        MODEL,
        "bias=config.lm_head_bias)\n        self.post_init()\n",
        "bias=config.lm_head_bias)\n",
    ),
    Mutation(
        "question answering without `post_init`",
        MODEL,
        "self.qa_outputs = nn.Linear(config.hidden_size, 2)\n        self.post_init()\n",
        "self.qa_outputs = nn.Linear(config.hidden_size, 2)\n",
    ),
    Mutation(
        "position table in a buffer",
        MODEL,
        "            positions = sinusoidal_positions(position_ids, self.config.hidden_size)\n",
        "            if not hasattr(self, 'table'):\n"
        "                table = sinusoidal_positions(torch.arange(2048), self.config.hidden_size)\n"
        "                self.register_buffer('table', table.to(self.embed_tokens.weight.dtype), persistent=False)\n"
        "            positions = self.table[position_ids]\n",
    ),
    Mutation("positions formed in float32", MODEL, "else torch.float64", "else torch.float32"),
    Mutation(
        "positions ignore the mask",
        MODEL,
        "if attention_mask is not None and attention_mask.ndim == 2:\n        positions",
        "if False:\n        positions",
    ),
    Mutation("sine and cosine exchanged", MODEL, "(angles.sin(), angles.cos())", "(angles.cos(), angles.sin())"),
    Mutation(
        "embedding not scaled",
        MODEL,
        "hidden_states * self.config.hidden_size**0.5 + positions",
        "hidden_states + positions",
    ),
    Mutation("embedding starts at 0.02", MODEL, "std=self.config.hidden_size**-0.5", "std=0.02"),
    Mutation(
        "residual projections start at full scale",
        MODEL,
        "self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)",
        "self.config.initializer_range",
    ),
    Mutation("each pipeline stage adds positions", MODEL, 'if hasattr(self.layers[0], "self_attn"):', "if True:"),
    Mutation(
        "`_no_split_modules` unset", MODEL, '_no_split_modules = ["MiniDecoderLayer"]', "_no_split_modules = None"
    ),
    Mutation(
        "`_skip_keys_device_placement` unset",
        MODEL,
        '_skip_keys_device_placement = ["cache", "past_key_values"]',
        "_skip_keys_device_placement = None",
    ),
    Mutation(
        "no gradient checkpointing",
        MODEL,
        "supports_gradient_checkpointing = True",
        "supports_gradient_checkpointing = False",
    ),
    Mutation("no sdpa", MODEL, "_supports_sdpa = True", "_supports_sdpa = False"),
    Mutation("no flash attention", MODEL, "_supports_flash_attn = True", "_supports_flash_attn = False"),
    Mutation("no flex attention", MODEL, "_supports_flex_attn = True", "_supports_flex_attn = False"),
    Mutation(
        "no attention backend", MODEL, "_supports_attention_backend = True", "_supports_attention_backend = False"
    ),
    Mutation("attentions not recorded", MODEL, ', "attentions": MiniAttention}', "}"),
    Mutation(
        "attention always calls itself causal", MODEL, "self.is_causal = config.is_causal", "self.is_causal = True"
    ),
    Mutation("masked LM stays causal", MODEL, "        config.is_causal = False\n", ""),
    Mutation(
        "eager attention forgets the mask", MODEL, "        scores = scores + attention_mask\n", "        pass\n"
    ),
    Mutation("packed documents see each other", MODEL, "            and_mask_function=document_mask,\n", ""),
    Mutation("cache under its old name only", MODEL, 'CACHE_NAME = "cache" if', 'CACHE_NAME = "past_key_values" if'),
    Mutation(
        "hidden states by keyword to the layer",
        MODEL,
        "                hidden_states,\n                attention_mask=mask,",
        "                hidden_states=hidden_states,\n                attention_mask=mask,",
    ),
    Mutation("head not tied", MODEL, '    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}\n', ""),
    Mutation(
        "no tensor parallel plan for the head", MODEL, '    _tp_plan = {"lm_head": "colwise_gather_output"}\n', ""
    ),
    Mutation("no sharding plan for the head", MODEL, '    _fsdp_plan = {"lm_head": "keep_full_weight"}\n', ""),
    Mutation(
        "no pipeline plan for the head", MODEL, '    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}\n', ""
    ),
    Mutation(
        "output projection not in the tensor parallel plan",
        CONFIG,
        '        "layers.*.self_attn.o_proj": "rowwise",\n',
        "",
    ),
    Mutation("embedding not in the sharding plan", CONFIG, '        "embed_tokens": "free_full_weight",\n', ""),
    Mutation(
        "not a direct `GenerationMixin`",
        MODEL,
        "class MiniForCausalLM(MiniLanguageModel, GenerationMixin):",
        "class MiniForCausalLM(MiniLanguageModel):",
    ),
    Mutation(
        "`logits_to_keep` ignored", MODEL, "self.lm_head(hidden_states[:, kept, :])", "self.lm_head(hidden_states)"
    ),
    Mutation(
        "chunked loss drops `num_items_in_batch`",
        MODEL,
        "loss_divisor(targets, num_items_in_batch)\n        return loss",
        "loss_divisor(targets, None)\n        return loss",
    ),
    Mutation(
        "token classification drops `num_items_in_batch`",
        MODEL,
        "loss = self.loss_function(logits, labels, self.config, **kwargs)",
        "loss = self.loss_function(logits, labels, self.config)",
    ),
    Mutation(
        "sequence loss takes `num_items_in_batch`",
        MODEL,
        "the wrong divisor.\n    accepts_loss_kwargs = False\n",
        "the wrong divisor.\n",
    ),
    Mutation("`shift_labels` ignored", MODEL, 'targets = kwargs.get("shift_labels")', "targets = None"),
    Mutation("labels not shifted", MODEL, "nn.functional.pad(labels[..., 1:], (0, 1), value=IGNORED_LABEL)", "labels"),
    Mutation(
        "all logits at once in training",
        MODEL,
        "rows = max(1, LOGITS_PER_CHUNK // self.out_features)",
        "rows = max(1, labels.shape[0])",
    ),
    Mutation("a chunk of logits outlives the next", MODEL, "            del gradient  # or", "            pass  # or"),
    Mutation(
        "gradient of the head rounded to bf16",
        MODEL,
        "SummedNLL.apply(hidden_states, self.weight, self.bias,",
        "SummedNLL.apply(hidden_states, self.weight.to(hidden_states.dtype), self.bias,",
    ),
    Mutation(
        "gradient of the loss scaled in place",
        MODEL,
        "(gradient * output_gradient).to(dtype)",
        "gradient.mul_(output_gradient).to(dtype)",
    ),
    Mutation(
        "classifier reads padding",
        MODEL,
        "        weights = token_mask.unsqueeze(-1)",
        "        weights = torch.ones_like(token_mask).unsqueeze(-1)",
    ),
    Mutation(
        "generates when bidirectional",
        MODEL,
        '        if not self.config.is_causal:\n            raise ValueError(\n                "This model was',
        '        if False:\n            raise ValueError(\n                "This model was',
    ),
    Mutation(
        "code not saved with the weights",
        MODEL,
        'MiniForTokenClassification.register_for_auto_class("AutoModelForTokenClassification")\n',
        "",
    ),
    Mutation(
        "`auto_map` names one head less", CONFIG, '    "AutoModelForMaskedLM": "modeling_mini.MiniForMaskedLM",\n', ""
    ),
    Mutation(
        "config types unchecked",
        CONFIG,
        "from difflib import",
        "from __future__ import annotations\n\nfrom difflib import",
    ),
    Mutation(
        "cache returned by evaluation",
        CONFIG,
        'keys_to_ignore_at_inference = ["cache", "past_key_values"]',
        "keys_to_ignore_at_inference = []",
    ),
    Mutation("overrides at loading unchecked", CONFIG, "        config.validate()\n", ""),
    Mutation(
        "Trainer not told of the causal head",
        REGISTRATION,
        '[modeling_mini.MiniConfig.model_type] = "MiniForCausalLM"',
        '["none"] = "MiniForCausalLM"',
    ),
    Mutation(
        "registration does not wait for modeling_layers",
        REGISTRATION,
        "_AfterImport(_AUTO_MODELS, lambda _: importlib.import_module(_LAYERS)).watch()",
        "_AfterImport(_AUTO_MODELS, lambda _: importlib.import_module(_OUR_MODELS)).watch()",
    ),
    Mutation(
        "registration is used up by a module that is only looked for",
        REGISTRATION,
        "        others = (",
        "        sys.meta_path.remove(self)\n        others = (",
    ),
    Mutation(
        "rounding makes Muon's singular values grow", "modeling_mini/optim.py", "CUSHION = 1.01", "CUSHION = 1.0"
    ),
    Mutation(
        "hub: the code of FSDP2's class is saved",
        MODEL,
        'if cls.__module__.startswith("torch."):',
        "if False:",
    ),
    Mutation(
        "hub: no code above the Trainer's checkpoints",
        MODEL,
        "if is_checkpoint and self",
        "if False and self",
    ),
    Mutation(
        "hub: a config does not bring the models' code",
        CONFIG,
        "    from .modeling_mini import MiniModel  # noqa: F401\n",
        "    pass\n",
    ),
    Mutation(
        "hub: a format of the future is opened",
        CONFIG,
        "1 <= format_version <= FORMAT_VERSION",
        "1 <= format_version",
    ),
    Mutation(
        "hub: the format is judged after the fields",
        CONFIG,
        '_require_known_format(config_dict.get("format_version", FORMAT_VERSION))  # before',
        "pass  # before",
    ),
    Mutation(
        "hub: the token is pickled",
        ARGUMENTS,
        '{**self.__dict__, "hub_token": None}',
        "{**self.__dict__}",
    ),
    Mutation(
        "hub: the token is printed",
        TRAINING,
        "shlex.join([*without_token(command), ",
        "shlex.join([*command, ",
    ),
    Mutation(
        "hub: other bits are taken for the same",
        VERIFICATION,
        "if not _same_bits(expected.get(name), found.get(name))",
        "if name not in found",
    ),
    Mutation(
        "hub: no second attempt",
        REPOSITORY_CLASS,
        "if attempt == attempts or not _may_pass(error):",
        "if True:",
    ),
    Mutation(
        "hub: a pull request is tried again",
        REPOSITORY_CLASS,
        "attempts=1 if self.create_pr or parent else ATTEMPTS",
        "attempts=1 if parent else ATTEMPTS",
    ),
    Mutation(
        "hub: shards of the model before stay",
        REPOSITORY_CLASS,
        "*(CommitOperationDelete(name) for name in stale),",
        "",
    ),
    Mutation(
        "hub: a pickle in the repository is overlooked",
        REPOSITORY_CLASS,
        "            refuse_files(present, self.id)\n",
        "",
    ),
    Mutation(
        "hub: a public repository takes private weights",
        REPOSITORY_CLASS,
        "if wanted and not is_private:",
        "if False:",
    ),
    Mutation(
        "hub: a commit in between is overwritten unseen",
        REPOSITORY_CLASS,
        "                parent_commit=parent or info.sha,\n",
        "",
    ),
    Mutation(
        "hub: names are not checked",
        REPOSITORY_CLASS,
        "    if not is_valid:",
        "    if False:",
    ),
    Mutation(
        "hub: the verifying process gets the token",
        VERIFICATION,
        'own = ("HF_", "HUGGING", "TRANSFORMERS_")',
        'own = ("HF_HOME", "HF_HUB", "TRANSFORMERS_")',
    ),
    Mutation(
        "hub: upgrade builds upon a push in between",
        REPOSITORY_CLASS,
        "parent_commit=parent or info.sha",
        "parent_commit=info.sha",
    ),
    Mutation(
        "hub: tokens in errors",
        ERRORS,
        're.sub(r"\\bhf_\\w+", "hf_***", " ".join(str(error).split()))',
        '" ".join(str(error).split())',
    ),
    Mutation(
        "logits where there is no label",
        MODEL,
        "        if not is_tracing(labels):",
        "        if False:",
    ),
    Mutation(
        "task: prompts are learnt",
        PACKING,
        "[IGNORED_LABEL] * length + ids[length:] for",
        "ids for",
    ),
    Mutation(
        "task: examples of a row see each other",
        PACKING,
        "np.concatenate([np.arange(len(ids)) for ids, _ in row] + [np.arange(room)])",
        "np.arange(self.block_size)",
    ),
    Mutation("task: prompts are padded on the right", PROMPTED, 'padding_side="left"', 'padding_side="right"'),
    Mutation(
        "task: a cut target has an end",
        PROMPTED,
        "ids[:longest] if len(ids) > longest else [*ids, self.tokenizer.eos_token_id]",
        "[*ids[:longest], self.tokenizer.eos_token_id]",
    ),
    Mutation(
        "task: validation is masked anew",
        FILL_MASK,
        'if name != "training":',
        "if False:",
    ),
    Mutation(
        "task: labels are numbered anew",
        CLASSIFICATION,
        "if set(self.labels) == set(config.label2id):",
        "if False:",
    ),
    Mutation(
        "task: half an answer in a window counts",
        ANSWERING,
        "if not inside or character_spans[inside[0]][0] > start or character_spans[inside[-1]][1] < end:",
        "if not inside:",
    ),
    Mutation("task: windows are padded on the left", ANSWERING, 'padding_side = "right"', 'padding_side = "left"'),
    Mutation(
        "task: windows are taken for examples",
        ANSWERING,
        'example = window["example"]',
        "example = place % len(examples)",
    ),
    Mutation("task: spans end before they start", ANSWERING, "(width >= 0) & ", ""),
    Mutation("task: blank lines shift the line that is named", DATA, "full[index]", "full[0] + index"),
    Mutation(
        "task: an answer may stand elsewhere",
        ANSWERING,
        'if example["context"] and example["context"][start : start + len(text)] != text:',
        "if False:",
    ),
    Mutation(
        "task: questions on one context are divided",
        DATA,
        "_divide_at_random(examples, args, group_column)",
        "_divide_at_random(examples, args, None)",
    ),
    Mutation(
        "task: training reads the test split",
        DATA,
        "    names = {}\n    for role in roles:",
        '    names = {}\n    for role in (*roles, "test"):',
    ),
    Mutation(
        "task: one hidden label of a Hub data set stops a run",
        DATA,
        "if problem is not None and self.is_local:",
        "if problem is not None:",
    ),
    Mutation(
        "task: labels are those of what is left to train on",
        CLASSIFICATION,
        "config.id2label = dict(enumerate(self.labels))",
        'config.id2label = dict(enumerate(sorted(set(train["label"]))))',
    ),
    Mutation("task: no answer wherever", ANSWERING, "if self.args.unanswerable or not found:", "if True:"),
    Mutation(
        "task: a blank line has no line of its own",
        "modeling_mini/prediction.py",
        'else ""\n',
        "else next(predictions)\n",
    ),
    Mutation(
        "task: a checkpoint of the Hub forgets what it was trained with",
        "modeling_mini/report.py",
        '"encoding": {name: getattr(data_args, name) for name in ENCODING_ARGUMENTS}',
        '"encoding": {}',
    ),
    Mutation(
        "arguments: the command line drops the overrides of the recipe",
        ARGUMENTS,
        "if overrides := overrides | model_arguments.overrides():",
        "if overrides := model_arguments.overrides() or overrides:",
    ),
    Mutation(
        "optim: each device orthogonalises its own part",
        "modeling_mini/optim.py",
        "[whole(update) for update in updates]",
        "[update.to_local() if isinstance(update, DTensor) else update for update in updates]",
    ),
    Mutation(
        "fsdp: a run ends without its whole model",
        "modeling_mini/divided.py",
        "if not (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):",
        "if not trainer.is_deepspeed_enabled:",
    ),
    Mutation(
        "fsdp: processes without weights have no addresses either",
        TRAINING,
        'if model.device.type == "meta":',
        "if False:",
    ),
    Mutation(
        "checkpoints: a process that wrote nothing is not missed",
        "modeling_mini/checkpoints.py",
        'return noted["args"]["world_size"] if noted else',
        "return",
    ),
    Mutation(
        "streaming: a stream ends",
        PACKING,
        "shuffled.repeat(None)",
        "shuffled",
    ),
    Mutation(
        "streaming: small files come more often",
        PACKING,
        "shuffled = rows.shuffle(seed=args.split_seed, buffer_size=args.shuffle_buffer)\n"
        "        return EncodedData(shuffled.repeat(None), args.block_size)",
        "shuffled = rows.repeat(None).shuffle(seed=args.split_seed, buffer_size=args.shuffle_buffer)\n"
        "        return EncodedData(shuffled, args.block_size)",
    ),
    Mutation(
        "task: pipelines of other models are taken over",
        "modeling_mini/pipelines.py",
        "if model.config.model_type != MiniConfig.model_type:",
        "if False:",
    ),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="mutations whose description has this in it")
    arguments = parser.parse_args()
    mutations = [mutation for mutation in MUTATIONS if arguments.only in mutation.what]
    if not mutations:
        parser.error(f"no mutation has {arguments.only!r} in its description")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        copy_repository(copy)
        if failure := first_failure(copy, *ALL_OURS) or first_failure(copy, *THEIRS, "Test"):
            raise SystemExit(f"{failure} fails without a mutation; mend it first.")
        rows = [(mutation.what, noticed_by(mutation, copy)) for mutation in tqdm(mutations, unit="mutation")]
    print("| broken | the first test that fails |\n|---|---|")
    for what, test in rows:
        print(f"| {what} | {test or 'none'} |")
    return int(not all(test for _, test in rows))


def copy_repository(target: Path) -> None:
    """Every file that git knows or would add, and the tests of transformers that were downloaded before."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in names.split("\0")[:-1]:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, target / name)
    (REPOSITORY / ".cache").mkdir(exist_ok=True)
    (target / ".cache").symlink_to(REPOSITORY / ".cache")


def noticed_by(mutation: Mutation, copy: Path) -> str | None:
    """The first test that fails with the mutation in the copy: the quick ones, then all, then theirs."""
    path = copy / mutation.file
    original = path.read_text()
    if original.count(mutation.old) != 1:
        raise SystemExit(f"{mutation.file} has {original.count(mutation.old)} places for {mutation.what!r}, not one.")
    path.write_text(original.replace(mutation.old, mutation.new))
    try:
        return (
            first_failure(copy, *OURS, "-m", "not slow", *QUICK)
            or first_failure(copy, *ALL_OURS)
            or first_failure(copy, *THEIRS, "Test")
        )
    finally:
        path.write_text(original)


def first_failure(copy: Path, *command: str) -> str | None:
    """Run pytest, or a script that does, and return the name of the test that its summary gives first."""
    # The copy comes before the installed package, in the processes that tests start as well.
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True, check=False
    )
    if result.returncode == 0:
        return None
    found = re.search(r"^(?:SUB)?(?:FAILED|ERROR)(?:\[.*?\])? tests/([^\[\s]+)", result.stdout, re.MULTILINE)
    if found:
        return f"`{found[1].replace('conformance/', '')}`"
    if "modeling_mini" in result.stderr + result.stdout:
        return "the package cannot be imported"
    raise SystemExit(f"{' '.join(command)} failed without a failing test:\n{result.stdout}{result.stderr}")


if __name__ == "__main__":
    raise SystemExit(main())
