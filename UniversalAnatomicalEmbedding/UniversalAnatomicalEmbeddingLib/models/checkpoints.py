"""Released SAM and UAE checkpoints, and fine-tuned copies of them: read without running anything in them, checked tensor by tensor."""

from __future__ import annotations

import pickletools
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from ..networks.resnet_embedder import ResNetEmbedder
from ..system.errors import InputError

Family = Literal["sam", "uae-s", "uae-m"]
LARGEST_FILE = 2 * 2**30
LARGEST_PICKLE = 16 * 2**20
MOST_NAMED = 4


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights of one model under the released names, float32, complete and of the right shapes; for UAE-M without its semantic head.

    ``reason`` says how the family was told.
    """

    family: Family
    reason: str
    weights: dict[str, Tensor]


def read_checkpoint(path: Path, family: Family | None = None) -> Checkpoint:
    """Read a ``.pth`` or ``.safetensors`` file in the released layout; None: tell the family from the weights.

    Accepts the weights alone or under "state_dict", an optional "module." before every name, and missing ``num_batches_tracked``. Raises
    :class:`InputError` for anything else, and for what holds more than plain tensors, numbers and text.
    """
    weights = _tensors(_unwrap(_load(path), path), path)
    head = "semantic_head." in "".join(weights)
    if family is None:
        family, reason = _recognise(weights, head)
    else:
        reason = "as given"
        if (family == "sam" and head) or (family == "uae-s" and not head):
            raise InputError(_wrong_family(path, family, head))
    if family == "uae-m":
        weights = {name: value for name, value in weights.items() if not name.startswith("semantic_head.")}
    return Checkpoint(family, reason, _checked(weights, family, path))


def _recognise(weights: dict[str, Tensor], head: bool) -> tuple[Family, str]:
    """UAE-S and UAE-M have the same layout; the semantic head of UAE-M was never trained, so its biases are still the zeros they began as."""
    if not head:
        return "sam", "it has no semantic head"
    biases = [v for k, v in weights.items() if k.startswith("semantic_head.") and k.endswith(".bias")]
    if biases and not any(bool(b.any()) for b in biases):
        return "uae-m", "its semantic head was never trained"
    return "uae-s", "its semantic head is trained"


def _wrong_family(path: Path, family: Family, head: bool) -> str:
    found = "has a semantic head, which SAM has not" if head else "has no semantic head, which UAE-S has"
    return f"{path} {found}, so it is not of the family {family}. Leave out --family to let it be recognised."


# --- reading --------------------------------------------------------------------------------------------------------------------------


def _load(path: Path) -> Any:
    """The content of a file of any of the known kinds."""
    size = path.stat().st_size
    if size > LARGEST_FILE:
        raise InputError(f"{path} has {size / 2**30:.1f} GiB; a SAM or UAE checkpoint has 0.1 to 0.4. Give the checkpoint file itself.")
    with path.open("rb") as file:
        start = file.read(4)
    if start[:4] == b"PK\x03\x04":
        _check_archive(path, size)
        return _load_torch(path, mapped=True)
    if start[:1] == b"\x80":
        return _load_torch(path, mapped=False)
    return _load_safetensors(path)


def _load_torch(path: Path, mapped: bool) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # whatever a damaged or foreign file makes the reader raise
        foreign = _foreign_names(path)
        if foreign:
            raise InputError(
                f"{path} holds more than weights: opening it would run {', '.join(foreign[:MOST_NAMED])}, which is never done here. Where it was "
                "made, and if you trust it, keep only its weights: torch.save({'state_dict': torch.load(FILE, map_location='cpu')['state_dict']}, "
                "'weights.pth'). Then import weights.pth."
            ) from error
        raise InputError(f"{path} is damaged or no PyTorch checkpoint ({_first_line(error)}). Download or copy it again.") from error


def _load_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is not a mapping
    except Exception as error:  # the reader has its own kinds of error
        raise InputError(
            f"{path} is neither a PyTorch checkpoint nor a .safetensors file. Give a released SAM or UAE checkpoint."
        ) from error


def _check_archive(path: Path, size: int) -> None:
    """A PyTorch file is a zip archive that is not compressed; what unpacks to more than its own size is not one."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [e.filename.rpartition("/")[2] for e in entries]
            if "constants.pkl" in names:
                raise InputError(f"{path} is a TorchScript program, not a checkpoint. Give the file that the weights were trained into.")
            unpacked = sum(e.file_size for e in entries)
            if unpacked > size or any(e.compress_type != zipfile.ZIP_STORED for e in entries):
                raise InputError(
                    f"{path} is a compressed archive ({size} bytes that unpack to {unpacked}), not a PyTorch checkpoint. Unpack it first."
                )
            if "data.pkl" not in names:
                raise InputError(
                    f"{path} is an archive without data.pkl, so it is no PyTorch checkpoint. Give a released SAM or UAE checkpoint."
                )
            if max(e.file_size for e in entries if e.filename.endswith("data.pkl")) > LARGEST_PICKLE:
                raise InputError(
                    f"{path} has an index of over {LARGEST_PICKLE // 2**20} MiB, far more than a checkpoint needs. Do not use it."
                )
            damaged = archive.testzip()
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is incomplete or damaged ({_first_line(error)}). Download or copy it again.") from error
    if damaged:
        raise InputError(f"{path} is damaged: the checksum of {damaged} inside it is wrong. Download or copy it again.")


