"""The learning-rate schedule of everything pre-trained here."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_cosine(optimizer: Optimizer, steps: int, warmup: float = 0.05) -> LambdaLR:
    """Linear warm-up over a share of the steps, then a cosine to a twentieth of the rate."""
    rising = max(1, round(steps * warmup))

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        done = (step - rising) / max(1, steps - rising)
        return 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2

    return LambdaLR(optimizer, factor)
