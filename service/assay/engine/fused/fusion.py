"""Which of a trunk's modules compute by the kernels: found by their parts, held to their own pass.

Norms, gated feed-forward parts, rotations with the norms of heads before them, and layers, whose
sums are fused with the norms behind them. Modules of one class are exchanged together, if each
gives, on random input, what its own forward gives but for rounding; else they stay as they are. It
is a module's class that is exchanged, so whoever holds the module has the new one.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from assay.engine import faults
from assay.engine.attention import exactness, interface
from assay.engine.compilation import repeated_blocks
from assay.engine.fused import parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Kind = type[torch.nn.Module]
    Classes = dict[torch.nn.Module, Kind]  # what modules are to be of
    Option = dict[torch.nn.Module, Classes]  # by the module that shows whether that is right

_SCALES = [
    parts.Scale(has_offset, rounds_first)
    for has_offset in (False, True)
    for rounds_first in (True, False)
]
_FINE = 50.0  # part of a unit in the last place: another order of roundings is off by more
_FINEST = 2e-7  # of float32, where there is one order alone, and sums differ
_ROTATION = "apply_rotary_pos_emb"  # what transformers' modules call
_GATES = (("gate_proj", "up_proj", "down_proj"), ("gate_up_proj", "down_proj"), ("Wi", "Wo"))
_ACTIVATIONS = ("act_fn", "activation_fn", "act")
_TRIED_ROWS = 16


@dataclass(slots=True)
class Fusion:
    """What was exchanged in a trunk, and why what wasn't."""

    former: list[Classes] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def undo(self) -> None:
        """Let every module compute by its own class again."""
        for classes in reversed(self.former):
            _exchange(classes)
        self.former.clear()


def fuse(trunk: torch.nn.Module, run: Callable[[], object]) -> Fusion:
    """Exchange a trunk's modules, in place; `run` is a forward pass that calls all of them.

    A device that breaks or has no memory left raises what it raised.
    """
    made = Fusion()
    for kind in (_norms, _gates, _rotations, _layers):
        for own, options in kind(trunk):
            why = "its rotation is of another kind"  # where there is no option
            for option in options:
                why = _difference(option, run)
                if not why:
                    made.former += [_exchange(classes) for classes in option.values()]
                    break
            if why:
                made.notes.append(f"{own.__name__} isn't fused, slower: {why}")
    return made


def _exchange(classes: Classes) -> Classes:
    """Give modules other classes; return those that they had."""
    former = {module: type(module) for module in classes}
    for module, kind in classes.items():
        module.__class__ = kind
    return former