def _foreign_names(path: Path) -> list[str]:
    """What a pickle would import besides the parts of plain tensors; nothing is run to find out."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                entry = next(e for e in archive.infolist() if e.filename.endswith("data.pkl"))
                with archive.open(entry) as file:
                    return _imports(file, 1)  # type: ignore[arg-type]
        with path.open("rb") as file:
            return _imports(file, 4)
    except Exception:  # a damaged pickle: its names are not the point then
        return []


def _imports(file: BinaryIO, pickles: int) -> list[str]:
    names: list[str] = []
    for _ in range(pickles):
        texts: list[str] = []
        for opcode, argument, _ in pickletools.genops(file):
            if isinstance(argument, str) and "UNICODE" in opcode.name:
                texts.append(argument)
            elif opcode.name in ("GLOBAL", "INST"):
                names.append(str(argument).replace(" ", "."))
            elif opcode.name == "STACK_GLOBAL":
                names.append(".".join(texts[-2:]))
    return sorted({n for n in names if not n.startswith(("torch.", "collections.OrderedDict"))})


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160].rstrip(".")


# --- checking -------------------------------------------------------------------------------------------------------------------------


def _unwrap(content: Any, path: Path) -> dict[Any, Any]:
    """The dictionary of weights, taken out of "state_dict" where there is one."""
    if isinstance(content, dict) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds {_kind(content)}, not named weights. Give a released SAM or UAE checkpoint or a copy trained further."
        )
    return content


def _tensors(weights: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    """Names without "module."; every value a tensor."""
    strangers = [k for k, v in weights.items() if not (isinstance(k, str) and isinstance(v, Tensor))]
    if strangers or not weights:
        what = f"{strangers[0]!r} is {_kind(weights[strangers[0]])}" if strangers else "it is empty"
        raise InputError(
            f"{path} is not a dictionary of weights ({what}). Give a released SAM or UAE checkpoint or a copy trained further."
        )
    if all(name.startswith("module.") for name in weights):
        return {name.removeprefix("module."): value for name, value in weights.items()}
    return weights


def _checked(weights: dict[str, Tensor], family: Family, path: Path) -> dict[str, Tensor]:
    """All weights of the family and no others, each of the right shape and type; counters that inference does not need are filled in."""
    with torch.device("meta"):
        expected = ResNetEmbedder(semantic=family == "uae-s").state_dict()
    counters = {k: torch.zeros((), dtype=torch.int64) for k in expected.keys() - weights.keys() if k.endswith("num_batches_tracked")}
    weights = {**weights, **counters}
    wrong = [_difference(k, weights.get(k), expected.get(k)) for k in sorted(expected.keys() | weights.keys())]
    wrong = [text for text in wrong if text]
    if wrong:
        named = "; ".join(wrong[:MOST_NAMED])
        raise InputError(
            f"{path} is not a {family} checkpoint: {len(wrong)} of its tensors differ from the released layout ({named}). Give a released SAM or "
            "UAE checkpoint or a copy trained further."
        )
    unusable = [k for k, v in weights.items() if not bool(torch.isfinite(v).all()) or (k.endswith("running_var") and bool((v < 0).any()))]
    if unusable:
        raise InputError(
            f"{path} holds numbers that cannot be (not finite, or a negative variance) in {unusable[0]}. It is damaged; get it again."
        )
    return {name: weights[name].clone(memory_format=torch.contiguous_format) for name in expected}


def _difference(name: str, found: Tensor | None, expected: Tensor | None) -> str:
    if found is None or expected is None:
        return f"{name}: {'missing' if found is None else 'not expected'}"
    plain = found.layout == torch.strided and found.device.type == "cpu" and not found.is_quantized
    if found.shape != expected.shape or found.dtype != expected.dtype or not plain:
        return f"{name}: found {_describe(found)}, expected {_describe(expected)}"
    return ""


def _describe(value: Tensor) -> str:
    plain = "" if value.layout == torch.strided else f" {value.layout}"
    return f"{'x'.join(str(n) for n in value.shape) or 'one number'} {str(value.dtype).removeprefix('torch.')}{plain}"


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
