"""Activation checkpointing: a layer that runs again must see the routing of its own forward."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from moka.adapter.router import Router

# transformers' layers keep the checkpointing function here, torch's CheckpointWrapper (used by FSDP) there.
_CHECKPOINT_ATTRIBUTES = ("_gradient_checkpointing_func", "checkpoint_fn")


class ReplayingCheckpoint:
    """A checkpointing function whose recomputation uses the routing that was current when it was called.

    The backward pass runs checkpointed layers again after the forward has ended, perhaps after another forward, and
    perhaps in another thread. Without this, their gradients would be computed with wrong modality ids, silently.

    Args:
        checkpoint (`Callable`): The function to wrap, called as `checkpoint(run, *args)`.
        router (`Router`): Where the layers read their routing.
    """

    def __init__(self, checkpoint: Callable[..., Any], router: Router) -> None:
        self.checkpoint = checkpoint
        self.router = router

    def __call__(self, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        routings = self.router.current

        def run_with_routing(*inputs: Any, **named: Any) -> Any:
            with self.router.use(routings):
                return run(*inputs, **named)

        return self.checkpoint(run_with_routing, *args, **kwargs)


def replay_under_checkpointing(model: nn.Module, router: Router) -> None:
    """Wrap the checkpointing functions of a model's layers, those that are not wrapped yet.

    Called before every forward, because trainers turn checkpointing on after the adapter is attached.
    """
    if not model.training:
        return
    for module in model.modules():
        for name in _CHECKPOINT_ATTRIBUTES:
            checkpoint = module.__dict__.get(name)
            if checkpoint is not None and not isinstance(checkpoint, ReplayingCheckpoint):
                setattr(module, name, ReplayingCheckpoint(checkpoint, router))