def _difference(option: Option, run: Callable[[], object]) -> str:
    """Return why modules don't give what their own forward gives; nothing where they do."""
    excesses: list[float] = []

    def compare(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        args, kwargs = _randomized(args, kwargs)
        expected = type(module).forward(module, *args, **kwargs)
        former = _exchange(option[module])
        try:
            found = type(module).forward(module, *args, **kwargs)
        finally:
            _exchange(former)
        is_fine = getattr(option[module][module], "is_fine", False)
        excesses.append(_excess(_first(found), _first(expected), is_fine=is_fine))

    handles = [module.register_forward_pre_hook(compare, with_kwargs=True) for module in option]
    try:
        why = _failure(run)
    finally:
        for handle in handles:
            handle.remove()
    if not why and not excesses:
        return "a forward pass doesn't call it"
    if not why and max(excesses) > 1:
        return f"off by {max(excesses):.2g} times what rounding may be"
    return why


def _failure(call: Callable[[], object]) -> str:
    """Call what may fail; return why it did, if it did, unless the device was at fault."""
    try:
        call()
    except (
        interface.UnsupportedAttention,
        *(ValueError, TypeError, RuntimeError, LookupError, AttributeError, OSError),
    ) as error:
        if faults.is_fault(error):
            raise
        return f"couldn't run: {type(error).__name__}"
    return ""


def _randomized(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return a module's arguments with random numbers for its states."""
    if args:
        return (_normal(args[0]), *args[1:]), kwargs
    return args, kwargs | {"hidden_states": _normal(kwargs["hidden_states"])}


def _normal(like: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator(device=like.device).manual_seed(0)
    numbers = torch.randn(like.shape, generator=generator, device=like.device)
    return numbers.to(like.dtype)


def _first(result: Any) -> torch.Tensor:
    first: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return first


def _excess(found: torch.Tensor, expected: torch.Tensor, *, is_fine: bool) -> float:
    """Return how many times as far as rounding may be a result is from what is expected.

    With `is_fine` that is on average, too, so that the order of roundings shows.
    """
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return float("inf")
    size = expected.double().abs()
    gap = (found.double() - expected.double()).abs() / (size + size.square().mean().sqrt())
    excess = float(gap.max()) / exactness.LIMITS[expected.dtype]
    if is_fine:
        unit = torch.finfo(expected.dtype).eps
        excess = max(excess, float(gap.mean()) / max(unit / _FINE, _FINEST))
    return excess if excess == excess else float("inf")  # noqa: PLR0124  NaN


def _subclass(own: Kind, forward: Callable[..., Any], **attributes: Any) -> Kind:
    """Return a class of a module's that computes in another way, and is called as its own is."""
    named = {"forward": functools.wraps(own.forward)(forward), "__module__": own.__module__}
    return type(own.__name__, (own,), named | attributes)


def _by_class(
    trunk: torch.nn.Module, is_of_kind: Callable[[torch.nn.Module], object]
) -> dict[Kind, list[torch.nn.Module]]:
    found = defaultdict(list)
    for module in trunk.modules():
        if is_of_kind(module):
            found[type(module)].append(module)
    return found


def _norms(trunk: torch.nn.Module) -> Iterator[tuple[Kind, Sequence[Option]]]:
    """Yield each class of RMSNorms, and the ways in which these may weigh."""
    for own, modules in _by_class(trunk, _is_norm).items():
        kinds = [_norm_class(own, scale) for scale in _SCALES]
        yield own, [{module: {module: kind} for module in modules} for kind in kinds]


def _is_norm(module: torch.nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    is_vector = isinstance(weight, torch.Tensor) and weight.dim() == 1
    return type(module).__name__.endswith("RMSNorm") and is_vector and _eps(module) is not None


def _eps(norm: Any) -> float | None:
    eps: float | None = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    return eps


def _norm_class(own: Kind, scale: parts.Scale) -> Kind:
    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        total, normed = vars(self).pop("ahead", (None, None))
        if total is hidden_states:  # the layer before has normalized it
            normed_before: torch.Tensor = normed
            return normed_before
        return parts.norm(hidden_states, scale, _as_part(self))[1]

    return _subclass(own, forward, scale=scale, is_fine=True)


def _as_part(norm: Any) -> parts.Norm:
    return parts.Norm(norm.weight, _eps(norm) or 0.0)


def _gates(trunk: torch.nn.Module) -> Iterator[tuple[Kind, Sequence[Option]]]:
    """Yield each class of feed-forward parts with gates that are one or two products."""
    for own, modules in _by_class(trunk, _gate_names).items():
        activation = _activation(modules[0], next(trunk.parameters()).device)
        if activation is not None:
            kind = _gate_class(own, _gate_names(modules[0]), activation)
            yield own, [{module: {module: kind} for module in modules}]


def _gate_names(module: torch.nn.Module) -> tuple[str, ...]:
    """Return what a module's products are called; nothing where it is of another kind."""
    children = {name for name, _ in module.named_children()}
    return next((names for names in _GATES if children.issuperset(names)), ())


def _activation(module: torch.nn.Module, device: torch.device) -> str | None:
    """Return which activation function a module has, by what it gives."""
    state = torch.linspace(-8, 8, 129, device=device)
    found: list[str] = []

    def compare(function: torch.nn.Module) -> None:
        given = function(state)
        for name, known in parts.ACTIVATIONS.items():
            if torch.allclose(given, known(state), rtol=0, atol=1e-6):
                found.append(name)

    for name, child in module.named_children():
        if name in _ACTIVATIONS:
            _failure(functools.partial(compare, child))
    return found[0] if found else None


def _gate_class(own: Kind, names: tuple[str, ...], activation: str) -> Kind:
    *ins, out = names

    def forward(self: Any, state: torch.Tensor) -> torch.Tensor:
        products = [getattr(self, name)(state) for name in ins]
        gated, up = products if len(products) > 1 else products[0].chunk(2, dim=-1)
        result: torch.Tensor = getattr(self, out)(parts.gate(gated, up, activation))
        return result

    return _subclass(own, forward)


def _rotations(trunk: torch.nn.Module) -> Iterator[tuple[Kind, Sequence[Option]]]:
    """Yield each class that rotates its queries and keys, with and without norms before that."""
    for own, modules in _by_class(trunk, _rotates).items():
        function = inspect.unwrap(own.forward).__globals__[_ROTATION]
        like = next(trunk.parameters())
        options: list[Option] = []
        for rounds in (True, False):
            if not _is_rotation(function, like, rounds_products=rounds):
                continue
            if all(map(_head_norms, modules)):
                passing = _passing_class(type(_head_norms(modules[0])[0]))
                kind = _rotation_class(own, rounds_products=rounds, has_norms=True)
                options.append(
                    {
                        module: {module: kind, **dict.fromkeys(_head_norms(module), passing)}
                        for module in modules
                    }
                )
            kind = _rotation_class(own, rounds_products=rounds, has_norms=False)
            options.append({module: {module: kind} for module in modules})
        yield own, options


def _rotates(module: torch.nn.Module) -> bool:
    forward = inspect.unwrap(type(module).forward)
    if not isinstance(forward, types.FunctionType):
        return False
    return _ROTATION in forward.__code__.co_names and _ROTATION in forward.__globals__


def _head_norms(attention: Any) -> tuple[torch.nn.Module, ...]:
    """Return the norms of an attention's queries and keys, head by head, where both are fused."""
    norms = [norm for name, norm in attention.named_children() if name in {"q_norm", "k_norm"}]
    scales = {getattr(norm, "scale", None) for norm in norms}
    if len(norms) != 2 or len(scales) != 1 or None in scales:
        return ()
    are_of_heads = all(len(norm.weight) == getattr(attention, "head_dim", 0) for norm in norms)
    return tuple(norms) if are_of_heads else ()


def _is_rotation(
    function: Callable[..., Any], like: torch.Tensor, *, rounds_products: bool
) -> bool:
    """Return whether the kernel gives what a function does that rotates queries and keys."""
    query, key = (_normal(like.new_empty(1, heads, _TRIED_ROWS, 32)) for heads in (4, 2))
    cos, sin = query[:, 2], query[:, 3]
    excesses: list[float] = []

    def compare() -> None:
        expected = function(query, key, cos, sin)
        found = parts.rotate(query, key, cos, sin, rounds_products=rounds_products)
        pairs = zip(found, expected, strict=True)
        excesses.extend(_excess(*pair, is_fine=True) for pair in pairs)

    return not _failure(compare) and max(excesses) <= 1


def _rotation_class(own: Kind, *, rounds_products: bool, has_norms: bool) -> Kind:
    """Return an attention that has its own code, and another rotation for the one it calls."""
    modules: list[Any] = []  # whose forward is under way

    def rotate(
        query: torch.Tensor,
        key: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        unsqueeze_dim: int = 1,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if unsqueeze_dim != 1:
            raise ValueError("heads stand elsewhere")
        norms = (modules[-1].q_norm, modules[-1].k_norm) if has_norms else ()
        return parts.rotate(
            query,
            key,
            cos,
            sin,
            rounds_products=rounds_products,
            norms=(_as_part(norms[0]), _as_part(norms[1])) if norms else None,
            scale=norms[0].scale if norms else None,
        )

    code = inspect.unwrap(own.forward)
    called = types.FunctionType(
        code.__code__,
        code.__globals__ | {_ROTATION: rotate},
        code.__name__,
        code.__defaults__,
        code.__closure__,
    )
    called.__kwdefaults__ = code.__kwdefaults__

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        modules.append(self)
        try:
            return called(self, *args, **kwargs)
        finally:
            modules.pop()

    return _subclass(own, forward)


def _passing_class(own: Kind) -> Kind:
    """Return a norm that leaves its work to the rotation behind it."""

    def forward(self: Any, hidden_states: torch.Tensor) -> torch.Tensor:
        del self
        return hidden_states

    return _subclass(own, forward)


def _layers(trunk: torch.nn.Module) -> Iterator[tuple[Kind, Sequence[Option]]]:
    """Yield each class of layers that add what attention and a feed-forward part give."""
    layers: dict[Kind, list[torch.nn.Module]] = defaultdict(list)
    for blocks in repeated_blocks(trunk):
        norms = [getattr(block, "input_layernorm", None) for block in blocks][1:]
        norms.append(getattr(trunk, "norm", None))
        for block, following in zip(blocks, norms, strict=True):
            names = ("input_layernorm", "post_attention_layernorm")
            scales = {getattr(getattr(block, name, None), "scale", None) for name in names}
            scales.add(getattr(following, "scale", None))
            if len(scales) == 1 and None not in scales and hasattr(block, "self_attn"):
                vars(block)["following"] = (following,)  # no part of it: in no list of modules
                layers[type(block)].append(block)
    for own, modules in layers.items():
        kind = _layer_class(own, has_norms_behind=hasattr(modules[0], "pre_feedforward_layernorm"))
        yield own, [{module: {module: kind} for module in modules}]


def _layer_class(own: Kind, *, has_norms_behind: bool) -> Kind:
    """Return a layer whose sums are taken together with the norms behind them.

    Its own sum goes through the norm of what follows it, which is given that.
    """

    def forward(self: Any, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        mixed, _ = self.self_attn(hidden_states=self.input_layernorm(hidden_states), **kwargs)
        before, behind = self.post_attention_layernorm, (None, None)
        if has_norms_behind:
            behind = before, self.post_feedforward_layernorm
            before = self.pre_feedforward_layernorm
        total, normed = _added(hidden_states, mixed, before, behind[0])
        following = self.following[0]
        total, normed = _added(total, self.mlp(normed), following, behind[1])
        vars(following)["ahead"] = total, normed
        return total

    return _subclass(own, forward)


def _added(
    residual: torch.Tensor, state: torch.Tensor, norm: Any, first: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    return parts.norm(
        state,
        norm.scale,
        _as_part(norm),
        residual=residual,
        first=None if first is None else _as_part(first),
    )
