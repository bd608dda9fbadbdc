"""DETR's matching, costs included, against its published matcher on torch and SciPy."""

from itertools import chain
from typing import ClassVar

import numpy as np
import problem
from cases.detr_match import CASES, Case, published
from problem import Group

import fastcv
from fastcv import reference

WEIGHTS = (1.0, 5.0, 2.0)


class Problem(problem.Problem):
    cases = CASES
    modes: ClassVar = {"call": "`detr_match` against the published matcher on torch and SciPy"}
    groups = (
        Group("softmax, as DETR", lambda case: "detr" in case.tags),
        Group("focal, as Deformable DETR", lambda case: "deformable" in case.tags),
    )
    kinds = (("detr", "softmax"), ("deformable", "focal"))

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.logits, self.boxes, self.labels, self.targets = case.arrays()

    def expected(self, mode):
        """The cost of each image's matching."""
        return [np.array([cost[pairs].sum() for cost, pairs in self._references()])]

    def _references(self):
        for index, (logits, boxes) in enumerate(zip(self.logits, self.boxes, strict=True)):
            image = index % self.case.images
            cost = reference.detr_costs(
                logits,
                boxes,
                self.labels[image],
                self.targets[image],
                weights=WEIGHTS,
                class_cost=self.case.class_cost,
            )
            yield cost, reference.linear_sum_assignment(cost)

    def error(self, results, expected):
        """Of the sums, from the pairs: queries and objects of an image after those of another."""
        pairs = zip(results[::2], results[1::2], strict=True)
        costs = (cost for cost, _ in self._references())
        sums = [cost[pair].sum() for cost, pair in zip(costs, pairs, strict=True)]
        return super().error([np.array(sums)], expected)

    def bytes(self, mode):
        return self.logits.nbytes + self.boxes.nbytes

    @staticmethod
    def shape(case):
        layers = f"{case.layers} x " if case.layers > 1 else ""
        return f"{layers}{case.images} x {case.queries}, {case.classes} classes, {case.objects}"

    def fastcv_call(self, peer):
        layers, name = self.case.layers, self.case.class_cost
        return [
            lambda: tuple(
                chain.from_iterable(
                    fastcv.detr_match(
                        self.logits,
                        self.boxes,
                        self.labels * layers,
                        self.targets * layers,
                        class_cost=name,
                    )
                )
            )
        ]

    def torch_call(self, peer):
        """The published matcher, a layer at a time as the published loss calls it."""
        import torch

        if peer.layout is not torch.contiguous_format:
            raise NotImplementedError("no images, no channels-last")
        images, name = self.case.images, self.case.class_cost
        logits = torch.from_numpy(self.logits).split(images)
        boxes = torch.from_numpy(self.boxes).split(images)
        labels = [torch.from_numpy(array) for array in self.labels]
        targets = [torch.from_numpy(array) for array in self.targets]

        def run():
            layers = zip(logits, boxes, strict=True)
            matches = [published(torch, (*x, labels, targets), WEIGHTS, name) for x in layers]
            return tuple(torch.as_tensor(index) for pair in chain(*matches) for index in pair)

        return [run]
