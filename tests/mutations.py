"""Breaks the code on purpose, one way at a time in a copy, and shows which test notices: `make mutations`.

Fails if a mutation is noticed neither by the tests of this project nor by those of transformers.
"""

import argparse
import ast
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

from tqdm import tqdm


REPOSITORY = Path(__file__).parents[1]
PACKAGE = "modeling_mini"
OURS = ("-m", "pytest", "-x", "-q", "-p", "no:cacheprovider")
# The golden losses notice every change of a number, but do not say what is wrong.
ALL_OURS = (*OURS, "--deselect", "tests/model/test_golden.py", "tests")
LIMIT = 600  # seconds for the tests that are expected to notice a mutation; with it, one of them may never end
THEIRS = ("tests/conformance/run.py", "--models", "mini", "--pytest", "-x", "-k")


class Mutation(NamedTuple):
    """One defect: source text of a file, which occurs once within `scope` or the whole file, and what replaces it.

    `tests` is the file below `tests/` that is expected to notice it, and is run first.
    """

    what: str
    file: str
    scope: str
    old: str
    new: str
    tests: str


# File of the package, and file of tests: what is broken, the function or class (or "" for the whole file), old, new.
DEFECTS = {
    ("modeling_mini.py", "model/test_equivalences.py"): [
        ("attention drops `**kwargs`", "MiniAttention.forward", "            **kwargs,\n        )", "        )"),
        ("layer drops `**kwargs`", "MiniDecoderLayer.forward", ", **kwargs)[0]", ")[0]"),
        ("trunk without `post_init`", "MiniModel.__init__", "self.post_init()", "pass"),
        (
            "position table in a buffer",
            "MiniModel.forward",
            "positions = sinusoidal_positions(position_ids, self.config.hidden_size)\n",
            "if not hasattr(self, 'table'):\n"
            "                table = sinusoidal_positions(torch.arange(2048), self.config.hidden_size)\n"
            "                table = table.to(self.embed_tokens.weight.dtype)\n"
            "                self.register_buffer('table', table, persistent=False)\n"
            "            positions = self.table[position_ids]\n",
        ),
        (
            "no gradient checkpointing",
            "MiniPreTrainedModel",
            "supports_gradient_checkpointing = True",
            "supports_gradient_checkpointing = False",
        ),
        ("no flex attention", "MiniPreTrainedModel", "_supports_flex_attn = True", "_supports_flex_attn = False"),
        ("attentions not recorded", "MiniPreTrainedModel", ', "attentions": MiniAttention}', "}"),
        (
            "packed documents see each other",
            "MiniModel.forward",
            "and_mask_function=mask_function",
            "and_mask_function=None",
        ),
        (
            "`logits_to_keep` ignored",
            "MiniLanguageModel._logits_and_loss",
            "hidden_states[:, positions, :]",
            "hidden_states",
        ),
    ],
    ("modeling_mini.py", "model/test_generation.py"): [
        (
            "causal head drops `**kwargs`",
            "MiniForCausalLM.forward",
            "use_cache=use_cache, **kwargs",
            "use_cache=use_cache",
        ),
        (
            "generates when bidirectional",
            "MiniForCausalLM.prepare_inputs_for_generation",
            "if not self.config.is_causal:",
            "if False:",
        ),
    ],
    ("modeling_mini.py", "model/test_parity.py"): [
        ("language models without `post_init`", "MiniLanguageModel.__init__", "self.post_init()", "pass"),
        ("positions formed in float32", "sinusoidal_positions", "else torch.float64", "else torch.float32"),
        (
            "sine and cosine exchanged",
            "sinusoidal_positions",
            "(angles.sin(), angles.cos())",
            "(angles.cos(), angles.sin())",
        ),
        ("embedding not scaled", "MiniModel.scaled_embeddings", " * self.config.hidden_size**0.5", ""),
        ("embedding starts at 0.02", "MiniPreTrainedModel._init_weights", "self.config.hidden_size**-0.5", "0.02"),
        (
            "residual projections start at full scale",
            "MiniPreTrainedModel._init_weights",
            " / math.sqrt(2 * self.config.num_hidden_layers)",
            "",
        ),
        ("no sdpa", "MiniPreTrainedModel", "_supports_sdpa = True", "_supports_sdpa = False"),
        (
            "attention always calls itself causal",
            "MiniAttention.__init__",
            "self.is_causal = config.is_causal",
            "self.is_causal = True",
        ),
        ("masked LM stays causal", "MiniForMaskedLM.__init__", "config.is_causal = False", "pass"),
        ("eager attention forgets the mask", "eager_attention_forward", "scores = scores + attention_mask", "pass"),
        ("head not tied", "MiniLanguageModel", '{"lm_head.weight": "model.embed_tokens.weight"}', "None"),
    ],
    ("modeling_mini.py", "model/test_loading.py"): [
        ("question answering without `post_init`", "MiniForQuestionAnswering.__init__", "self.post_init()", "pass"),
    ],
    ("masking_mini.py", "model/test_equivalences.py"): [
        (
            "positions ignore the mask",
            "default_positions",
            "if attention_mask is not None and attention_mask.ndim == 2",
            "if False",
        ),
        ("cache under its old name only", "", 'CACHE_NAME = "cache" if', 'CACHE_NAME = "past_key_values" if'),
    ],
    ("modeling_mini.py", "model/test_capabilities.py"): [
        (
            "each pipeline stage adds positions",
            "MiniModel.forward",
            'if hasattr(self.layers[0], "self_attn"):',
            "if True:",
        ),
        (
            "`_no_split_modules` unset",
            "MiniPreTrainedModel",
            '_no_split_modules = ["MiniDecoderLayer"]',
            "_no_split_modules = None",
        ),
        (
            "`_skip_keys_device_placement` unset",
            "MiniPreTrainedModel",
            '_skip_keys_device_placement = ["cache", "past_key_values"]',
            "_skip_keys_device_placement = None",
        ),
        ("no flash attention", "MiniPreTrainedModel", "_supports_flash_attn = True", "_supports_flash_attn = False"),
        (
            "no attention backend",
            "MiniPreTrainedModel",
            "_supports_attention_backend = True",
            "_supports_attention_backend = False",
        ),
        (
            "hidden states by keyword to the layer",
            "MiniModel.forward",
            "                hidden_states,\n",
            "                hidden_states=hidden_states,\n",
        ),
        ("no tensor parallel plan for the head", "MiniLanguageModel", '{"lm_head": "colwise_gather_output"}', "{}"),
        ("no sharding plan for the head", "MiniLanguageModel", '{"lm_head": "keep_full_weight"}', "{}"),
        ("no pipeline plan for the head", "MiniLanguageModel", '{"lm_head": (["hidden_states"], ["logits"])}', "{}"),
        (
            "not a direct `GenerationMixin`",
            "MiniForCausalLM",
            "(MiniLanguageModel, GenerationMixin)",
            "(MiniLanguageModel)",
        ),
    ],
    ("configuration_mini.py", "model/test_capabilities.py"): [
        (
            "output projection not in the tensor parallel plan",
            "MiniConfig",
            '        "layers.*.self_attn.o_proj": "rowwise",\n',
            "",
        ),
        ("embedding not in the sharding plan", "MiniConfig", '        "embed_tokens": "free_full_weight",\n', ""),
        (
            "cache returned by evaluation",
            "MiniConfig",
            'keys_to_ignore_at_inference = ["cache", "past_key_values"]',
            "keys_to_ignore_at_inference = []",
        ),
    ],
    ("modeling_mini.py", "model/test_loss.py"): [
        (
            "chunked loss drops `num_items_in_batch`",
            "MiniLanguageModel._logits_and_loss",
            "targets), loss_divisor(targets, num_items)",
            "targets), loss_divisor(targets, None)",
        ),
        (
            "logits are missing in a training loop of one's own",
            "MiniLanguageModel._logits_and_loss",
            "self.training and num_items is not None",
            "self.training",
        ),
        (
            "the Trainer's training computes logits",
            "MiniLanguageModel._logits_and_loss",
            "self.training and num_items is not None",
            "False",
        ),
        (
            "token classification drops `num_items_in_batch`",
            "MiniForTokenClassification.forward",
            "self.config, **kwargs)",
            "self.config)",
        ),
        (
            "sequence loss takes `num_items_in_batch`",
            "MiniForSequenceClassification",
            "accepts_loss_kwargs = False",
            "pass",
        ),
        ("`shift_labels` ignored", "MiniForCausalLM.forward", 'kwargs.get("shift_labels")', "None"),
        (
            "labels not shifted",
            "MiniForCausalLM.forward",
            "nn.functional.pad(labels[..., 1:], (0, 1), value=IGNORED_LABEL)",
            "labels",
        ),
        (
            "classifier reads padding",
            "MiniForSequenceClassification._pool",
            "weights = token_mask",
            "weights = torch.ones_like(token_mask)",
        ),
        (
            "`first_last_mean` without the bag of words",
            "MiniForSequenceClassification.forward",
            "hidden_states + embeddings.to(hidden_states.device)",
            "hidden_states",
        ),
        (
            "the bag of words without token dropout",
            "MiniForSequenceClassification.forward",
            "self.model.scaled_embeddings(inputs_embeds)",
            "inputs_embeds * self.config.hidden_size**0.5",
        ),
    ],
    ("loss_mini.py", "model/test_loss.py"): [
        (
            "all logits at once in training",
            "MiniLMHead.forward",
            "LOGITS_PER_CHUNK // self.out_features",
            "labels.shape[0]",
        ),
        ("a chunk of logits outlives the next", "SummedNLL.forward", "del gradient", "pass"),
        (
            "gradient of the head rounded to bf16",
            "MiniLMHead.forward",
            "self.weight, self.bias,",
            "self.weight.to(hidden_states.dtype), self.bias,",
        ),
        (
            "gradient of the loss scaled in place",
            "SummedNLL.backward",
            "(gradient * output_gradient)",
            "gradient.mul_(output_gradient)",
        ),
        ("logits where there is no label", "MiniLMHead.forward", "if not is_tracing(labels):", "if False:"),
    ],
    ("modeling_mini.py", "model/test_registration.py"): [
        (
            "code not saved with the weights",
            "MiniPreTrainedModel.__init_subclass__",
            "if cls.__name__ in AUTO_CLASSES:",
            'if cls.__name__ in AUTO_CLASSES and "Token" not in cls.__name__:',
        ),
    ],
    ("configuration_mini.py", "model/test_registration.py"): [
        (
            "`auto_map` names one head less",
            "",
            "for model_class, auto_class in AUTO_CLASSES.items()",
            'for model_class, auto_class in AUTO_CLASSES.items() if "Masked" not in auto_class',
        ),
    ],
    ("configuration_mini.py", "model/test_configuration.py"): [
        (
            "config types unchecked",
            "",
            "from difflib import",
            "from __future__ import annotations\n\nfrom difflib import",
        ),
        ("overrides at loading unchecked", "MiniConfig.from_dict", "config.validate()", "pass"),
    ],
    ("registration.py", "model/test_registration.py"): [
        (
            "Trainer not told of the causal head",
            "_register_models",
            "[modeling_mini.MiniConfig.model_type]",
            '["none"]',
        ),
        (
            "registration does not wait for modeling_layers",
            "register",
            "importlib.import_module(_LAYERS)",
            "importlib.import_module(_OUR_MODELS)",
        ),
        (
            "registration: only one object of the transformers module has our classes",
            "_register_models",
            'setattr(type(sys.modules["transformers"]), name, model_class)',
            'setattr(sys.modules["transformers"], name, model_class)',
        ),
        (
            "registration is used up by a module that is only looked for",
            "_AfterImport.find_spec",
            "        others = (",
            "        sys.meta_path.remove(self)\n        others = (",
        ),
    ],
    ("registration.py", "ecosystem/test_peft.py"): [
        ("PEFT: Llama's gate is a target", "_add_peft_targets", 'if module != "gate_proj"', "if module"),
        (
            "PEFT: the tables of LoRA alone",
            "_add_peft_targets",
            '"TRANSFORMERS_MODELS_TO_"',
            '"TRANSFORMERS_MODELS_TO_LORA"',
        ),
        ("PEFT: adaption prompts change the start", "_add_adaption_prompt", ", o_proj_layer=None", ""),
    ],
    ("modeling_mini.py", "ecosystem/test_peft.py"): [
        (
            "attention called by position",
            "MiniDecoderLayer.forward",
            "self.self_attn(**inputs, **kwargs)",
            "self.self_attn(*inputs.values(), **kwargs)",
        ),
    ],
    ("training/arguments.py", "training/test_arguments.py"): [
        (
            "arguments: the command line drops the overrides of the recipe",
            "parse_arguments",
            "overrides | canonical_overrides(model_arguments.overrides())",
            "canonical_overrides(model_arguments.overrides()) or overrides",
        ),
        (
            "arguments: a recipe changes the layers of a model to fine-tune",
            "parse_arguments",
            '"num_hidden_layers", ',
            "",
        ),
        (
            "arguments: the older `--use_muon` is ignored",
            "_add_use_muon",
            '"muon" if string_to_bool(text) else "adamw"',
            '"adamw"',
        ),
    ],
    ("export/gguf.py", "export/test_gguf.py"): [
        (
            "GGUF: the head keeps the scale of the embedding",
            "tensors",
            "scale if config.tie_word_embeddings else 1.0",
            "1.0",
        ),
        ("GGUF: positions count from 1", "tensors", "torch.arange(table_length", "1 + torch.arange(table_length"),
        ("GGUF: the current folder is imported from", "llama_cpp_logits", "cwd=folder, ", ""),
        ("GGUF: no bos before a text", "_Vocabulary.write", "self.tokenizer.bos_token_id is not None", "False"),
        ("GGUF: tables of tokens lose 4 bits", "tensor_type", 'outtype == "q4_0" and name in', "False and name in"),
        ("GGUF: differences are accepted", "check", "logits[0], expected, limits[key])", "logits[0], expected, 1e9)"),
    ],
    ("cli.py", "project/test_cli.py"): [
        ("arguments: an option with dashes is unknown", "_with_underscores", '.replace("-", "_")', ""),
    ],
    ("serving/chat.py", "serving/test_chat.py"): [
        ("serving: SIGTERM ends an answer, not the chat", "Conversation.answer", "stopped.signal_number !=", "0 =="),
    ],
    ("serving/conversations.py", "serving/test_chat.py"): [
        (
            "serving: a chat never forgets its oldest turns",
            "fit_conversation",
            " and len(kept) > 1:\n",
            " and False:\n",
        ),
        ("serving: an answer is kept without its question", "fit_conversation", 'kept[0]["role"] != "user"', "False"),
    ],
    ("serving/server.py", "serving/test_server_app.py"): [
        ("serving: a stream of beams never ends", "Server.__init__", "num_beams=1, ", ""),
        ("serving: greedy models sample", "Server.__init__", "do_sample is None", "do_sample in (None, False)"),
        ("serving: a stream has no end", "Server._handle", 'text_field != "input"', "False"),
        ("serving: any host name reaches the server", "Server.start_server", "(self.server.config.host)", '("::")'),
    ],
    ("serving/requests.py", "serving/test_requests.py"): [
        ("serving: answers go on after the context", "fit_context", "room, room)", "room, context)"),
        ("serving: a client brings its own template", "", '    "chat_template_kwargs": [{}],\n', ""),
    ],
    ("serving/serve.py", "serving/test_serve.py"): [
        ("serving: an encoder is served", "check_causal", ".is_causal:", ".is_causal and False:"),
    ],
    ("training/optim.py", "training/test_optim.py"): [
        ("optim: rounding makes Muon's singular values grow", "", "CUSHION = 1.01", "CUSHION = 1.0"),
    ],
    ("training/optim.py", "model/test_distributed.py"): [
        (
            "optim: each device orthogonalises its own shard",
            "Muon._update",
            "[whole(update) for update in updates]",
            "[update.to_local() if isinstance(update, DTensor) else update for update in updates]",
        ),
    ],
    ("training/run.py", "training/test_optim.py"): [
        (
            "optim: `--optimizer` does not reach the Trainer",
            "build_trainer",
            "optimizer_of(args).for_trainer(args)",
            "None",
        ),
    ],
    ("training/resuming.py", "training/test_checkpoints.py"): [
        ("run: a checkpoint need not exist", "check_run_of_checkpoint", "checkpoint is not None and", "False and"),
        (
            "resuming: a run of an older version goes on with another optimizer",
            "fixed_arguments",
            'str(args.optimizer == "muon")',
            '"True"',
        ),
    ],
    ("checkpoints.py", "training/test_checkpoints.py"): [
        (
            "checkpoints: a process that wrote nothing is not missed",
            "num_processes",
            "    if recorded is None:\n",
            "    if True:\n",
        ),
    ],
    ("checkpoints.py", "training/test_safety.py"): [
        ("checkpoints: the states are not judged", "checkpoint_defect", "require_harmless(path)", "pass"),
        (
            "checkpoints: the shards are not judged",
            "sharded_defect",
            "require_harmless_shards(part, metadata)",
            "pass",
        ),
    ],
    ("pickles.py", "training/test_safety.py"): [
        (
            "checkpoints: metadata may name any class",
            "_MetadataUnpickler.find_class",
            "if is_dtype or (module, name) in _METADATA_CLASSES:",
            "if True:",
        ),
    ],
    ("training/overrides.py", "training/test_safety.py"): [
        ("overrides: any name passes", "canonical_overrides", "if field not in fields:", "if False:"),
    ],
    ("model_folders.py", "inference/test_checkpoint_faults.py"): [
        ("kernels of others are accepted", "read_config", "    refuse_kernels(fields,", "    _ = (fields,"),
        ("loading: links are followed anywhere", "require_model_folder", "refuse_links(folder, source)", "pass"),
        ("loading: weights may be nan", "check_finite", " if not _is_finite(file.get_tensor(name))", " if False"),
        ("loading: layers of --init_from may be new", "open_model", "name.startswith(trunk) or ", ""),
        ("loading: code of others is saved", "read_config", "remove_references_to_code(config, fields)", "pass"),
    ],
    ("training/states.py", "training/test_states.py"): [
        ("states: shapes are not compared", "_check_parameter", "value.shape != expected", "False"),
        ("states: surplus groups pass", "check_optimizer", "len(groups) != len(own.param_groups)", "False"),
        ("states: a schedule of another length passes", "_is_like", "and len(value) == len(own)", ""),
    ],
    ("training/watching.py", "training/test_watching.py"): [
        ("run: a better score is not pointed out", "log_best", "> max(CLEAR_POINTS, ", "> max(1000, "),
        (
            "run: a score as good is pointed out",
            "log_best",
            "> max(CLEAR_POINTS, 100 * CLEAR_EXAMPLES / num_scored)",
            "> 0",
        ),
        (
            "a stop leaves no checkpoint with --save_strategy best",
            "choose_best_metric",
            "args.save_strategy, args.save_steps = SaveStrategy.STEPS, NEVER",
            "pass",
        ),
    ],
    ("training/building.py", "tasks/test_text_classification.py"): [
        ("labels: a head for other labels is used", "has_other_labels", "start.id2label == config.id2label", "True"),
    ],
    ("data/examples.py", "tasks/test_text_classification.py"): [
        ("labels: single texts where pairs were trained", "require_same_columns", "trained - present", "set()"),
        ("labels: pairs where single texts were trained", "require_same_columns", "present - trained", "set()"),
    ],
    ("inference/predict.py", "tasks/test_text_classification.py"): [
        (
            "labels: a pair for a model of texts",
            "require_columns_of_training",
            "name in columns and name not",
            "name not",
        ),
    ],
    ("tasks/generative_question_answering.py", "tasks/test_question_answering.py"): [
        (
            "answers: a text is a list",
            "GenerativeQuestionAnswering.prepare",
            'in ("string", "large_string")',
            "in ()",
        ),
    ],
    ("training/building.py", "training/test_context.py"): [
        (
            "short documents are not noticed",
            "longest_document",
            "longest = max(longest, ",
            "longest = max(block_size, ",
        ),
    ],
    ("training/run.py", "training/test_training.py"): [
        (
            "the disk is judged after the data",
            "run",
            "count_parameters(config, None if model_args.init_from else 1)",
            "0",
        ),
        (
            "the first process writes before another has checked the folder",
            "run",
            "training_args.distributed_state.wait_for_everyone()",
            "pass",
        ),
    ],
    ("training/locking.py", "training/test_resuming.py"): [
        (
            "locking: a file of others is deleted",
            "_remove_stale",
            "if not START_OF_LOCK.startswith(",
            "if not ''.join(",
        ),
        ("locking: every lock is stale", "_remove_stale", "if not _is_stale(text):", "if False:"),
        ("locking: a lock is stale after the clock was set", "start_of", "if psutil.LINUX:", "if False:"),
        (
            "locking: a lock of before the boot is not stale",
            "_is_same_start",
            'start["boot"] != holder["boot"]',
            "False",
        ),
    ],
    ("training/resuming.py", "training/test_resuming.py"): [
        ("resuming: other rows are trained on", "check_same_rows", "not in (None, fingerprint)", "is False"),
        ("resuming: files of others are overwritten", "check_output_dir", "refuse_files_of_others(folder)", "pass"),
        (
            "resuming: a finished run is trained again from an earlier checkpoint",
            "resume_point",
            "refuse_finished(checkpoint, args, report)",
            "pass",
        ),
        ("resuming: a record of others is overwritten", "", "    REPORT_NAME,\n    RUN_NAME,\n", "    REPORT_NAME,\n"),
        ("resuming: None for an option that was not given", "_difference", "if value is None", "if False"),
        ("resuming: more epochs are not trained", "last_update_of", "else math.inf", "else state.max_steps"),
    ],
    ("training/distributed.py", "training/test_launching.py"): [
        ("fsdp: a run ends without its whole model", "_save_whole_model", "trainer.is_fsdp_enabled or ", ""),
    ],
    ("training/building.py", "training/test_launching.py"): [
        (
            "fsdp: processes without weights have no addresses either",
            "build_model",
            'if model.device.type == "meta":',
            "if False:",
        ),
    ],
    ("modeling_mini.py", "hub/test_hub_saving.py"): [
        (
            "hub: the code of FSDP2's class is saved",
            "MiniPreTrainedModel.__init_subclass__",
            'cls.__module__.startswith("torch.")',
            "False",
        ),
        (
            "hub: no code above the Trainer's checkpoints",
            "MiniPreTrainedModel.save_pretrained",
            "if is_checkpoint and",
            "if False and",
        ),
    ],
    ("configuration_mini.py", "hub/test_hub_saving.py"): [
        (
            "hub: a config does not bring the models' code",
            "",
            "    from .modeling_mini import MiniModel  # noqa: F401\n",
            "    pass\n",
        ),
    ],
    ("configuration_mini.py", "hub/test_compatibility.py"): [
        ("hub: a format of the future is opened", "_require_known_format", " <= FORMAT_VERSION)", ")"),
        (
            "hub: the format is judged after the fields",
            "MiniConfig.from_dict",
            '_require_known_format(config_dict.get("format_version", FORMAT_VERSION))',
            "pass",
        ),
    ],
    ("hub/push.py", "hub/test_compatibility.py"): [
        ("hub: an upgrade leaves out a code file", "", '"*_mini.py"', '"[cm]*_mini.py"'),
    ],
    ("hub/repository.py", "hub/test_compatibility.py"): [
        (
            "hub: upgrade builds upon a push in between",
            "Repository.commit",
            "parent_commit=parent or info.sha",
            "parent_commit=info.sha",
        ),
    ],
    ("training/arguments.py", "hub/test_hub_saving.py"): [
        ("hub: the token is pickled", "MiniTrainingArguments.__getstate__", '"hub_token": None', ""),
    ],
    ("writing.py", "project/test_writing.py"): [
        (
            "a failed block replaces files",
            "complete_files",
            "        yield Path(unfinished)\n",
            "        yield Path(folder)\n",
        ),
        ("JSON is written in place", "write_json", 'path.with_name(f"{path.name}.{os.getpid()}.part")', "path"),
    ],
    ("training/callbacks.py", "training/test_watching.py"): [
        ("run: one row has a margin", "WarnOfRisingLoss.on_evaluate", "(margin or math.inf)", "margin"),
        ("early stopping says nothing", "EarlyStopping.on_evaluate", "if is_over and", "if False and"),
        ("a resumed epoch has another order", "OrderOfEpoch.on_epoch_begin", " + int(state.epoch or 0)", ""),
        (
            "batches by length, the shortest last",
            "order_by_length",
            "(1 + torch.randperm(count - 1, generator=generator)).tolist()",
            "range(1, count)",
        ),
        ("processes with rows of other lengths", "OrderOfEpoch.on_epoch_begin", " * args.world_size", ""),
        ("the longest row comes late", "order_by_length", "rows.insert(0, ", "rows.insert(len(rows), "),
        (
            "the smaller score is the best",
            "rank",
            "value if args.greater_is_better else -value",
            "-value if args.greater_is_better else value",
        ),
        (
            "the training loss before a checkpoint is lost",
            "RunningLoss.on_train_begin",
            "self.trainer._tr_loss += self.loss_sum",
            "pass",
        ),
        (
            "the best of another folder is loaded",
            "find_best",
            "state.best_model_checkpoint = None\n",
            "None\n    if state.best_model_checkpoint is not None:\n        return\n",
        ),
        (
            "processes of FSDP load different best checkpoints",
            "KeepBest.on_evaluate",
            "_checkpoint_folder(args, state.global_step).mkdir(parents=True, exist_ok=True)",
            "pass",
        ),
        (
            "two validation losses",
            "OneValidationLoss.on_log",
            'entry["eval_loss"] = entry["eval_token_loss"]',
            "pass",
        ),
    ],
    ("tasks/batches.py", "tasks/test_fill_mask.py"): [
        (
            "a resumed run draws other masks",
            "RandomCollator.seeded",
            "with torch.random.fork_rng(devices=[]):",
            "if 1:",
        ),
        ("each pass has the same masks", "RandomCollator.seeded", "{seed} {epoch} ", "{seed} "),
        ("workers do not see the pass", "RandomCollator", ".share_memory_()", ""),
    ],
    ("streams.py", "training/test_progress.py"): [
        ("bars of libraries fill a log", "draw_bars_rarely", '"TQDM_MININTERVAL"', '"TQDM_INTERVAL"'),
    ],
    ("model_folders.py", "training/test_progress.py"): [
        ("a bar for the loading of weights", "open_model", "with without_bars():", "if True:"),
    ],
    ("training/progress.py", "training/test_progress.py"): [
        ("a line for every log", "ProgressLines.on_log", ">= SECONDS_BETWEEN_LINES", ">= 0"),
        (
            "time left counts earlier updates",
            "ProgressLines._left",
            "state.global_step - self.first_update",
            "state.global_step",
        ),
    ],
    ("inference/verdict.py", "inference/test_verdict.py"): [
        ("an equal baseline does not count", "is_better", "return score > rival if", "return score >= rival if"),
        (
            "the worst baseline is compared",
            "ranked_baselines",
            "reverse=greater_is_better",
            "reverse=not greater_is_better",
        ),
    ],
    ("training/run.py", "training/test_watching.py"): [
        (
            "the reported weights are evaluated as the last update",
            "evaluate_reported",
            'trainer.state.log_history[-1]["step"] = reported.update',
            "pass",
        ),
    ],
    ("tasks/base.py", "training/test_watching.py"): [
        (
            "a greater loss is better",
            "Task.metric_directions",
            "dict.fromkeys(losses, False)",
            "dict.fromkeys(losses, True)",
        ),
    ],
    ("training/building.py", "training/test_arguments.py"): [
        (
            "a model that writes text gets an uncased tokenizer",
            "load_config",
            "if task.needs_causal and",
            "if False and",
        ),
    ],
    ("training/callbacks.py", "training/test_training.py"): [
        ("hub: the token is printed", "StopOnSignal.raise_if_stopped", "without_token(command)", "command"),
    ],
    ("training/sharing.py", "hub/test_hub_security.py"): [
        ("hub: the current folder is imported from", "push_apart", "filter(None, sys.path)", "sys.path"),
    ],
    ("hub/verify.py", "hub/test_hub_security.py"): [
        (
            "hub: other bits are taken for the same",
            "verify",
            "if not _same_bits(",
            "if name not in found and not _same_bits(",
        ),
        ("hub: the verifying process gets the token", "verify", '"HF_", "HUGGING"', '"HF_HOME", "HF_HUB"'),
    ],
    ("hub/repository.py", "hub/test_hub_faults.py"): [
        ("hub: no second attempt", "Repository.ask", "attempt == attempts or not _may_pass(error)", "True"),
        ("hub: a pull request is tried again", "Repository.commit", "1 if self.create_pr or parent", "1 if parent"),
        (
            "hub: a commit in between is overwritten unseen",
            "Repository.commit",
            "                parent_commit=parent or info.sha,\n",
            "",
        ),
    ],
    ("hub/repository.py", "hub/test_push.py"): [
        (
            "hub: shards of the model before stay",
            "Repository.commit",
            "*(CommitOperationDelete(name) for name in stale),",
            "",
        ),
    ],
    ("hub/repository.py", "hub/test_push_refusals.py"): [
        (
            "hub: a pickle in the repository is overlooked",
            "Repository.commit",
            "refuse_files(present, self.id)",
            "pass",
        ),
        ("hub: a public repository takes private weights", "_require_private", " and not is_private", " and False"),
        ("hub: names are not checked", "_check_names", "if not is_valid:", "if False:"),
    ],
    ("errors.py", "hub/test_hub_security.py"): [
        ("hub: tokens in errors", "_without_tokens", '"hf_***"', 'r"\\g<0>"'),
    ],
    ("data/examples.py", "data/test_examples.py"): [
        (
            "data: a change of how examples are read keeps old rows",
            "ExampleFormat.code",
            '.partition(".")[0] == "modeling_mini"',
            '.startswith("modeling_mini.tasks")',
        ),
        (
            "data: one hidden label of a Hub data set stops a run",
            "_CheckExample.__call__",
            "self.files and not isinstance",
            "not isinstance",
        ),
    ],
    ("data/examples.py", "data/test_files.py"): [
        ("columns: one is read as two", "map_columns", "source in named.values():", "False:"),
        (
            "columns: nested ones of a stream are not found",
            "_with_columns",
            "if not {*sources.values()} <= {*top_level}:",
            "if False:",
        ),
        (
            "columns: all of a stream are decoded",
            "_with_columns",
            "select_columns(parents)",
            "select_columns(top_level)",
        ),
    ],
    ("data/formats.py", "data/test_files.py"): [
        ("JSON: rows in a list of an object", "check_no_list_of_rows", "if len(rows) == 1", "if False"),
        (
            "data: blank lines shift the line that is named",
            "_read_json",
            "enumerate(file, start=1)",
            "enumerate(filter(bytes.strip, file), start=1)",
        ),
        ("data: a quote that is never closed swallows the file", "_csv_reader", "strict=True", "strict=False"),
        (
            "data: the last of two columns of Parquet wins",
            "_read_parquet",
            "_check_unique(path, names, roots)",
            "pass",
        ),
        ("data: a key may occur twice", "_Decoder.decode", "> 1:", "> 99:"),
    ],
    ("data/formats.py", "data/test_separated_values.py"): [
        ("files: a line sep=; is a header", "_csv_reader", "_SEP_LINE.fullmatch(first)", "None"),
        ("data: TSV is divided at commas", "delimiter_of", 'return "\\t" if', 'return "," if'),
    ],
    ("data/filters.py", "data/test_split_columns.py"): [
        ("data: any words in a column `set` are splits", "_are_split_names", "< len(values)", "< 99"),
        ("data: training rows are those of `is_test`", "_flag_of_training", 'split == "train"', 'split != "train"'),
    ],
    ("decoding.py", "project/test_cli.py"): [
        (
            "--do_sample false is not given",
            "DecodingArguments.explicit",
            "if value is not None]",
            "if value is not None and value is not False]",
        ),
    ],
    ("inference/evaluate.py", "inference/test_held_out_rows.py"): [
        ("eval: a named file is divided by a column", "_completed", 'recorded.pop("split_column", None)', "pass"),
        ("eval: rows of another task are divided as in training", "", '("task", "where", ', '("where", '),
        ("eval: a named file is a part", "_choose", "and split not in task.args.split_files", ""),
        ("eval: rows of the training are scored as held out", "_choose", "if changed_division and", "if False and"),
        (
            "eval: baselines learn from fewer rows where a split is named",
            "_choose",
            '("train", "validation", args.split)',
            '("train", args.split)',
        ),
        ("eval: missing baselines are not mentioned", "evaluate", "if lacks_training_rows:", "if False:"),
    ],
    ("inference/loading.py", "inference/test_checkpoint_faults.py"): [
        (
            "a link to a checkpoint is not followed",
            "recorded_arguments",
            "Path(checkpoint).resolve()",
            "Path(checkpoint)",
        ),
    ],
    ("tasks/generation.py", "tasks/test_text_generation.py"): [
        ("no warning of a tokenizer that loses capitals", "warn_about_lost_text", "text != _PROBE", "False"),
    ],
    ("data/arguments.py", "training/test_arguments.py"): [
        ("no warning of options that a task does not use", "DataArguments.idle", "if name in given}", "if False}"),
    ],
    ("decoding.py", "tasks/test_decoding.py"): [
        ("decoding: a seed without sampling does nothing", "", '"top_k", "top_p", "seed")\n', '"top_k", "top_p")\n'),
    ],
    ("json_files.py", "project/test_cli.py"): [
        ("JSON: a number that is too large becomes Infinity", "_number", "if math.isinf(number):", "if False:"),
    ],
    ("data/files.py", "data/test_files.py"): [
        ("data: `latest` holds the word test", "words_of", r'r"[\W\d_]+|', r'r"[\W\d_]+|(?=test)|'),
    ],
    ("data/tables.py", "data/test_files.py"): [
        (
            "data: an optional column that appears late is lost",
            "Table._values",
            "for column in self.missing:",
            "for column in ():",
        ),
        (
            "data: rows of a file point to another file",
            "Table._key",
            "(i, str(path.resolve())",
            "(0, str(path.resolve())",
        ),
    ],
    ("data/sources.py", "data/test_files.py"): [
        ("data: a cache that cannot be written looks like a missing data set", "read_source", "check_cache()", "pass"),
        ("data: a stream is checked twice", "LocalSplits.__contains__", "in self.names", "in [*self, *self.values()]"),
    ],
    ("data/splits.py", "data/test_examples.py"): [
        (
            "data: questions on one context are divided",
            "_divide",
            "_divide_at_random(examples, args, group_column)",
            "_divide_at_random(examples, args, None)",
        ),
        ("data: training reads the test split", "_split_names", "for role in roles:", 'for role in (*roles, "test"):'),
    ],
    ("data/packing.py", "tasks/test_text_to_text.py"): [
        ("data: prompts are learned", "UnpackRows.__call__", "first : first + length", "first : first + 1"),
        ("data: examples of a row see each other", "UnpackRows.__call__", "row_start[starts] = starts", "pass"),
    ],
    ("data/packing.py", "data/test_packing.py"): [
        ("data: padding is learned", "UnpackRows.__call__", "row_labels[end:] = IGNORED_LABEL", "pass"),
        ("data: documents are left out", "_EncodeBatch.__call__", "+ DOCUMENTS_PER_BATCH", "+ 999"),
        ("data: rows of another text are reused", "encode_batches", "[content_hash(examples), ", "["),
        ("data: large token ids overflow", "token_type", "max(tokenizer.get_vocab().values())", "255"),
    ],
    ("data/cache.py", "data/test_packing.py"): [
        ("data: texts stay in the cache", "source_cache", "atexit.register(_remove_own, folder, os.getpid())", "pass"),
        ("data: texts of a killed run stay", "_remove_abandoned", "_remove(folder, lock)", "lock.release()"),
    ],
    ("data/packing.py", "data/test_streaming.py"): [
        ("streaming: a stream ends", "pack", "shuffled.repeat(None)", "shuffled"),
        ("streaming: small files come more often", "pack", "rows.shuffle(", "rows.repeat(None).shuffle("),
    ],
    ("tasks/text_to_text.py", "tasks/test_text_to_text.py"): [
        (
            "task: prompts are padded on the right",
            "padded_left",
            'padding_side="left"',
            'padding_side="right"',
        ),
        (
            "task: a truncated target has an end",
            "EncodePairs._target",
            "ids[:longest] if len(ids) > longest else [*ids,",
            "[*ids[:longest],",
        ),
    ],
    ("tasks/generative_question_answering.py", "tasks/test_generative_question_answering.py"): [
        (
            "answers: windows without the answer are trained to write it",
            "GenerativeQuestionAnswering.training_pairs",
            'answer if overlap == most else ""',
            "answer",
        ),
        (
            "answers: the first window answers",
            "GenerativeQuestionAnswering.best_texts",
            "no_answer.get(i, 0.0)",
            "-i",
        ),
        ("answers: a given start is not used", "answer_starts", "return given[:1]", "pass"),
        ("answers: a word is found inside another", "answer_starts", "for match in words or", "for match in"),
        ("answers: starts of another number are kept", "with_usable_starts", "len(indices) == len(answers)", "True"),
        (
            "answers: a question that fits is truncated",
            "GenerativeQuestionAnswering._windows",
            "if len(ids) > self.source_length:",
            "if True:",
        ),
        (
            "answers: windows do not overlap",
            "GenerativeQuestionAnswering._windows",
            "min(self.args.stride, most_stride(self.args.block_size), room // 2)",
            "0",
        ),
        (
            "answers: a window has half of a character",
            "GenerativeQuestionAnswering._windows",
            "offsets[end][0] if end < len(context)",
            "offsets[end - 1][1] if end < len(context)",
        ),
    ],
    ("data/examples.py", "tasks/test_generative_question_answering.py"): [
        (
            "data: a column that a split may lack is required",
            "ExampleFormat.agreed_columns",
            "if name not in self.varying_columns",
            "",
        ),
    ],
    ("serving/streaming.py", "serving/test_space.py"): [
        ("the writing goes on when its reader has left", "_Pieces.put", "if self.is_left.is_set():", "if False:"),
        ("a growing text hides the error that ended it", "growing_text", "raise errors[0]", "pass"),
    ],
    ("serving/space.py", "serving/test_space.py"): [
        ("a Space publishes every file of the package folder", "_copy_code", "path.suffix in _SUFFIXES", "True"),
        ("a Space is written over the files of a folder", "check_space", "any(folder.iterdir())", "False"),
        ("the title of a Space is a number to YAML", "write_space", '"title": json.dumps(name)', '"title": name'),
    ],
    ("tasks/generation.py", "tasks/test_decoding.py"): [
        (
            "decoding: a summary cannot repeat its document",
            "NoRepeatedNgrams.__call__",
            "input_ids[:, self.ignored :]",
            "input_ids",
        ),
        (
            "decoding: a space at the end of a prompt is a token",
            "heal",
            "if not prompt[-1:].isspace() or",
            "if True or",
        ),
    ],
    ("tokenization.py", "data/test_tokenization.py"): [
        ("tokenizer: a long line is one word", "_train_byte_level_bpe", "[*words, long_words]", "words"),
        ("tokenizer: uncased has capitals", "_train_byte_level_bpe", ", normalizers.Lowercase()", ""),
        (
            "tokenizer: uncased has no space before a word",
            "_train_byte_level_bpe",
            "add_prefix_space=True",
            "add_prefix_space=False",
        ),
    ],
    ("metrics/scripts.py", "metrics/test_metrics.py"): [
        ("metrics: a sentence without spaces is one word", "split_unspaced", "_ONE_UNSPACED.split(word)", "[word]"),
    ],
    ("tasks/fill_mask.py", "tasks/test_fill_mask.py"): [
        (
            "fill-mask: only the first document is shown",
            "FillMask.report",
            "self.encode(examples, ",
            "self.encode(examples.take(1), ",
        ),
        ("task: validation is masked anew", "FillMask.encode", 'if name != "training":', "if False:"),
    ],
    ("tasks/text_classification.py", "tasks/test_text_classification.py"): [
        ("labels: the config does not record pairs", "TextClassification.configure", '"text_pair" in', '"other" in'),
        ("labels: any model reads pairs", "TextClassification.read_config", "is not None", "is None"),
        (
            "labels: a text that just fits is truncated",
            "EncodeTexts.__call__",
            "len(ids) > self.length",
            "len(ids) >= self.length",
        ),
        (
            "labels: a model of a number is used",
            "TextClassification.read_config",
            "config.num_labels == 1 or",
            "",
        ),
        (
            "task: labels are numbered anew",
            "TextClassification.configure",
            "if set(self.labels) == set(config.label2id):",
            "if False:",
        ),
        (
            "task: labels are those of what is left to train on",
            "TextClassification.configure",
            "enumerate(self.labels)",
            'enumerate(sorted(set(train["label"])))',
        ),
    ],
    ("tasks/question_answering.py", "tasks/test_question_answering.py"): [
        (
            "spans: a lost answer is not counted",
            "EncodeWindows.__call__",
            "bool(texts) and example not in answered",
            "False",
        ),
        ("spans: each window counts a question", "EncodeWindows.__call__", "example != before", "True"),
        (
            "spans: the longest answer is too long",
            "QuestionAnswering._warn_of_limits",
            "pc.greater_equal",
            "pc.greater",
        ),
        ("spans: spaces around an answer stay", "without_spaces", "return text.strip(), ", "return text, "),
        ("spans: accents after a token are cut off", "with_marks", "unicodedata.combining(context[end])", "False"),
        (
            "spans: <eos> in a question is one token",
            "EncodeWindows.truncated",
            '"split_special_tokens": True, ',
            "",
        ),
        (
            "task: half an answer in a window counts",
            "answer_tokens",
            "if not inside or character_spans[inside[0]][0] > start or character_spans[inside[-1]][1] < end:",
            "if not inside:",
        ),
        (
            "task: windows are padded on the left",
            "QuestionAnswering.collator",
            'padding_side = "right"',
            'padding_side = "left"',
        ),
        (
            "task: windows are taken for examples",
            "QuestionAnswering.n_best",
            'window["example"]',
            "index % len(examples)",
        ),
        ("task: spans end before they start", "best_spans", "(width >= 0) & ", ""),
        ("task: white space is an answer", "best_spans", "possible &= words_before", "possible | words_before"),
        (
            "task: no answer wherever",
            "QuestionAnswering._ranked",
            "if self.args.unanswerable or not",
            "if True or not",
        ),
    ],
    ("tasks/question_answering.py", "data/test_files.py"): [
        (
            "task: an answer may stand elsewhere",
            "QuestionAnswering.find_problem",
            'if example["context"] and',
            "if False and",
        ),
    ],
    ("inference/predict.py", "inference/test_trained_tasks.py"): [
        ("inference: a blank line has no line of its own", "predict", 'else ""', "else next(predictions)"),
    ],
    ("commands.py", "project/test_endings.py"): [
        (
            "commands: Ctrl-C stays ignored",
            "stop_on_signals",
            "signal.signal(number, stop)",
            "signal.getsignal(number)",
        ),
        ("commands: a signal ends a finalizer", "stop_on_signals", "if is_in_finalizer(frame):", "if False:"),
        (
            "commands: the callback of a weak reference swallows a signal",
            "stop_on_signals",
            "if isinstance(ignored.exc_value, Stopped):",
            "if False:",
        ),
        (
            "commands: a signal kills a run that has ended",
            "exit_on_signals",
            "atexit.register(",
            "(lambda *_: 0)(",
        ),
        ("commands: a full disk is a defect", "_sentence", "if is_disk_full(error):", "if False:"),
        (
            "commands: a defect is hidden behind a sentence",
            "_sentence",
            "    return None",
            "    return one_line(error)",
        ),
    ],
    ("streams.py", "project/test_cli.py"): [
        ("streams: what a terminal cannot show fails", "prepared_streams", '"backslashreplace"', '"strict"'),
    ],
    ("options.py", "project/test_cli.py"): [
        (
            "options: a missing data file is found late",
            "check_data",
            "name in FILE_ARGUMENTS or names_a_path(value)",
            "False",
        ),
    ],
    ("training/values.py", "training/test_arguments.py"): [
        ("labels of spans are smoothed", "check_unusable", "args.label_smoothing_factor > 0", "False"),
        ("values: an infinite number is in every range", "Range.holds", "math.isfinite(value) and ", ""),
        (
            "values: the schedule is not followed to its end",
            "build_schedule",
            "if not math.isfinite(float(factor(step))):",
            "if False:",
        ),
    ],
    ("training/recipes.py", "training/test_arguments.py"): [
        ("recipes: max_steps wins over --num_train_epochs", "", '"num_train_epochs": ("max_steps",),', ""),
        ("recipes: --save_steps has no effect", "without_winners", 'f"{name}_steps" in given', "False"),
        ("recipes: a key may stand twice", "_UniqueKeys.construct_mapping", "and key in keys", "and False"),
    ],
    ("training/report.py", "inference/test_trained_tasks.py"): [
        (
            "inference: a checkpoint of the Hub forgets what it was trained with",
            "write_report",
            "for name in ENCODING_ARGUMENTS",
            "for name in ()",
        ),
    ],
    ("export/parity.py", "export/test_export_parity.py"): [
        ("export: a file with other outputs is accepted", "accepted", "if not found <= limit:", "if False:"),
        ("export: nan is accepted", "accepted", "if not found <= limit:", "if found > limit:"),
        ("export: padding is not compared", "example", "mask[-1, span] = 0", "pass"),
    ],
    ("export/run.py", "export/test_export_command.py"): [
        ("export: a GGUF file deletes those of other types", "_kept", "args.to == earlier", '"" == earlier'),
        (
            "export: a GGUF file of another model stays",
            "_kept",
            'is_same(args.checkpoint, str(earlier.get("source")))',
            "True",
        ),
        (
            "export: runs/x and runs/x/ are two checkpoints",
            "_kept",
            'is_same(args.checkpoint, str(earlier.get("source")))',
            'args.checkpoint == earlier.get("source")',
        ),
        (
            "export: files of somebody else are accepted as ours",
            "_report",
            "return report if is_ours else None",
            "return report if isinstance(report, dict) else None",
        ),
        (
            "export: files of the user are overwritten",
            "_publish",
            "if taken := _taken(output, Path(name), earlier):",
            "if taken := None:",
        ),
        ("export: an option of another format is ignored", "export", "args.to != name and", "False and"),
    ],
    ("export/staging.py", "export/test_export_command.py"): [
        (
            "export: the folder of a running export is removed",
            "_remove_leftovers",
            "(lock := _lock(folder)) is None",
            "(lock := os.open(folder, 0)) is None",
        ),
    ],
    ("inference/pipelines.py", "inference/test_pipelines.py"): [
        (
            "inference: pipelines of other models are taken over",
            "TaskPipeline.__init__",
            "if model.config.model_type != MiniConfig.model_type:",
            "if False:",
        ),
    ],
}
MUTATIONS = [
    Mutation(what, file, scope, old, new, tests)
    for (file, tests), defects in DEFECTS.items()
    for what, scope, old, new in defects
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="mutations whose description contains this text")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutations that are tried at the same time")
    arguments = parser.parse_args()
    mutations = [mutation for mutation in MUTATIONS if arguments.only in mutation.what]
    if not mutations:
        parser.error(f"no mutation has {arguments.only!r} in its description")
    for mutation in mutations:
        mutated(REPOSITORY, mutation)  # a mutation that does not apply is refused before any test runs
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(arguments.jobs) as pool:
        copies = SimpleQueue()
        for number in range(arguments.jobs):
            copies.put(copy_repository(Path(folder, str(number))))

        def notice(mutation: Mutation) -> str | None:
            copy = copies.get()
            try:
                return noticed_by(mutation, copy)
            finally:
                copies.put(copy)

        print("| defect | the first test that fails |\n|---|---|")
        noticed = []
        results = tqdm(pool.map(notice, mutations), total=len(mutations), unit="mutation")
        for mutation, test in zip(mutations, results, strict=True):
            noticed.append(test)
            print(f"| {mutation.what} | {test or 'none'} |", flush=True)
        # A test that also fails without a mutation has noticed nothing.
        tests = sorted({f"tests/{test.strip('`')}" for test in noticed if test and "::" in test})
        ours = [test for test in tests if (REPOSITORY / test.partition("::")[0]).exists()]
        if failure := first_failure(copies.get(), *OURS, "-n", str(arguments.jobs), "-m", "", *ours):
            raise SystemExit(f"{failure} fails without a mutation; fix it first.")
    return int(not all(noticed))


