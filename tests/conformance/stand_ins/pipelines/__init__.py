"""Replaces modules that transformers' source distribution does not contain: what text pipelines must return.

The outputs of a tiny random model are meaningless, so the tests check their form, and compare batches with single
texts.
"""

import pytest
import torch
from transformers import pipeline
from transformers.pipelines.base import PipelineException


class TextPipelineTests:
    task: str
    settings = {}
    texts = ["the old cat sees a small tree", "rain"]

    def get_test_pipeline(self, model, tokenizer=None, dtype="float32", **processors):
        """The pipeline, and texts for a batch."""
        self.tolerance = 1e-5 if dtype == "float32" else 1e-2
        model = model.to(getattr(torch, dtype))
        return pipeline(self.task, model=model, tokenizer=tokenizer, device="cpu", **self.settings), self.texts

    def assert_distribution(self, scores):
        assert all(0 <= score <= 1 for score in scores), scores
        assert abs(sum(scores) - 1) < self.tolerance, scores


class FeatureExtractionPipelineTests(TextPipelineTests):
    task = "feature-extraction"

    def run_pipeline_test(self, pipe, texts):
        for text in texts:
            [rows] = pipe(text)
            assert len(rows) == len(pipe.tokenizer(text).input_ids)
            assert {len(row) for row in rows} == {pipe.model.config.hidden_size}


class TextGenerationPipelineTests(TextPipelineTests):
    task = "text-generation"

    def run_pipeline_test(self, pipe, texts):
        settings = {"do_sample": False, "max_new_tokens": 6}
        for text in texts:
            [whole] = pipe(text, **settings)
            [new] = pipe(text, return_full_text=False, **settings)
            assert whole["generated_text"] == text + new["generated_text"]
            [tokens] = pipe(text, return_tensors=True, **settings)
            prompt = pipe.tokenizer(text).input_ids
            assert tokens["generated_token_ids"][: len(prompt)] == prompt
            assert len(tokens["generated_token_ids"]) <= len(prompt) + 6
        if pipe.model.dtype == torch.float32:  # in half precision, a batch may break a tie differently
            assert pipe(texts, batch_size=2, **settings) == [pipe(text, **settings) for text in texts]
        assert len(pipe(texts[0], do_sample=True, num_return_sequences=3, max_new_tokens=2)) == 3


class FillMaskPipelineTests(TextPipelineTests):
    task = "fill-mask"
    texts = ["the old <mask> sees a small tree", "<mask>"]

    def run_pipeline_test(self, pipe, texts):
        for text in texts:
            rows = pipe(text)
            assert len(rows) == 5
            assert rows == sorted(rows, key=lambda row: -row["score"])
            assert [pipe.tokenizer.decode([row["token"]]) for row in rows] == [row["token_str"] for row in rows]
            self.assert_distribution([row["score"] for row in pipe(text, top_k=pipe.model.config.vocab_size)])
        assert {row["token_str"] for row in pipe(texts[0], targets=["cat", "dog"])} == {"cat", "dog"}
        with pytest.raises(PipelineException, match="<mask>"):
            pipe("no mask here")


class TextClassificationPipelineTests(TextPipelineTests):
    task = "text-classification"

    def run_pipeline_test(self, pipe, texts):
        for text, rows in zip(texts, pipe(texts, top_k=None, batch_size=2), strict=True):
            assert {row["label"] for row in rows} == set(pipe.model.config.id2label.values())
            self.assert_distribution([row["score"] for row in rows])
            alone = {row["label"]: row["score"] for row in pipe(text, top_k=None)}
            assert {row["label"]: row["score"] for row in rows} == pytest.approx(alone, abs=self.tolerance)


class TokenClassificationPipelineTests(TextPipelineTests):
    task = "token-classification"

    def run_pipeline_test(self, pipe, texts):
        for text in texts:
            rows = pipe(text, ignore_labels=[])
            assert [row["word"] for row in rows] == text.split()
            assert [text[row["start"] : row["end"]] for row in rows] == text.split()
            assert {row["entity"] for row in rows} <= set(pipe.model.config.id2label.values())
        grouped = pipe(texts[0], aggregation_strategy="simple", ignore_labels=[])
        assert " ".join(row["word"] for row in grouped) == texts[0]


class ZeroShotClassificationPipelineTests(TextPipelineTests):
    task = "zero-shot-classification"
    settings = {"candidate_labels": ["cat", "dog", "house"]}

    def run_pipeline_test(self, pipe, texts):
        for text in texts:
            result = pipe(text)
            assert result["sequence"] == text
            assert sorted(result["labels"]) == ["cat", "dog", "house"]
            assert result["scores"] == sorted(result["scores"], reverse=True)
            self.assert_distribution(result["scores"])
            assert all(0 < score < 1 for score in pipe(text, multi_label=True)["scores"])
