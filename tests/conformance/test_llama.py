"""Llama, for comparison: the same tests on the same machine."""

import unittest

from suites import ConfigSuite, FSDPSuite, ModelSuite, PipelineSuite, TensorParallelSuite, TrainingSuite
from testers import LLAMA


class ConfigTest(ConfigSuite, unittest.TestCase):
    tester = LLAMA


class ModelTest(ModelSuite, unittest.TestCase):
    tester = LLAMA


class TrainingTest(TrainingSuite, unittest.TestCase):
    tester = LLAMA


class PipelineTest(PipelineSuite, unittest.TestCase):
    tester = LLAMA


class TensorParallelTest(TensorParallelSuite, unittest.TestCase):
    tester = LLAMA


class FSDPTest(FSDPSuite, unittest.TestCase):
    tester = LLAMA