def copy_repository(target: Path) -> Path:
    """Every file that git knows or would add, and the tests of transformers that were downloaded before."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in names.split("\0")[:-1]:
        if (REPOSITORY / name).exists():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPOSITORY / name, target / name)
    (REPOSITORY / ".cache").mkdir(exist_ok=True)
    (target / ".cache").symlink_to(REPOSITORY / ".cache")
    return target


def noticed_by(mutation: Mutation, copy: Path) -> str | None:
    """The first test that fails with the mutation in the copy: the expected file, then all of ours, then theirs."""
    path, text = mutated(copy, mutation)
    original = path.read_text(encoding="utf-8")
    path.write_text(text, encoding="utf-8")
    try:
        return (
            first_failure(copy, *OURS, "-m", "not slow", f"tests/{mutation.tests}", limit=LIMIT)
            or first_failure(copy, *OURS, "-m", "slow", f"tests/{mutation.tests}", limit=LIMIT)
            or first_failure(copy, *ALL_OURS)
            or first_failure(copy, *THEIRS, "Test")
        )
    finally:
        path.write_text(original, encoding="utf-8")


def mutated(root: Path, mutation: Mutation) -> tuple[Path, str]:
    """The file of a mutation, and its text with the defect. Ends the program if the mutation does not apply."""
    path = root / PACKAGE / mutation.file
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    first, last = scope_lines("".join(lines), mutation.scope) if mutation.scope else (0, len(lines))
    source = "".join(lines[first:last])
    if source.count(mutation.old) != 1:
        raise SystemExit(
            f"{mutation.file} {mutation.scope} has {mutation.old!r} {source.count(mutation.old)} times, not once."
        )
    return path, "".join([*lines[:first], source.replace(mutation.old, mutation.new), *lines[last:]])


def scope_lines(source: str, scope: str) -> tuple[int, int]:
    """First line and one after the last of a function or class, such as `"MiniModel.forward"`."""
    node = ast.parse(source)
    for name in scope.split("."):
        node = next(child for child in node.body if getattr(child, "name", None) == name)
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]) - 1, node.end_lineno


def first_failure(copy: Path, *command: str, limit: int | None = None) -> str | None:
    """Run pytest, or a script that does, and return the name of the test that its summary gives first."""
    # The copy comes before the installed package, also in the processes that tests start.
    environment = os.environ | {"PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    program = [sys.executable, *command]
    try:
        result = subprocess.run(
            program, cwd=copy, env=environment, capture_output=True, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return f"`{command[-1]}` does not end within {limit / 60:.0f} minutes"
    if result.returncode in (0, 5):  # 5: the file has no slow test, or no other
        return None
    failure = re.search(r"^(?:SUB)?(?:FAILED|ERROR)(?:\[.*?\])? tests/([^\[\s]+)", result.stdout, re.MULTILINE)
    if failure:
        return f"`{failure[1].replace('conformance/', '')}`"
    if PACKAGE in result.stderr + result.stdout:
        return "the package cannot be imported"
    raise SystemExit(f"{' '.join(command)} failed without a failing test:\n{result.stdout}{result.stderr}")


if __name__ == "__main__":
    raise SystemExit(main())
