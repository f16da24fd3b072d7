"""After `import modeling_mini`, transformers, PEFT and vLLM know the model."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import transformers
from classes import AUTO_CLASS_OF
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import modeling_mini
from modeling_mini.registration import register


PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
each_auto_class = pytest.mark.parametrize(
    ("model_class", "auto_class"), AUTO_CLASS_OF.items(), ids=lambda cls: cls.__name__
)


def registered_state():
    """Everything that registration changes."""
    return {
        "config": CONFIG_MAPPING["modeling_mini"],
        "models": {auto.__name__: auto._model_mapping[modeling_mini.MiniConfig] for auto in AUTO_CLASS_OF.values()},
        "extra": {auto.__name__: len(auto._model_mapping._extra_content) for auto in AUTO_CLASS_OF.values()},
        "causal names": dict(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
        "attributes": {name: getattr(transformers, name, None) for name in modeling_mini.__all__},
        "finders": list(sys.meta_path),
    }


def test_registering_twice_changes_nothing():
    before = registered_state()
    register()
    register()
    assert registered_state() == before


@each_auto_class
def test_auto_class_builds_its_model_from_a_config(tiny_config, auto_class, model_class):
    torch.manual_seed(0)
    model = auto_class.from_config(tiny_config())
    assert type(model) is model_class
    torch.manual_seed(0)
    torch.testing.assert_close(model.state_dict(), model_class(tiny_config()).state_dict(), rtol=0, atol=0)


@each_auto_class
def test_saved_code_and_installed_code_name_the_same_class(auto_class, model_class):
    """`auto_map`, which a machine without the package reads, agrees with the registration by the package."""
    assert modeling_mini.MiniConfig().auto_map[auto_class.__name__] == f"modeling_mini.{model_class.__name__}"
    assert model_class._auto_class == auto_class.__name__


def test_auto_config_builds_from_the_model_type():
    config = transformers.AutoConfig.for_model("modeling_mini", hidden_size=64)
    assert type(config) is modeling_mini.MiniConfig
    assert config.hidden_size == 64


def test_causal_model_is_listed_where_the_trainer_looks_for_labels_to_shift():
    assert modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["modeling_mini"] == "MiniForCausalLM"


def test_vllm_entry_point_leads_to_register():
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    declared = tomllib.loads(PYPROJECT.read_text())["project"]["entry-points"]["vllm.general_plugins"]
    assert set(declared) == {"modeling_mini"}
    assert EntryPoint("modeling_mini", declared["modeling_mini"], "vllm.general_plugins").load() is register


@pytest.mark.slow
@pytest.mark.versions
def test_importing_the_package_imports_no_heavy_package():
    packages = ("torch", "transformers", "peft", "datasets", "trl")
    printed = in_fresh_python(f"import sys, modeling_mini; print([n for n in {packages} if n in sys.modules])")
    assert printed == "[]\n"


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize(
    "first",
    [
        "import modeling_mini",
        "import modeling_mini.modeling_mini",  # imports modeling_auto too
        "from transformers import AutoConfig, AutoModel; import modeling_mini",
        "from transformers import AutoConfig; import modeling_mini",
        "import modeling_mini; from transformers import AutoTokenizer",
        "import modeling_mini; from transformers import pipeline",
        "import modeling_mini; from transformers import LlamaForCausalLM",
        "import modeling_mini, transformers.modeling_layers",
        "import modeling_mini; from transformers import Trainer",
        "import modeling_mini; modeling_mini.configuration_mini; modeling_mini.modeling_mini",
        "import modeling_mini, importlib.util; importlib.util.find_spec('transformers.models.auto.modeling_auto')",
    ],
)
def test_models_are_registered_whichever_import_comes_first(first):
    code = f"""
{first}
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.for_model("modeling_mini", num_hidden_layers=1)
print(type(AutoModelForCausalLM.from_config(config)).__module__, end=" ")
import transformers
from modeling_mini.configuration_mini import AUTO_CLASSES
named = {{name: getattr(transformers, name) for name in AUTO_CLASSES}}  # as `transformers serve` finds them
opened = {{name: getattr(transformers, auto)._model_mapping[type(config)] for name, auto in AUTO_CLASSES.items()}}
print(all(opened[name] is getattr(modeling_mini, name) is named[name] for name in AUTO_CLASSES))
"""
    assert in_fresh_python(code) == "modeling_mini.modeling_mini True\n"


@pytest.mark.slow
@pytest.mark.versions
@pytest.mark.parametrize(
    "first",
    [
        "import modeling_mini; import transformers",
        "import transformers; import modeling_mini",
        "from transformers.cli.serving import model_manager; import modeling_mini",
        "import modeling_mini; from transformers.cli.serving import model_manager",
        "import transformers.processing_utils; import modeling_mini",
    ],
)
def test_every_object_of_the_transformers_module_has_our_classes(first):
    """Importing `transformers.processing_utils` replaces the object; `transformers serve` may hold the first."""
    code = f"""
{first}
import transformers
from transformers.cli.serving import model_manager
held = [transformers, model_manager.transformers]
import importlib, sys
importlib.import_module("transformers.processing_utils")
importlib.import_module("transformers.models.auto.modeling_auto")
held.append(sys.modules["transformers"])
from modeling_mini.configuration_mini import AUTO_CLASSES
print(all(getattr(module, name) is getattr(modeling_mini, name) for module in held for name in AUTO_CLASSES))
"""
    assert in_fresh_python(code) == "True\n"


def in_fresh_python(code):
    """The output of code in a new Python process."""
    result = subprocess.run([sys.executable, "-c", code], cwd=PYPROJECT.parent, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout
