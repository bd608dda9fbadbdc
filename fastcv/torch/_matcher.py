"""DETR's matching as the module that its training code expects."""

from __future__ import annotations

from typing import Any

import torch

from fastcv.torch._matchings import MATCHINGS


class HungarianMatcher(torch.nn.Module):
    """Match predictions to objects at the least cost: DETR's module, same call, same result.

    Parameters
    ----------
    cost_class, cost_bbox, cost_giou : float, default 1
        Weights of the parts of a cost: class probability, L1 distance of the boxes, and their
        generalised intersection over union. Not all of them 0.

    Notes
    -----
    Call it with ``outputs``, a mapping with "pred_logits" (B, Q, K) and "pred_boxes" (B, Q, 4), and
    ``targets``, a list of B mappings with "labels" (T_b,) and "boxes" (T_b, 4). It returns a tuple
    (index of queries, index of targets) of int64 tensors for each image, on the predictions'
    device, which is not waited for. `fastcv.detr_match` describes the costs.
    """

    def __init__(self, cost_class: float = 1, cost_bbox: float = 1, cost_giou: float = 1) -> None:
        super().__init__()
        if cost_class == 0 and cost_bbox == 0 and cost_giou == 0:
            raise ValueError("HungarianMatcher: the costs must not all be 0")
        self.cost_class = cost_class
        self.cost_bbox = cost_bbox
        self.cost_giou = cost_giou

    def forward(self, outputs: Any, targets: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the pairs of each image."""
        matches: list[tuple[torch.Tensor, torch.Tensor]] = MATCHINGS["detr_match"](
            outputs["pred_logits"],
            outputs["pred_boxes"],
            [target["labels"] for target in targets],
            [target["boxes"] for target in targets],
            cost_class=self.cost_class,
            cost_bbox=self.cost_bbox,
            cost_giou=self.cost_giou,
        )
        return matches
