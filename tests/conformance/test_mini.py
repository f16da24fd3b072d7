"""Every Mini class: as a decoder, with the post-norm reference layer, and as an encoder."""

import unittest

from suites import (
    ConfigSuite,
    EncoderSuite,
    FSDPSuite,
    ModelSuite,
    PipelineSuite,
    TensorParallelSuite,
    TrainingSuite,
)
from testers import MINI, MINI_BIDIRECTIONAL, MINI_POST_NORM


class ConfigTest(ConfigSuite, unittest.TestCase):
    tester = MINI


class ModelTest(ModelSuite, unittest.TestCase):
    tester = MINI


class PostNormModelTest(ModelSuite, unittest.TestCase):
    tester = MINI_POST_NORM


class BidirectionalModelTest(EncoderSuite, unittest.TestCase):
    tester = MINI_BIDIRECTIONAL


class TrainingTest(TrainingSuite, unittest.TestCase):
    tester = MINI


class PostNormTrainingTest(TrainingSuite, unittest.TestCase):
    tester = MINI_POST_NORM


class PipelineTest(PipelineSuite, unittest.TestCase):
    tester = MINI


class TensorParallelTest(TensorParallelSuite, unittest.TestCase):
    tester = MINI


class FSDPTest(FSDPSuite, unittest.TestCase):
    tester = MINI
