"""The capabilities that the classes declare to transformers and accelerate: each declaration has its effect."""

import re

import pytest
import torch
from accelerate import infer_auto_device_map
from transformers import Trainer, TrainingArguments
from transformers.utils import is_flash_attn_2_available

from modeling_mini import MiniForCausalLM, MiniModel
from modeling_mini.masking_mini import CACHE_NAME


PLANS = ["tp_plan", "_fsdp_plan", "_pp_plan"]


def covered(plan, name):
    """Whether a plan has an entry for a module; `*` matches the number of a layer."""
    return any(re.fullmatch(key.replace(".", r"\.").replace("*", r"\d+"), name) for key in plan)


def test_tensor_parallel_plan_splits_every_linear_layer_and_the_head(tiny_model):
    model = tiny_model(MiniForCausalLM)
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    assert len(linear) == 2 * 6 + 1
    assert [name for name in linear if not covered(model.tp_plan, name)] == []


@pytest.mark.parametrize("plan", ["_fsdp_plan", "_pp_plan"])
def test_sharding_and_pipeline_plans_cover_every_part_of_the_model(tiny_model, plan):
    entries = getattr(tiny_model(MiniForCausalLM), plan)
    layers = "model.layers" if plan == "_pp_plan" else "model.layers.1"
    parts = {"model.embed_tokens", layers, "model.norm", "lm_head"}
    assert [part for part in parts if not covered(entries, part)] == []


def test_no_layer_is_split_across_devices(tiny_model):
    """For any size of the first device: a residual connection must not cross devices."""
    model = tiny_model(MiniForCausalLM)
    size = sum(parameter.nbytes for parameter in model.parameters())
    for share in range(1, 20):
        memory = {"cpu": size * share // 20, "disk": 10 * size}
        device_map = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=model._no_split_modules)
        assert not any(re.search(r"layers\.\d+\.", part) for part in device_map), device_map


@torch.no_grad()
def test_a_model_partly_on_disk_generates_the_same_and_does_not_move_the_cache(tiny_model, random_ids, tmp_path):
    model, ids = tiny_model(MiniForCausalLM, tie_word_embeddings=False, eos_token_id=None), random_ids(2, 6)
    model.save_pretrained(tmp_path / "model")
    device_map = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk"}
    device_map |= {"model.dropout": "cpu", "model.norm": "cpu", "lm_head": "disk"}
    folders = {"offload_folder": tmp_path / "disk"}
    offloaded = MiniForCausalLM.from_pretrained(tmp_path / "model", device_map=device_map, **folders)
    assert offloaded.lm_head.weight.device.type == "meta"
    settings = {"max_new_tokens": 10, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    assert torch.equal(offloaded.generate(ids, **settings), model.generate(ids, **settings))
    assert CACHE_NAME in offloaded.model.layers[1]._hf_hook.skip_keys


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed and would be used")
def test_flash_attention_is_reported_as_missing_not_as_unsupported(tiny_model):
    with pytest.raises(ImportError, match="(?i)flash"):
        tiny_model(MiniForCausalLM).set_attn_implementation("flash_attention_2")


def test_servers_and_continuous_batching_may_provide_their_own_attention():
    assert MiniForCausalLM.is_backend_compatible()


class AnotherStage(torch.nn.Module):
    """A placeholder in a pipeline stage for a layer of another stage."""

    def forward(self, hidden_states, *args, **kwargs):
        return hidden_states


@torch.no_grad()
def test_a_later_pipeline_stage_does_not_change_its_input(tiny_model, random_ids):
    """Its input arrives as `inputs_embeds`, and must be neither scaled nor given positions again."""
    whole, later = tiny_model(MiniModel), tiny_model(MiniModel)
    ids = random_ids(2, 9)
    states = whole(ids, output_hidden_states=True).hidden_states
    later.layers[0] = AnotherStage()
    last_hidden_state = later(inputs_embeds=states[1]).last_hidden_state
    torch.testing.assert_close(last_hidden_state, whole(ids).last_hidden_state)


def test_evaluation_of_the_trainer_gathers_logits_but_no_cache(tiny_model, random_ids, tmp_path):
    rows = [{"input_ids": row, "labels": row} for row in random_ids(4, 9)]
    arguments = TrainingArguments(output_dir=tmp_path, use_cpu=True, report_to="none", disable_tqdm=True)
    model = tiny_model(MiniForCausalLM)
    trainer = Trainer(model, arguments)
    model.config.use_cache = True  # the Trainer turns it off, but a user may turn it on
    predictions = trainer.predict(rows).predictions
    assert getattr(predictions, "shape", None) == (4, 9, model.config.vocab_size)
