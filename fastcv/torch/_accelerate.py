"""Whole models: which modules to swap, and which of their neighbours to fold into them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, NamedTuple

import torch

from fastcv.torch import _modules, _transformers
from fastcv.torch._ops import FLOATS

_BUFFERS = {"weight", "bias", "running_mean", "running_var"}


def accelerate(
    model: torch.nn.Module,
    *,
    filter_fn: Callable[[torch.nn.Module, str], bool] | None = None,
    inplace: bool = False,
) -> torch.nn.Module:
    """Let fastcv run the modules of a model that it has kernels for.

    Parameters
    ----------
    model : torch.nn.Module
        Any model. Its `Conv2d`, `ConvTranspose2d`, `Linear`, `MaxPool2d`, `MaxUnpool2d` and
        `MultiheadAttention` modules are swapped; `report` says which, and why not the others.
        Models of `transformers` that call torch's fused attention call fastcv's instead.
    filter_fn : callable, optional
        Called with each of these modules and its name; one for which it returns false is left.
    inplace : bool, default False
        Change `model` itself instead of a copy.

    Returns
    -------
    torch.nn.Module
        The model. Its state_dict, its parameters and its training mode are those of `model`.

    Notes
    -----
    In eval mode, where no gradient is wanted, convolutions and linear layers keep their weights
    packed, in memory of their own. What directly follows is computed with them: an activation, and
    after a convolution a batch norm in eval mode. Weights that were changed in place, replaced or
    loaded are packed again at the next call; only a change through ``tensor.data`` goes unnoticed
    until `train` or `eval` is called. In train mode, and where gradients are wanted, modules
    compute one by one, with gradients from fastcv, and linear layers are torch's. All of this holds
    under `torch.compile` too, which is mostly the fastest way to run what this returns.

    Examples
    --------
    >>> import torch, fastcv.torch
    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU()
    ... )
    >>> fast = fastcv.torch.accelerate(model.eval())
    >>> print(fastcv.torch.report(fast))
    0: Conv2d runs on fastcv, with 1 and 2 folded into it in eval mode
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"accelerate: model must be a torch.nn.Module, got {type(model).__name__}")
    if not inplace:
        model = copy.deepcopy(model)
    chosen = filter_fn or (lambda module, name: True)
    for name, module in model.named_modules():
        if reason(module) is None and chosen(module, name):
            module.__class__ = _modules.CLASSES[type(module)]
    _transformers.swap_attention(model, chosen)
    paths = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for container in model.modules():
        if any(isinstance(child, _modules.PACKED) for child in container.children()):
            _fold(container, paths)
    return model


class Entry(NamedTuple):
    """What became of one module."""

    name: str
    kind: str
    swapped: bool
    text: str


class Report(list[Entry]):
    """An entry for each module that is swapped, or that might have been; prints as text."""

    def __str__(self) -> str:
        return "\n".join(f"{entry.name or '(model)'}: {entry.kind} {entry.text}" for entry in self)


def report(model: torch.nn.Module) -> Report:
    """Say which modules of a model run on fastcv, and why others do not.

    Parameters
    ----------
    model : torch.nn.Module
        What `accelerate` returned.

    Returns
    -------
    Report
        A list with a tuple (name, kind, swapped, text) for each module of a kind that fastcv has.
        It prints as one line each.
    """
    names = {id(module): name for name, module in model.named_modules()}
    return Report(
        Entry(name, type(module).__name__, swapped, text)
        for name, module in model.named_modules()
        for swapped, text in _texts(module, names)
    )


def _texts(module: torch.nn.Module, names: dict[int, str]) -> Iterator[tuple[bool, str]]:
    if isinstance(module, tuple(_modules.CLASSES.values())):
        followers = [names.get(id(each), "?") for each in getattr(module, "followers", ())]
        why = getattr(module, "unfolded_because", None)
        more = ""
        if followers:
            more = f", with {' and '.join(followers)} folded into it in eval mode"
        elif why is not None:
            more = f", with nothing folded into it: {why}"
        yield True, "runs on fastcv" + more
    elif _transformers.uses_attention(module):
        yield True, "calls fastcv's attention"
    elif isinstance(module, torch.nn.TransformerEncoderLayer):
        yield False, "is computed whole by torch in eval mode without gradients"
    elif isinstance(module, tuple(_modules.CLASSES)):
        yield False, "is left: " + (reason(module) or "not chosen")


def reason(module: torch.nn.Module) -> str | None:
    """Say why this module cannot be swapped; None if it can."""
    kind = type(module)
    if kind not in _modules.CLASSES:
        return "a subclass may compute something else"
    for name, tensor in module.named_parameters():
        if tensor.dtype not in FLOATS:
            return f"{name} is {tensor.dtype}, not float32 or float64"
        if tensor.device.type != "cpu":
            return f"{name} is on {tensor.device}, not on the CPU"
    padding_mode = getattr(module, "padding_mode", "zeros")
    if padding_mode != "zeros":
        return f"padding_mode is {padding_mode!r}"
    if isinstance(module, torch.nn.MultiheadAttention) and (
        module.bias_k is not None or module.add_zero_attn
    ):
        return "it adds keys of its own"
    return None


