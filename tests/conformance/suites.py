"""transformers' common tests, one class per subject. To test a model, subclass them and set its `tester`."""

import copy

from tests.test_configuration_common import ConfigTester
from tests.test_fsdp_mixin import FSDPTesterMixin
from tests.test_modeling_common import GenerationTesterMixin, ModelTesterMixin
from tests.test_pipeline_mixin import PipelineTesterMixin
from tests.test_tensor_parallel_mixin import TensorParallelTesterMixin
from tests.test_training_mixin import TrainingTesterMixin


class Suite:
    """Gives each test a fresh copy of the tester of its class."""

    tester = None
    model_tester = None

    def setUp(self):
        self.model_tester = copy.deepcopy(self.tester)
        self.all_model_classes = self.model_tester.all_model_classes


class ConfigSuite(Suite):
    def test_config(self):
        ConfigTester(self, config_class=self.tester.config_class).run_common_tests()


class ModelSuite(Suite, ModelTesterMixin, GenerationTesterMixin):
    pass


class EncoderSuite(Suite, ModelTesterMixin):
    """For a model without a class that generates."""


class TrainingSuite(Suite, TrainingTesterMixin):
    pass


class PipelineSuite(Suite, PipelineTesterMixin):
    def setUp(self):
        super().setUp()
        self.pipeline_model_mapping = self.model_tester.pipeline_model_mapping


class DistributedSuite(Suite):
    def setUp(self):
        super().setUp()
        self.model_tester = self.model_tester.without_dropout()


class TensorParallelSuite(DistributedSuite, TensorParallelTesterMixin):
    pass


class FSDPSuite(DistributedSuite, FSDPTesterMixin):
    pass
