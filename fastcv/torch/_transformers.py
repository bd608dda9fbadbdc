"""Attention of `transformers`' models: they look a function up by a name in their configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from fastcv.torch._ops import FUNCTIONS, serves

NAME = "fastcv"


def swap_attention(model: torch.nn.Module, chosen: Callable[[torch.nn.Module, str], bool]) -> None:
    """Let the models in this one that call torch's fused attention call fastcv's."""
    models: Any = sys.modules.get("transformers.modeling_utils")
    if models is None:  # nobody can have made one
        return
    for name, module in model.named_modules():
        if (
            isinstance(module, models.PreTrainedModel)
            and module.config._attn_implementation == "sdpa"
            and module._can_set_attn_implementation()
            and chosen(module, name)
        ):
            _register(models)
            module.set_attn_implementation(NAME)


def uses_attention(module: torch.nn.Module) -> bool:
    """Whether this is a model that has been made to."""
    return getattr(getattr(module, "config", None), "_attn_implementation", None) == NAME


def _register(models: Any) -> None:
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    models.AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Do what `transformers` does for "sdpa", which also takes what this does not."""
    if is_causal is None:
        is_causal = getattr(module, "is_causal", True)
    served = (
        not dropout
        and not others.get("output_attentions")
        and all(others.get(name) is None for name in ("position_bias", "softcap"))
        and serves(query, key, value)
        and (attention_mask is None or attention_mask.dtype in (torch.bool, query.dtype))
    )
    if not served:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **others
        )
        return result
    output = FUNCTIONS["scaled_dot_product_attention"](
        query,
        key,
        value,
        attention_mask,
        is_causal=bool(query.shape[2] > 1 and attention_mask is None and is_causal),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.transpose(1, 2).contiguous(), None
