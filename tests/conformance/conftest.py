"""Make the common tests of transformers work for a model that is not in transformers."""

import json
import os
import sys
from pathlib import Path

import pytest


if "CONFORMANCE_ROOT" not in os.environ:
    raise pytest.UsageError("The common tests of transformers are not prepared; run them with `make conformance`.")
sys.path.insert(0, os.environ["CONFORMANCE_ROOT"])

import torch
import transformers
from transformers.models.auto import modeling_auto

import modeling_mini
from modeling_mini import MiniConfig
from modeling_mini.configuration_mini import AUTO_CLASSES
from tests import test_fsdp_mixin, test_tensor_parallel_mixin


torch.set_num_threads(1)

# The mixins look up in tables of class names which labels a class takes; a class that is not listed gets no labels.
TABLES = {
    "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForQuestionAnswering": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
}
for name, auto_name in AUTO_CLASSES.items():
    model_class, auto_class = getattr(modeling_mini, name), getattr(transformers, auto_name)
    TABLES[auto_class.__name__][MiniConfig.model_type] = model_class.__name__

# transformers runs the tests with several processes only for a few models; here they run for all.
test_tensor_parallel_mixin.TP_DISTRIBUTED_TEST_MODEL_TYPES = None
test_fsdp_mixin.FSDP_DISTRIBUTED_TEST_MODEL_TYPES = None
# Four ranks also run on two cores.
test_fsdp_mixin._get_available_fsdp_workers = lambda: 4

_tests_with_parts = set()


def pytest_runtest_logreport(report):
    """Record the outcome of each test, or of its parts if it has any, for the table of `run.py`."""
    if "PYTEST_XDIST_WORKER" in os.environ or (report.outcome == "passed" and report.when != "call"):
        return
    if type(report).__name__ == "SubtestReport":
        _tests_with_parts.add(report.nodeid)
    elif report.outcome == "passed" and report.nodeid in _tests_with_parts:
        return  # the whole passes even if every part is skipped
    file, test_class, name = report.nodeid.split("::")
    with open(os.environ["CONFORMANCE_REPORT"], "a") as record:
        record.write(json.dumps([Path(file).name, test_class, name, report.outcome]) + "\n")
