"""Make transformers and its neighbours know the Mini classes, without a change on their side."""

import importlib.abc
import importlib.util
import sys

import transformers
from transformers.models.auto import modeling_auto

from .configuration_mini import MiniConfig
from .modeling_mini import (
    MiniForCausalLM,
    MiniForMaskedLM,
    MiniForQuestionAnswering,
    MiniForSequenceClassification,
    MiniForTokenClassification,
    MiniModel,
)


AUTO_CLASSES = {
    transformers.AutoModel: MiniModel,
    transformers.AutoModelForCausalLM: MiniForCausalLM,
    transformers.AutoModelForMaskedLM: MiniForMaskedLM,
    transformers.AutoModelForSequenceClassification: MiniForSequenceClassification,
    transformers.AutoModelForTokenClassification: MiniForTokenClassification,
    transformers.AutoModelForQuestionAnswering: MiniForQuestionAnswering,
}
AUTO_CLASS_NAMES = {ours.__name__: auto_class.__name__ for auto_class, ours in AUTO_CLASSES.items()}


def register() -> None:
    """Register the config and every head. Runs on import of the package; running it again changes nothing.

    All or nothing: with a head missing here, transformers would pair the remote model class of a checkpoint with the
    local config class.
    """
    transformers.AutoConfig.register(MiniConfig.model_type, MiniConfig, exist_ok=True)
    for auto_class, model_class in AUTO_CLASSES.items():
        auto_class.register(MiniConfig, model_class, exist_ok=True)

    # Only for names listed here does the Trainer shift labels under label smoothing, and lm-eval score as causal.
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[MiniConfig.model_type] = MiniForCausalLM.__name__

    # `transformers serve` looks the class of a checkpoint up by name in the transformers module.
    for model_class in AUTO_CLASSES.values():
        setattr(sys.modules["transformers"], model_class.__name__, model_class)

    _register_lora_targets()


def _register_lora_targets() -> None:
    """Give PEFT the default LoRA targets of Llama, at once or, to keep this import light, when PEFT is imported."""
    if _LoraTargets.module_name in sys.modules:
        _LoraTargets.add(sys.modules[_LoraTargets.module_name])
    elif not any(isinstance(finder, _LoraTargets) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LoraTargets())


class _LoraTargets(importlib.abc.MetaPathFinder):
    """Adds our targets to PEFT's table right after its module has run, then steps aside."""

    module_name = "peft.utils.constants"

    @staticmethod
    def add(module) -> None:
        targets = getattr(module, "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING", {})
        targets[MiniConfig.model_type] = ["q_proj", "v_proj"]

    def find_spec(self, fullname, path, target=None):
        if fullname != self.module_name:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        run_module = spec.loader.exec_module

        def run_and_add(module):
            run_module(module)
            self.add(module)

        spec.loader.exec_module = run_and_add
        return spec
