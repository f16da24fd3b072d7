"""Trained models as files for other runtimes: ONNX Runtime, ExecuTorch, OpenVINO, LiteRT and llama.cpp."""
