"""PEFT: each method trains each head of ours with its default targets where it trains Llama's, saves and reopens.

Also GPT-2's and Llama's outcome, for the table in docs/compatibility.md.
"""

import copy

import pytest
import torch
import transformers

import modeling_mini

from .families import OURS_GPT2_AND_LLAMA, config_of


peft = pytest.importorskip("peft", reason="peft is installed by the extra `dev`")
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING  # noqa: E402
from peft.utils import constants  # noqa: E402


pytestmark = pytest.mark.filterwarnings("ignore")

METHODS = {method.value: config_class for method, config_class in PEFT_TYPE_TO_CONFIG_MAPPING.items()}

# The least that a method needs, and sizes that fit a width of 64.
ARGUMENTS = {
    "ADALORA": {"total_step": 3, "tinit": 0, "tfinal": 1},
    "ADAPTION_PROMPT": {"adapter_len": 4, "adapter_layers": 1},
    "C3A": {"block_size": 16},
    "CARTRIDGE": {"num_virtual_tokens": 4},
    "CPT": {"cpt_token_ids": [5, 6], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]},
    "FOURIERFT": {"n_frequency": 20},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 4, "num_tasks": 2, "num_ranks": 1},
    "PREFIX_TUNING": {"num_virtual_tokens": 4},
    "PROMPT_TUNING": {"num_virtual_tokens": 4},
    "P_TUNING": {"num_virtual_tokens": 4, "encoder_hidden_size": 16},
    "POLY": {"n_tasks": 2},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": list(range(5, 97))},
    "VBLORA": {"num_vectors": 8, "vector_length": 4, "topk": 2},
    "WAVEFT": {"n_frequency": 20},
}

# Each head: the Auto class, PEFT's task, and the labels of a batch of ids.
HEADS = {
    "causal": ("AutoModelForCausalLM", "CAUSAL_LM", lambda ids: {"labels": ids}),
    "masked": ("AutoModelForMaskedLM", None, lambda ids: {"labels": ids}),
    "sequence": ("AutoModelForSequenceClassification", "SEQ_CLS", lambda ids: {"labels": ids[:, 0] % 2}),
    "tokens": ("AutoModelForTokenClassification", "TOKEN_CLS", lambda ids: {"labels": ids % 2}),
    "answers": (
        "AutoModelForQuestionAnswering",
        "QUESTION_ANS",
        lambda ids: {"start_positions": ids[:, 0] % 4, "end_positions": 4 + ids[:, 1] % 4},
    ),
    "features": ("AutoModel", "FEATURE_EXTRACTION", lambda ids: {}),
}

# What PEFT 0.21 cannot do with Llama either; Llama has no masked model. A method that is not listed here must work.
NEEDS_CACHE = {"CARTRIDGE", "PREFIX_TUNING"}
PROMPTS = {"MULTITASK_PROMPT_TUNING", "PROMPT_TUNING", "P_TUNING"}
LIMITS_OF_PEFT = {
    "causal": set(),
    "masked": {"POLY", *NEEDS_CACHE, *PROMPTS},  # PEFT has no such task
    "sequence": {*NEEDS_CACHE},
    "tokens": {"ADAPTION_PROMPT", "TRAINABLE_TOKENS", *NEEDS_CACHE, *PROMPTS},
    "answers": {"ADAPTION_PROMPT", "MULTITASK_PROMPT_TUNING", "TRAINABLE_TOKENS", *NEEDS_CACHE},
    "features": {"MULTITASK_PROMPT_TUNING"},
}
for limits in LIMITS_OF_PEFT.values():
    limits |= {"CPT", "XLORA"}  # the loss of CPT is NaN; X-LoRA trains, but computes something else when reopened


def arguments_of(method, family, folder):
    arguments = dict(ARGUMENTS.get(method, {}))
    if method == "XLORA":  # mixes LoRA adapters that exist
        for name in ("0", "1"):
            base = transformers.AutoModelForCausalLM.from_config(config_of(family))
            lora = peft.LoraConfig(task_type="CAUSAL_LM", init_lora_weights=False)
            peft.get_peft_model(base, lora).save_pretrained(folder / name)
        arguments |= {"hidden_size": 64, "adapters": {name: str(folder / name) for name in ("0", "1")}}
    return arguments


def train_and_reopen(family, head, method, folder, **overrides):
    """One step of training, with default targets; the model that is saved and reopened computes the same."""
    auto_name, task, labels_of = HEADS[head]
    torch.manual_seed(0)
    base = getattr(transformers, auto_name).from_config(config_of(family, **overrides))
    base.config.use_cache = method != "XLORA"
    untouched = copy.deepcopy(base)
    config = METHODS[method](task_type=task, **arguments_of(method, family, folder))
    model = peft.get_peft_model(base, config).train()

    ids = torch.randint(5, 97, (2, 9))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if method in ("MULTITASK_PROMPT_TUNING", "POLY"):
        inputs["task_ids"] = torch.tensor([0, 1])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    outputs = model(**inputs, **labels_of(ids))
    loss = outputs[0].pow(2).mean() if head == "features" else outputs.loss
    assert torch.isfinite(loss), f"the loss is {loss.item()}"
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in trained), "no parameter has a gradient"
    optimizer.step()

    model.save_pretrained(folder / "adapter")
    reopened = peft.PeftModel.from_pretrained(untouched, folder / "adapter")
    with torch.no_grad():
        expected, found = (opened.eval()(**inputs)[0] for opened in (model, reopened))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    return model


