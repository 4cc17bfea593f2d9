"""A CUDA device pretended on the CPU: finds, without a GPU, what would crash on one because it mixes devices.

A pretended tensor says that it is on ``cuda:0`` and keeps its numbers in a CPU tensor. Every operation runs on the CPU, and raises where CUDA would:
when it mixes pretended tensors with CPU ones (but for single numbers and indices), and when a pretended tensor is to become a numpy array. What it
cannot show: numbers that a GPU rounds differently, operations that lack a CUDA kernel, half precision, memory, speed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from training.batches import augment

NAME = "cuda:0"
INDEXED = {"index", "index_put", "index_put_", "_index_put_impl_"}
COPIES = {"copy_", "_to_copy"}
MEMORY = 80 * 2**30


class Pretended(Tensor):
    """A tensor on the pretended device; ``inner`` holds its numbers.

    Torch's own code takes it for one on "meta", the only device besides the CPU that every build of torch knows; code that asks it hears "cuda:0".
    """

    inner: Tensor
    fetched = 0  # how often numbers left the device
    device = torch.device(NAME)
    is_cuda, is_cpu, is_meta = True, False, False
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: Tensor) -> Pretended:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype, "device": "meta"}
        made = Tensor._make_wrapper_subclass(cls, inner.size(), **layout)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self) -> str:
        return f"Pretended({self.inner!r})"

    def new_tensor(self, data: Any, dtype: torch.dtype | None = None) -> Tensor:
        return torch.tensor(data, dtype=dtype or self.dtype, device=NAME)

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {NAME} device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first.")

    def tolist(self) -> Any:
        return self.cpu().tolist()


class Generator(torch.Generator):
    """A random number generator that may be on the pretended device; its numbers are always the CPU's."""

    there: ClassVar[WeakValueDictionary[int, Generator]] = WeakValueDictionary()

    def __new__(cls, device: torch.device | str = "cpu") -> Generator:
        made = super().__new__(cls, "cpu")
        if torch.device(device).type == "cuda":
            cls.there[made._cdata] = made
        return made


class Watch(TorchDispatchMode):
    """Sees every operation, those that make new tensors included."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with self:
            whole = func.decompose(*args, **(kwargs or {}))  # in inference mode torch leaves this to us
        return run(func, args, kwargs or {}) if whole is NotImplemented else whole


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation on the CPU; its results are pretended where it was told so, or else where it was given pretended tensors."""
    given = {id(t.inner): t for t in tree_leaves((args, kwargs)) if isinstance(t, Pretended)}
    asked = kwargs.get("device")
    there = asked.type in ("cuda", "meta") if asked is not None else bool(given)
    if given:
        check(func.overloadpacket.__name__, args, kwargs)
    check_generator(kwargs.get("generator"), there)
    results = func(*_inner(args), **{**_inner(kwargs), **({"device": torch.device("cpu")} if asked is not None else {})})
    own = {id(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}

    def outer(result: Any) -> Any:
        """The argument itself after an operation in place, else a new tensor."""
        if not isinstance(result, Tensor) or id(result) in own:
            return result
        return given[id(result)] if id(result) in given else Pretended(result) if there else result

    outcome = tree_map(outer, results)
    Pretended.fetched += bool(given) and not all(isinstance(v, Pretended) for v in tree_leaves(outcome))
    return outcome


def check(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    """RuntimeError where CUDA would not take these arguments together, at least one of them pretended.

    Single numbers may be on the CPU, though not in a list of tensors, and so may indices.
    """
    if name in COPIES:
        return
    for argument in (*args[:1], *(args[2:] if name in INDEXED else args[1:]), *kwargs.values()):
        listed = isinstance(argument, list | tuple)
        for tensor in argument if listed else [argument]:
            if isinstance(tensor, Tensor) and not isinstance(tensor, Pretended) and (tensor.ndim or listed):
                raise RuntimeError(f"Expected all tensors to be on the same device, but found {NAME} and cpu in {name}.")


def check_generator(generator: torch.Generator | None, there: bool) -> None:
    """RuntimeError where the generator is of the other device."""
    if generator is not None and (generator._cdata in Generator.there) != there:
        raise RuntimeError(f"Expected a '{'cuda' if there else 'cpu'}' device type for generator but found the other.")


def _inner(tree: Any) -> Any:
    return tree_map(lambda value: value.inner if isinstance(value, Pretended) else value, tree)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a pretended GPU, which is there while a test runs."""
    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    for name, value in {"is_available": True, "device_count": 1, "mem_get_info": (MEMORY, MEMORY), "get_device_name": "Pretended"}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(augment, "Generator", Generator)
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(numbers, device=...) makes them on the CPU and then copies them
    try:
        with Watch():
            yield NAME
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
