"""A model distilled to few evaluations, by the trajectories of a trained one.

    python -m benchmarks.distillation portraits few --data portraits.h5 --steps 10000
    python -m benchmarks.evaluations portraits few --test portraits-test.h5

The student begins with the teacher's weights. It has `--evaluations` noise levels, even in log-SNR, from the teacher's highest
down to `--last`. At each it learns the estimate whose one DDIM step ends where the teacher's probability flow ends, which is
the next level, or after the last level no noise. The teacher takes `--substeps` steps of DPMSolver for each.

Source: Salimans, Ho (2022), Progressive distillation for fast sampling of diffusion models; here in one stage.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from benchmarks.drawings import Drawings
from fnodiff import Model, MultiResolution, fit
from fnodiff.cost import keep_freed_memory
from fnodiff.data import InMemory
from fnodiff.train import Adam, DistillationLoss, Execution, student_of


def main() -> None:
    """Train the student, and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("teacher", help="its folder, or the name of one that comes with fnodiff")
    parser.add_argument("out", type=Path, help="the student's folder")
    parser.add_argument("--data", type=Path, required=True, metavar="TRAIN.h5")
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--evaluations", type=int, default=4)
    parser.add_argument("--substeps", type=int, default=4)
    parser.add_argument("--last", type=float, default=0.3, help="the student's lowest noise level")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=2e-4)
    args = parser.parse_args()
    keep_freed_memory()
    teacher = Model.from_pretrained(args.teacher)
    student = student_of(teacher, args.last)
    data = InMemory(Drawings(args.data), teacher.training_shapes)
    data = MultiResolution(data, teacher.sde.domain, teacher.training_shapes, batch_size=args.batch)
    loss = DistillationLoss(student, teacher, args.evaluations, args.substeps)
    execution = Execution(seed=0)
    fit(student, data, steps=args.steps, loss=loss, optimizer=Adam(lr=args.lr, decay=1), execution=execution)
    student.save_pretrained(args.out)
    print(f"{args.steps} steps took {time.process_time() / 60:.0f} minutes of {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
