"""The MokA authors' projector weights as ours."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from moka.omni.configuration import MokaProjectorConfig
from moka.omni.projector import MokaProjector
from moka.omni.weights import misfit

# The authors' Q-Former is a whole BERT; the branch for text and the language model head never run.
_UNUSED = re.compile(
    r"bert\.embeddings\.(word_embeddings|position_embeddings)\.weight|bert\.embeddings\.position_ids"
    r"|bert\.encoder\.layer\.\d+\.(intermediate|output)\..+|cls\..+"
)
_RENAMED = (
    (re.compile(r"^bert\.embeddings\.LayerNorm\."), "layernorm."),
    (
        re.compile(r"^bert\.encoder\.layer\.(\d+)\.(attention|crossattention)\.self\."),
        r"encoder.layer.\1.\2.attention.",
    ),
    (re.compile(r"^bert\."), ""),
)
_QUERY = re.compile(r"^(visual|audio)_query_tokens$")
_LAYER = re.compile(r"^encoder\.layer\.(\d+)\.")


def projector_from_reference(weights: Mapping[str, Tensor], *, num_heads: int = 12) -> MokaProjector:
    """Make a projector of the weights of the authors' VLProjector or ALProjector.

    Args:
        weights: By the authors' names, such as `visual_query_tokens`, without what precedes the projector's own names.
        num_heads: Attention heads of the Q-Former, which weights do not tell; the authors' BERT has 12.

    Returns:
        The projector, without dropout.

    Raises:
        ValueError: A weight is missing, unknown or of another shape; lists the names (a missing one by ours).
    """
    kinds = [match[1] for match in map(_QUERY.match, weights) if match]
    if len(kinds) != 1:
        raise ValueError(f"one of visual_query_tokens and audio_query_tokens is expected, found {kinds or 'none'}")
    theirs = {ours: name for name in weights if (ours := _our_name(name, kinds[0])) is not None}
    renamed = {ours: weights[name] for ours, name in theirs.items()}
    if renamed["resampler.query"].dim() != 3:
        raise ValueError(
            f"{theirs['resampler.query']} has shape {tuple(renamed['resampler.query'].shape)}, not (1, n, d)"
        )
    query, width = renamed["resampler.query"], renamed.get("norm.weight", torch.empty(0)).shape[0]
    layers = {int(match[1]) for name in renamed if (match := _LAYER.match(name.removeprefix("resampler.qformer.")))}
    inner = renamed.get("resampler.qformer.encoder.layer.0.intermediate_query.dense.weight", query[0]).shape[0]
    config = MokaProjectorConfig(
        num_queries=query.shape[1],
        hidden_size=query.shape[2],
        num_layers=max(layers, default=0) + 1,
        num_heads=num_heads,
        intermediate_size=inner,
        dropout=0.0,
    )
    projector = MokaProjector(config, width, renamed.get("mlp.2.weight", torch.empty(1)).shape[0])
    if problem := misfit(projector.state_dict(), renamed, theirs):
        raise ValueError(f"these weights are not those of the authors' {kinds[0]} projector: {problem}")
    projector.load_state_dict(renamed)
    return projector


def _our_name(name: str, kind: str) -> str | None:
    """Our name of one of the authors' weights, None for one that never runs; an unknown name stays as it is."""
    if name == f"{kind}_query_tokens":
        return "resampler.query"
    prefixes = {f"{kind}_ln.": "norm.", f"{kind}_proj.": "mlp.", f"{kind}_Qformer.": "resampler.qformer."}
    prefix = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
    if prefix is None:
        return name
    inner = name.removeprefix(prefix)
    if prefix == f"{kind}_Qformer.":
        if _UNUSED.fullmatch(inner):
            return None
        for pattern, replacement in _RENAMED:
            inner = pattern.sub(replacement, inner)
    return prefixes[prefix] + inner
