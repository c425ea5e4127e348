"""Small models for the study's tests, stored as the real ones are."""

import copy
from pathlib import Path

import torch

from benchmarks.demo_models.prm import new_prm
from benchmarks.demo_models.tokenizer import build_prm_tokenizer
from benchmarks.study import store
from benchmarks.study.arms import TASTES
from benchmarks.study.model import Shape, initial_parameters
from benchmarks.study.prm import POSITIONS, save_prm

TINY = Shape(hidden=64, inner=64, layers=2, heads=2)


def louder(parameters):
    """Weights large enough that a model without training has opinions."""
    return {name: tensor * 5 if tensor.dim() == 2 else tensor for name, tensor in parameters.items()}


def tiny_models(folder: Path) -> Path:
    """Policy, teacher and process reward model without any training; the latter's levels have nothing in common."""
    for number, name in enumerate(("policy", "teacher")):
        store.save_model(folder / name, louder(initial_parameters(TINY, seed=number)), TINY.config())
    torch.manual_seed(5)
    vocabulary = build_prm_tokenizer().get_vocab()
    prm = new_prm(vocabulary, hidden_size=64, layers=2, intermediate_size=64, context=POSITIONS)
    save_prm(folder / "prm", prm, {level: _shuffled(prm.score, number) for number, level in enumerate(TASTES)})
    return folder


def _shuffled(layers, seed):
    torch.manual_seed(seed)
    found = copy.deepcopy(layers)
    for tensor in found.parameters():
        torch.nn.init.normal_(tensor)
    return found


def generator(seed=0):
    return torch.Generator().manual_seed(seed)
