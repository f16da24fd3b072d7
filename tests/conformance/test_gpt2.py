"""GPT-2, for comparison: the same tests on the same machine."""

import unittest

from suites import ConfigSuite, FSDPSuite, ModelSuite, PipelineSuite, TensorParallelSuite, TrainingSuite
from testers import GPT2


class ConfigTest(ConfigSuite, unittest.TestCase):
    tester = GPT2


class ModelTest(ModelSuite, unittest.TestCase):
    tester = GPT2


class TrainingTest(TrainingSuite, unittest.TestCase):
    tester = GPT2


class PipelineTest(PipelineSuite, unittest.TestCase):
    tester = GPT2


class TensorParallelTest(TensorParallelSuite, unittest.TestCase):
    tester = GPT2


class FSDPTest(FSDPSuite, unittest.TestCase):
    tester = GPT2
