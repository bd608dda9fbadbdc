"""Linear sum assignment, one problem at a time or many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastcv import _checks, _core
from fastcv.ops._device import run_on_device

Indices: TypeAlias = NDArray[np.int64]
Duals: TypeAlias = NDArray[np.float64]


@overload
def linear_sum_assignment(
    cost_matrix: ArrayLike,
    maximize: bool = False,
    *,
    cost_limit: float | None = None,
    nan_policy: Literal["raise", "forbid"] = "raise",
    return_duals: Literal[False] = False,
) -> tuple[Indices, Indices]: ...
@overload
def linear_sum_assignment(
    cost_matrix: ArrayLike,
    maximize: bool = False,
    *,
    cost_limit: float | None = None,
    nan_policy: Literal["raise", "forbid"] = "raise",
    return_duals: Literal[True],
) -> tuple[Indices, Indices, Duals, Duals]: ...
def linear_sum_assignment(
    cost_matrix: ArrayLike,
    maximize: bool = False,
    *,
    cost_limit: float | None = None,
    nan_policy: Literal["raise", "forbid"] = "raise",
    return_duals: bool = False,
) -> tuple[Any, ...]:
    """Match rows to columns, each with one at most, at the least sum of costs.

    `scipy.optimize.linear_sum_assignment` with the same results and errors, and partial matchings.

    Parameters
    ----------
    cost_matrix : array_like, shape (n, m)
        ``cost_matrix[i, j]`` is the cost of matching row i to column j. float32 and float64 are
        read where they are, with any strides; what else NumPy casts safely to float64 (integers,
        bool, lists) is cast. +inf (with `maximize`, -inf) marks a pair that may not be matched.
    maximize : bool, optional
        Find the largest sum instead.
    cost_limit : float, optional
        A row and a column whose pair costs more than this are better left apart: the sum of
        ``cost - cost_limit`` over the pairs is minimised, whatever their number. With `maximize`, a
        pair that costs less is better left apart.
    nan_policy : {"raise", "forbid"}, optional
        "raise" takes NaN for an error. "forbid" takes it for a pair that may not be matched, and
        leaves rows unmatched where the costs allow no complete matching: as few as possible.
    return_duals : bool, optional
        Return the dual variables as well, which prove that the matching is optimal.

    Returns
    -------
    row_ind, col_ind : ndarray of int64, shape (min(n, m),) or less
        Row and column of each pair, in order of the rows. There are fewer pairs than min(n, m) only
        with `cost_limit` or ``nan_policy="forbid"``.
    u, v : ndarray of float64, shapes (n,) and (m,)
        Only with `return_duals`: see Notes.

    Raises
    ------
    TypeError
        If the costs cannot be cast safely to float64, or if `cost_limit` is not a real number or
        `nan_policy` not a string.
    ValueError
        If `cost_matrix` has not two axes; if it holds NaN, or -inf (with `maximize`, +inf); if no
        complete matching has a finite cost, and neither `cost_limit` nor ``nan_policy="forbid"``
        allow a partial one; if `cost_limit` is NaN; or if `nan_policy` is unknown.
    MemoryError
        If memory for the result or for scratch cannot be had.

    See Also
    --------
    linear_sum_assignment_batch : Many problems in one call.
    detr_match : The matching of DETR, costs included.

    Notes
    -----
    Shortest augmenting paths [1]_, [2]_ from row-reduced duals, in ``O(min(n, m)**2 * max(n, m))``
    at worst. Sums are float64 for every dtype, and the duals keep ``u[i] + v[j] <= cost[i, j]``
    for all pairs (with `maximize`, ``>=``) with equality for matched ones, up to rounding. Hence
    ``cost_matrix[row_ind, col_ind].sum() == u.sum() + v.sum()``, and no matching costs less. A row
    or column without a partner has the dual 0, where all of the other side are matched. With
    `cost_limit` L, ``u <= L`` and ``v <= 0``, with equality for whoever has no partner. Where
    ``nan_policy="forbid"`` leaves rows unmatched, the rows and columns that are to blame have no
    finite duals: ``u`` is inf there and ``v`` -inf.

    Where several matchings have the least cost, SciPy may return another one. Which one it is
    depends on the costs alone, not on memory layout or threads. Constant costs give the
    identity.

    The costs are copied if `maximize`, if there are more rows than columns, or if rows are not
    contiguous. A long call can be interrupted.

    References
    ----------
    .. [1] R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense and sparse
       linear assignment problems", Computing 38, 1987.
    .. [2] D. F. Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Transactions
       on Aerospace and Electronic Systems 52, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> cost = np.array([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]])
    >>> rows, columns = fastcv.linear_sum_assignment(cost)
    >>> columns
    array([1, 0, 2])
    >>> cost[rows, columns].sum()
    np.float64(5.0)

    Rather than pay more than 1.5, leave two apart:

    >>> fastcv.linear_sum_assignment(cost, cost_limit=1.5)
    (array([1]), array([1]))
    """
    maximize = bool(maximize)
    costs = _checks.cost_matrix("linear_sum_assignment", "cost_matrix", cost_matrix)
    if costs is None:
        found: tuple[Any, ...] = run_on_device("linear_sum_assignment", locals())
        return found
    limit = _checks.cost_limit("linear_sum_assignment", cost_limit, maximize)
    forbid_nan = _checks.nan_policy("linear_sum_assignment", nan_policy)
    try:
        return _core.linear_sum_assignment(costs, maximize, limit, forbid_nan, bool(return_duals))
    except _core.CostError as error:
        text = _checks.cost_fault("cost_matrix", costs, error.args)
        raise ValueError(f"linear_sum_assignment: {text}") from None


def linear_sum_assignment_batch(
    costs: NDArray[Any] | Sequence[ArrayLike],
    sizes: ArrayLike | None = None,
    maximize: bool = False,
    *,
    cost_limit: float | None = None,
    nan_policy: Literal["raise", "forbid"] = "raise",
) -> Indices:
    """Solve many assignment problems in one call, on all threads.

    Parameters
    ----------
    costs : ndarray, shape (B, n, m), or sequence of B array_likes with two axes
        One matrix a problem, as `linear_sum_assignment` takes it. In a sequence they may have
        any shapes.
    sizes : array_like of int, shape (B, 2), optional
        Rows and columns of each matrix that are used, from the first on; by default all. What is
        padding is not read.
    maximize : bool, optional
        Find the largest sums instead.
    cost_limit : float, optional
        As in `linear_sum_assignment`, for each problem.
    nan_policy : {"raise", "forbid"}, optional
        As in `linear_sum_assignment`.

    Returns
    -------
    ndarray of int64, shape (B, n_max)
        The column of each row of each problem, -1 for a row without one and for padding. n_max is
        n, or the largest number of rows in the sequence.

    Raises
    ------
    TypeError
        If `costs` is neither an ndarray nor a list or tuple, if costs cannot be cast safely to
        float64, if `sizes` are no integers, or as `linear_sum_assignment`.
    ValueError
        If `costs` has not three axes, or one of a sequence not two; if `sizes` has another shape or
        exceeds the costs; and as `linear_sum_assignment`, naming the first problem that is at
        fault.
    MemoryError
        If memory for the result or for scratch cannot be had.

    See Also
    --------
    linear_sum_assignment : One problem.

    Notes
    -----
    Each problem gets the pairs that `linear_sum_assignment` finds for it alone, whatever the other
    problems are and for any number of threads. Threads take problems one by one, small ones some at
    a time; each has scratch memory for the largest.

    Examples
    --------
    >>> import numpy as np
    >>> import fastcv
    >>> first = np.array([[1.0, 2.0], [1.0, 4.0]])
    >>> second = np.array([[3.0, 1.0, 2.0]])
    >>> fastcv.linear_sum_assignment_batch([first, second])
    array([[ 1,  0],
           [ 1, -1]])
    """
    op = "linear_sum_assignment_batch"
    maximize = bool(maximize)
    problems = _checks.cost_matrices(op, costs)
    if problems is None:
        found: Indices = run_on_device(op, locals())
        return found
    used = _checks.problem_sizes(op, sizes, problems)
    limit = _checks.cost_limit(op, cost_limit, maximize)
    forbid_nan = _checks.nan_policy(op, nan_policy)
    try:
        return _core.linear_sum_assignment_batch(problems, used, maximize, limit, forbid_nan)
    except _core.CostError as error:
        index = error.args[1]
        rows, width = problems[index].shape if used is None else used[index]
        text = _checks.cost_fault(f"costs[{index}]", problems[index][:rows, :width], error.args)
        raise ValueError(f"{op}: {text}") from None
