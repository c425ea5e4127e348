"""Small models for the study's tests, stored as the real ones are."""

from pathlib import Path

import torch

from benchmarks.study import store
from benchmarks.study.model import Shape, initial_parameters

TINY = Shape(hidden=64, inner=64, layers=2, heads=2)


def louder(parameters):
    """Weights large enough that a model without training has opinions."""
    return {name: tensor * 5 if tensor.dim() == 2 else tensor for name, tensor in parameters.items()}


def tiny_models(folder: Path) -> Path:
    """Policy and teacher without any training."""
    for number, name in enumerate(("policy", "teacher")):
        store.save_model(folder / name, louder(initial_parameters(TINY, seed=number)), TINY.config())
    return folder


def generator(seed=0):
    return torch.Generator().manual_seed(seed)
