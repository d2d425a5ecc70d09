"""Training: a plain loop on accelerate, its checkpoints, and fine-tuning."""

from fnodiff.cost import keep_freed_memory
from fnodiff.train.distillation import DistillationLoss, student_of
from fnodiff.train.finetune import PARTS, freeze, mixed_finetune
from fnodiff.train.loop import fit
from fnodiff.train.preview import Preview
from fnodiff.train.settings import Adam, Execution, Logging
from fnodiff.train.state import STATE
from fnodiff.train.weights import MovingAverage

__all__ = [
    "PARTS",
    "STATE",
    "Adam",
    "DistillationLoss",
    "Execution",
    "Logging",
    "MovingAverage",
    "Preview",
    "fit",
    "freeze",
    "keep_freed_memory",
    "mixed_finetune",
    "student_of",
]