@pytest.mark.parametrize("method", sorted(METHODS))
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("family", OURS_GPT2_AND_LLAMA)
@pytest.mark.slow
@pytest.mark.row("PEFT", "{head}: each method trains, is saved and reopened", case="method")
def test_peft_method_trains_and_reopens(request, family, head, method, tmp_path):
    if head == "masked" and family != "modeling_mini":
        pytest.skip("no masked language model in transformers")
    if method in LIMITS_OF_PEFT[head]:
        request.applymarker(pytest.mark.xfail(reason="a limit of PEFT"))
    train_and_reopen(family, head, method, tmp_path)


def tables():
    """Each table of PEFT that names modules by model type, with the name of the table or of the method's class."""
    found = {name: table for name, table in vars(constants).items() if name.startswith("TRANSFORMERS_MODELS_TO_")}
    for model_class in PEFT_TYPE_TO_TUNER_MAPPING.values():
        found[model_class.__name__] = getattr(model_class, "target_module_mapping", {})
    return {name: table for name, table in found.items() if "llama" in table}


@pytest.mark.parametrize("name", sorted(tables()))
def test_each_table_of_peft_names_modules_of_ours(tiny_model, name):
    table = tables()[name]
    modules = {name.rpartition(".")[2] for name, _ in tiny_model(modeling_mini.MiniForCausalLM).named_modules()}
    assert set(table["modeling_mini"]) == set(table["llama"]) & modules
    assert set(table["llama"]) - modules <= {"gate_proj"}


def test_layernorm_tuning_of_a_post_norm_model_has_its_targets_named(tmp_path, monkeypatch):
    """The last LayerNorm, which is a default target, exists in a pre-norm model only."""
    monkeypatch.setitem(ARGUMENTS, "LN_TUNING", {"target_modules": ["input_layernorm", "post_attention_layernorm"]})
    train_and_reopen("modeling_mini", "causal", "LN_TUNING", tmp_path, norm_first=False)


def test_adaption_prompts_attend_with_the_queries_of_the_model(tiny_model, random_ids):
    """An adapter is one more source of keys and values: with an open gate, its attention is added to the output."""
    base, ids = tiny_model(modeling_mini.MiniForCausalLM), random_ids(2, 9)
    config = peft.AdaptionPromptConfig(task_type="CAUSAL_LM", adapter_len=4, adapter_layers=1)
    plain = base(ids).logits
    model = peft.get_peft_model(base, config).eval()
    torch.testing.assert_close(model(ids).logits, plain, rtol=0, atol=1e-6)  # its gate is closed
    adapted = base.model.layers[-1].self_attn
    with torch.no_grad():
        adapted.adaption_gate.fill_(1.0)

    seen = {}
    attention = adapted.model
    hook = attention.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    output = {}
    adapted.register_forward_hook(lambda _, args, result: output.update(all=result[0]))
    model(ids)
    hook.remove()
    hidden_states = seen["hidden_states"]
    heads = (-1, attention.config.num_attention_heads, attention.head_dim)
    query, key, value = (
        projection(states).unflatten(-1, heads[1:]).transpose(1, 2)
        for projection, states in (
            (attention.q_proj, hidden_states),
            (attention.k_proj, adapted.adaption_prompt),
            (attention.v_proj, adapted.adaption_prompt),
        )
    )
    scores = query @ key.transpose(2, 3) / attention.head_dim**0.5
    extra = scores.softmax(-1) @ value
    expected = attention(**seen)[0] + extra.transpose(1, 2).flatten(2)
    torch.testing.assert_close(output["all"], expected, rtol=1e-5, atol=1e-5)


# An adapter without a task, as `LoraConfig()` makes it.


@pytest.fixture
def adapter_without_task(checkpoint, random_ids):
    folder = checkpoint()
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model = peft.get_peft_model(base, peft.LoraConfig(init_lora_weights=False)).eval()
    model.save_pretrained(folder.parent / "adapter")
    ids = random_ids(2, 9)
    return folder, folder.parent / "adapter", ids, model(ids).logits


@pytest.mark.parametrize("name", ["AutoPeftModel", "AutoPeftModelForCausalLM"])
def test_an_adapter_without_a_task_opens_with_our_package_on_the_list(adapter_without_task, name):
    _, adapter, ids, expected = adapter_without_task
    with pytest.raises(ValueError, match="'modeling_mini.modeling_mini' which is not in the import allowlist"):
        getattr(peft, name).from_pretrained(adapter)
    model = peft.AutoPeftModel.from_pretrained(adapter, import_allowlist=[modeling_mini.__name__])
    torch.testing.assert_close(model.eval()(ids).logits, expected, rtol=0, atol=0)


def test_an_adapter_without_a_task_opens_on_its_base(adapter_without_task):
    folder, adapter, ids, expected = adapter_without_task
    base = transformers.AutoModelForCausalLM.from_pretrained(folder)
    model = peft.PeftModel.from_pretrained(base, adapter)
    torch.testing.assert_close(model.eval()(ids).logits, expected, rtol=0, atol=0)
