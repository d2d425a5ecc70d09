"""Training: a plain loop on accelerate, its checkpoints, and fine-tuning."""

from fnodiff.cost import keep_freed_memory
from fnodiff.train.finetune import PARTS, freeze, mixed_finetune
from fnodiff.train.loop import fit
from fnodiff.train.measure import measure_normalization
from fnodiff.train.preview import Preview
from fnodiff.train.state import STATE

__all__ = ["PARTS", "STATE", "Preview", "fit", "freeze", "keep_freed_memory", "measure_normalization", "mixed_finetune"]
