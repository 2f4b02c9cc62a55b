r"""Permuted digits: the same ten labels, the pixels shuffled anew for every task.

    task 0              task 1: the same image shuffled; the label is 0 in both
    |  .*:   |          | :   *. |
    |  :#**  |          |: .     |
    |  ** *  |          |: ##.  *|
    | .#. :. |          |* .   #*|
    | :#  :: |          |#: #:  :|
    | .# .#. |          |    *.**|
    |  **#*  |          | #  * . |
    |  .**   |          |*.. *  *|

A network that learned task 0 must learn task 1 in the same weights, and no rule tells the tasks apart but the look of the input.

Source  scikit-learn's ``load_digits``: 1,797 images of 8 × 8 pixels, inside the wheel (Alpaydin and Kaynak 1998, UCI)
Shapes  x: (N, 64) from 0 to 1   y: (N,) from 0 to 9
"""
from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Task(NamedTuple):
    """Inputs and labels to learn from, and others to be tested on."""
    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def permuted(tasks: int = 2, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Task]:
    """Task 0 is the digits as they are, the others shuffle the pixels, each in its own order; 1,200 train, 597 test, split by ``seed``.

    Raises ValueError when ``tasks`` < 1.
    """
    from sklearn.datasets import load_digits
    if tasks < 1:
        raise ValueError(f"tasks is {tasks}, wanted >= 1")
    r = torch.Generator().manual_seed(seed)
    data = load_digits()
    order = torch.randperm(len(data.data), generator=r)
    x, y = torch.as_tensor(data.data, dtype=dtype)[order] / 16, torch.as_tensor(data.target, dtype=torch.int64)[order]
    pixels = [torch.arange(64)] + [torch.randperm(64, generator=r) for _ in range(tasks - 1)]
    return [Task(x[:1200, p], y[:1200], x[1200:, p], y[1200:]) for p in pixels]


def batches(task: Task, steps: int, size: int = 64, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """``steps`` random batches (x, y) of the training part."""
    r = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        pick = torch.randint(len(task.x), (size,), generator=r)
        yield task.x[pick], task.y[pick]


def draw(x: Tensor) -> str:
    """One image as text, eight rows of eight."""
    return "\n".join("".join(" .:*#"[int(4 * p)] for p in row) for row in x.reshape(8, 8).tolist())
