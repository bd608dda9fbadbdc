"""Assignment problems: one at a time, in batches, and with a limit."""

from itertools import chain
from typing import ClassVar

import numpy as np
import problem
from cases.linear_sum_assignment import CASES, Case
from problem import Group

import fastcv


class Problem(problem.Problem):
    cases = CASES
    modes: ClassVar = {"call": "`linear_sum_assignment` and its batch against SciPy and lap"}
    groups = (
        Group("uniform, geometric and integer costs", lambda case: "single" in case.tags),
        Group("i * j, clusters, 24 decades, tall", lambda case: "hard" in case.tags),
        Group("batches", lambda case: "batch" in case.tags),
        Group("with a limit, against lap", lambda case: "limit" in case.tags, "lap"),
    )
    kinds = (
        ("single", "single"),
        ("hard", "hard"),
        ("batch", "batch"),
        ("limit", "limit"),
    )

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.costs = case.costs()
        share = case.share_below_limit
        self.limit = None if share is None else float(np.quantile(self.costs, share))

    def expected(self, mode):
        """The least sum of each problem, by SciPy; with a limit, of the augmented one."""
        from scipy.optimize import linear_sum_assignment

        least = []
        for costs in self.costs:
            if self.limit is not None:
                n, m = costs.shape
                square = np.zeros((n + m, n + m))
                square[:n, :m] = costs - self.limit
                square[:n, m:] = square[n:, :m] = 1e9
                np.fill_diagonal(square[:n, m:], 0)
                np.fill_diagonal(square[n:, :m], 0)
                costs = square
            least.append(costs[linear_sum_assignment(costs)].sum())
        return [np.array(least)]

    def error(self, results, expected):
        """Of the sums. A problem's result is rows and columns, or columns alone, -1 for none."""
        sums = []
        for index, costs in enumerate(self.costs):
            if len(results) == len(self.costs):
                columns = results[index]
                rows = np.flatnonzero(columns >= 0)
                columns = columns[rows]
            else:
                rows, columns = results[2 * index : 2 * index + 2]
            sums.append((costs[rows, columns] - (self.limit or 0)).sum())
        (least,) = expected
        size = np.sqrt(np.mean(least**2)) or 1  # enough columns with a cost of 0: the sum is 0
        return float(np.abs(np.array(sums) - least).max() / size)

    def bytes(self, mode):
        return self.costs.nbytes

    @staticmethod
    def shape(case):
        text = f"{case.count} x " if case.count > 1 else ""
        return text + f"{case.shape[0]}x{case.shape[1]}"

    def fastcv_call(self, peer):
        if self.case.count > 1:
            return [lambda: tuple(fastcv.linear_sum_assignment_batch(self.costs))]
        (costs,) = self.costs
        return [lambda: fastcv.linear_sum_assignment(costs, cost_limit=self.limit)]

    def scipy_call(self, peer):
        from scipy.optimize import linear_sum_assignment

        if self.limit is not None:
            raise NotImplementedError("partial matchings")
        return [lambda: tuple(chain.from_iterable(map(linear_sum_assignment, self.costs)))]

    def lap_call(self, peer):
        import lap

        options = {"extend_cost": True, "return_cost": False}
        if self.limit is not None:
            options["cost_limit"] = self.limit
        return [lambda: tuple(lap.lapjv(costs, **options)[0] for costs in self.costs)]
