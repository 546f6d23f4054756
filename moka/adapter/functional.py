"""The paper's equations, short and slow: the oracle that `MokaLinear` is tested against."""

import math

import torch
from torch import Tensor

PADDING = -1


def moka_delta(
    x: Tensor,
    A: Tensor,
    B: Tensor,
    modality_ids: Tensor,
    question_mask: Tensor,
    *,
    scaling: float = 1.0,
    cross_weight: float = 1.0,
    scale_before_attention: bool = False,
) -> Tensor:
    r"""Compute what a MokA adapter adds to the output of a frozen linear layer.

    MokA (https://arxiv.org/abs/2506.05191), equations of section 3: with \(a_t = A_{m(t)} x_t\), text slot 0,

    - text tokens: \(z_t = a_t\),
    - media tokens: \(z_t = a_t + \lambda\, \mathrm{softmax}(a_t K^\top / \sqrt r) K\), where the rows of \(K\) are the
      \(a\) of the question's text tokens,
    - \(\Delta h_t = s B z_t\); padding gets nothing.

    Args:
        x (`torch.Tensor` of shape `(batch, length, in_features)`): Input of the linear layer.
        A (`torch.Tensor` of shape `(slots, r, in_features)`): One down-projection per modality; slot 0 is text.
        B (`torch.Tensor` of shape `(out_features, r)`): The shared up-projection.
        modality_ids (`torch.Tensor` of shape `(batch, length)`): Slot of every token, -1 for padding.
        question_mask (`torch.Tensor` of shape `(batch, length)`, bool): Tokens of the question; those that are text
            are the keys and values.
        scaling (`float`, defaults to 1.0): \(s\), usually `alpha / r`.
        cross_weight (`float`, defaults to 1.0): \(\lambda\); 0 turns the attention off.
        scale_before_attention (`bool`, defaults to `False`): Multiply by \(s\) before the attention instead of after
            \(B\), as the authors' audio-visual code does: its softmax sees logits that are \(s^2\) times larger.

    Returns:
        `torch.Tensor` of shape `(batch, length, out_features)`.

    Raises:
        ValueError: For shapes that do not fit, ids outside `-1 .. slots-1`, and, with `cross_weight` other than 0, a
            sample that has media tokens but no question.
    """
    _check(x, A, B, modality_ids, question_mask)
    rank = A.shape[1]
    before, after = (scaling, 1.0) if scale_before_attention else (1.0, scaling)
    rows: list[Tensor] = []
    for sample, ids, question in zip(x, modality_ids, question_mask, strict=True):
        z = x.new_zeros(len(ids), rank)
        for slot, down in enumerate(A):
            z = torch.where((ids == slot).unsqueeze(1), before * (sample @ down.T), z)
        is_media = ids > 0
        if cross_weight != 0 and is_media.any():
            keys = z[question & (ids == 0)]
            if len(keys) == 0:
                raise ValueError(
                    f"Sample {len(rows)} has {int(is_media.sum())} media tokens but no question token to attend to: "
                    "mark its question in question_mask, or use cross_weight=0."
                )
            attended = torch.softmax(z @ keys.T / math.sqrt(rank), dim=-1) @ keys
            z = z + cross_weight * is_media.unsqueeze(1) * attended
        rows.append(after * (z @ B.T))
    return torch.stack(rows)


def _check(x: Tensor, A: Tensor, B: Tensor, modality_ids: Tensor, question_mask: Tensor) -> None:
    if x.dim() != 3 or A.dim() != 3 or B.dim() != 2:
        raise ValueError(
            "Expected x (batch, length, in), A (slots, r, in) and B (out, r); "
            f"got {tuple(x.shape)}, {tuple(A.shape)} and {tuple(B.shape)}."
        )
    if A.shape[2] != x.shape[2] or A.shape[1] != B.shape[1]:
        raise ValueError(f"A {tuple(A.shape)} does not fit x {tuple(x.shape)} and B {tuple(B.shape)}.")
    for name, value in (("modality_ids", modality_ids), ("question_mask", question_mask)):
        if value.shape != x.shape[:2]:
            raise ValueError(f"{name} has shape {tuple(value.shape)}; x needs {tuple(x.shape[:2])}.")
    if question_mask.dtype != torch.bool:
        raise ValueError(f"question_mask has dtype {question_mask.dtype}; pass booleans.")
    unknown = modality_ids[(modality_ids < PADDING) | (modality_ids >= len(A))]
    if len(unknown):
        raise ValueError(
            f"modality_ids holds {unknown.unique().tolist()}; with {len(A)} slots use -1 .. {len(A) - 1}."
        )
