"""Register the Mini classes with transformers, PEFT and vLLM, without any change to those packages."""

import importlib
import importlib.abc
import importlib.util
import sys
from collections.abc import Callable


_AUTO_MODELS = "transformers.models.auto.modeling_auto"
_LAYERS = "transformers.modeling_layers"
_OUR_MODELS = f"{__package__}.modeling_mini"


def register() -> None:
    """Register the config and every head. Runs on import of the package; running it again changes nothing.

    Imports neither transformers nor our models: each registration waits until the module that it needs is imported.
    """
    _AfterImport("transformers.models.auto.configuration_auto", _register_config).watch()
    # Our models import `modeling_layers`, which imports `modeling_auto`. When an inner module has been executed, the
    # modules that import it have not, so each step waits for the one before.
    _AfterImport(_OUR_MODELS, _register_models).watch()
    _AfterImport(_LAYERS, lambda _: importlib.import_module(_OUR_MODELS)).watch()
    _AfterImport(_AUTO_MODELS, lambda _: importlib.import_module(_LAYERS)).watch()
    _AfterImport("peft.utils.constants", _add_peft_targets).watch()
    _AfterImport("peft.tuners.adaption_prompt.config", _add_adaption_prompt).watch()
    _AfterImport("transformers.pipelines", _add_pipelines).watch()


def _register_config(configuration_auto) -> None:
    from .configuration_mini import MiniConfig

    configuration_auto.AutoConfig.register(MiniConfig.model_type, MiniConfig, exist_ok=True)


def _register_models(modeling_mini) -> None:
    """Register every head: for a missing one, transformers would pair a checkpoint's class with our config class."""
    from .configuration_mini import AUTO_CLASSES

    modeling_auto = importlib.import_module(_AUTO_MODELS)
    for name, auto_class_name in AUTO_CLASSES.items():
        model_class = getattr(modeling_mini, name)
        getattr(modeling_auto, auto_class_name).register(model_class.config_class, model_class, exist_ok=True)
        # `transformers serve` looks up the class of a checkpoint by name in the transformers module. There are two
        # objects of this module, because importing `transformers.processing_utils` runs its `__init__` once more, and
        # the server may hold either. Both find a name in their class.
        setattr(type(sys.modules["transformers"]), name, model_class)

    # The Trainer shifts labels under label smoothing only for names in this mapping, and lm-eval reads it to decide
    # which models are causal.
    modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[modeling_mini.MiniConfig.model_type] = "MiniForCausalLM"


def _add_peft_targets(constants) -> None:
    """Give each PEFT method that chooses modules by the model type the modules that it chooses in Llama.

    Our modules have the names of Llama's, which has a gate as well. Tables are found by their names, so those that a
    later PEFT adds are filled too.
    """
    from .configuration_mini import MiniConfig

    for name, table in vars(constants).items():
        if name.startswith("TRANSFORMERS_MODELS_TO_") and name.endswith("_MAPPING") and "llama" in table:
            modules = table["llama"]
            if isinstance(modules, list):
                modules = [module for module in modules if module != "gate_proj"]
            table[MiniConfig.model_type] = modules


def _add_adaption_prompt(adaption_prompt) -> None:
    """Let PEFT's adaption prompts (LLaMA-Adapter) wrap our attention as they wrap Llama's.

    As in GPT-2, the output projection is left out: its bias would change the output before the gate has opened.
    """
    from .configuration_mini import MiniConfig

    def query_states(model, hidden_states, **kwargs):
        """`[B, T, D]` -> `[B, H, T, K]`: Llama's without the rotation, because our positions are in the embedding."""
        query = model.q_proj(hidden_states)
        return query.view(*query.shape[:-1], -1, model.head_dim).transpose(1, 2)

    models = getattr(adaption_prompt, "TRANSFORMERS_MODEL_CONFIG", {})
    if "llama" in models:
        models[MiniConfig.model_type] = models["llama"]._replace(compute_query_states=query_states, o_proj_layer=None)


def _add_pipelines(module) -> None:
    """Add the tasks that transformers dropped to `transformers.pipeline`, if the packages for them are installed."""
    if all(importlib.util.find_spec(name) for name in ("datasets", "evaluate")):
        from .inference import pipelines  # noqa: F401, the module registers them when it is imported


class _AfterImport(importlib.abc.MetaPathFinder):
    """Calls `action(module)` after a module is executed, or at once if it already is, to keep our own import light.

    The finder stays until the action has succeeded: a module may be looked up without being executed, or may fail and
    be imported again.
    """

    def __init__(self, module_name: str, action: Callable):
        self.module_name, self.action = module_name, action

    def watch(self) -> None:
        if self.module_name in sys.modules:
            self.action(importlib.import_module(self.module_name))  # waits for a thread that is still executing it
        elif not any(getattr(finder, "module_name", None) == self.module_name for finder in sys.meta_path):
            sys.meta_path.insert(0, self)

    def find_spec(self, fullname, path, target=None):
        if fullname != self.module_name:
            return None
        others = (finder.find_spec(fullname, path, target) for finder in sys.meta_path if finder is not self)
        spec = next(filter(None, others), None)
        if spec is None:
            return None
        run_module = spec.loader.exec_module

        def run_and_act(module):
            run_module(module)
            self.action(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)

        spec.loader.exec_module = run_and_act
        return spec