# Folding


class _Tracer(torch.fx.Tracer):
    """Records what one forward calls, and looks into none of it."""

    def is_leaf_module(self, m: torch.nn.Module, module_qualified_name: str) -> bool:
        return True


def _fold(container: torch.nn.Module, paths: Counter[int]) -> None:
    """Find what directly follows the container's packed modules, and let them fold it."""
    graph = _recorded(container)
    if graph is None:
        _say_why_not(container, paths)
        return
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    folding = []
    for node in graph.nodes:
        module = _module_of(container, node)
        if (
            not isinstance(module, _modules.PACKED)
            or calls[node.target] > 1
            or paths[id(module)] > 1
            or len(node.args) != 1
            or node.kwargs
        ):
            continue
        followers = _followers(container, node, calls, paths)
        if followers:
            module.__dict__["followers"] = followers
            folding.append(module)
    if folding and _modules.FOLDS not in container.__dict__:
        container.__dict__[_modules.FOLDS] = tuple(folding)
        container.register_forward_pre_hook(_modules.arm)
        container.register_forward_hook(_modules.disarm, always_call=True)


def _say_why_not(container: torch.nn.Module, paths: Counter[int]) -> None:
    """Leave a note for the report in modules that this container alone holds."""
    kind = type(container)
    calls_none = kind.forward is torch.nn.Module.forward  # a ModuleList, for one
    why = "does not call it" if calls_none else "has a forward that cannot be recorded"
    for child in container.children():
        if isinstance(child, _modules.PACKED) and paths[id(child)] == 1:
            child.__dict__["unfolded_because"] = f"{kind.__name__} {why}"


def _recorded(container: torch.nn.Module) -> Any:
    """Return the graph of one forward; None if its control flow depends on values or sizes."""
    forward = getattr(type(container).forward, "__code__", None)
    names = forward.co_names if forward is not None else ()
    known = getattr(type(container).forward, "__globals__", {})
    # Functions that look at sizes, as those that work out a padding, may pass unrecorded.
    helpers = tuple(known[name] for name in names if isinstance(known.get(name), FunctionType))
    for unrecorded in ((), helpers):
        try:
            return _Tracer(autowrap_functions=unrecorded).trace(container)
        except Exception:
            continue
    return None


def _followers(
    container: torch.nn.Module, node: Any, calls: Counter[Any], paths: Counter[int]
) -> tuple[torch.nn.Module, ...]:
    packed = _module_of(container, node)
    followers: list[torch.nn.Module] = []
    # A batch norm's channels are a convolution's filters, but never a linear layer's outputs.
    linear = isinstance(packed, _modules.Linear)
    for wanted in ("activation",) if linear else ("norm", "activation"):
        after = _only_user(node)
        module = None if after is None else _module_of(container, after)
        if module is None:
            break
        if wanted == "norm":
            if calls[after.target] > 1 or paths[id(module)] > 1 or not _takes_norm(module):
                continue
            if module.running_var.dtype != packed.weight.dtype:
                break
        elif not _takes_activation(module) or _modules.activation_of(module) is None:
            break
        followers.append(module)
        node = after
    return tuple(followers)


def _takes_norm(module: torch.nn.Module) -> bool:
    """Whether this is a batch norm that can be folded; make it one that takes part in it."""
    if isinstance(module, (_modules.BatchNorm2d, _modules.FrozenBatchNorm2d)):
        return True
    if type(module) is torch.nn.BatchNorm2d and module.running_mean is not None:
        module.__class__ = _modules.BatchNorm2d
        return True
    # Models for detection bring their own, which all have this name and these buffers.
    if type(module).__name__.endswith("FrozenBatchNorm2d") and set(module._buffers) == _BUFFERS:
        module.__class__ = _modules.FrozenBatchNorm2d
        return True
    return False


def _takes_activation(module: torch.nn.Module) -> bool:
    """Whether this is an activation that can be folded; make it one that takes part in it."""
    own = getattr(module, "act", None)
    if type(module).__name__ == "GELUActivation" and own is torch.nn.functional.gelu:
        module.__class__ = _modules.GELUActivation
    if type(module) in _modules.FOLLOWERS:
        module.__class__ = _modules.FOLLOWERS[type(module)]
    return isinstance(module, (*_modules.FOLLOWERS.values(), _modules.GELUActivation))


def _only_user(node: Any) -> Any:
    """Return the module call that takes this result and nothing else, if nothing else uses it."""
    if len(node.users) != 1:
        return None
    (user,) = node.users
    taken = user.op == "call_module" and user.args == (node,) and not user.kwargs
    return user if taken else None


def _module_of(container: torch.nn.Module, node: Any) -> Any:
    return container.get_submodule(node.target) if node.op == "call_module" else None
