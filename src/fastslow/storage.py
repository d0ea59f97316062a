"""Atomic file writes, and reading of JSON and safetensors with validation before memory is allocated.

A file is written under a temporary name in the same folder, flushed to the disk and renamed, so the old file stays
until the new one is complete. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeAlias

from fastslow.errors import FastslowError, os_reason

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MAX_JSON_BYTES = 1 << 20
MAX_HEADER_BYTES = 1 << 23
"""Limit for the header of a safetensors file: ten times that of the deepest network's checkpoint."""
PART_SUFFIX = ".part"
_LONGEST = 200
"""Bytes of a name that its temporary name repeats. Most systems allow 255."""
CHECKSUM = "sha256"
HEADER_CHECKSUM = "header_sha256"


class StorageError(FastslowError):
    """A file that could not be written; the previous file is still there."""


class ModelError(FastslowError):
    """A file or folder that is not a usable model: missing, incomplete, damaged, or of a newer version."""


# ---------------------------------------------------------------------- writing


def make_folder(path: Path) -> None:
    """Make a folder and those it lies in. Raises StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path}: {os_reason(error)}") from error


def is_special(path: Path) -> bool:
    """Whether `path` is a device, a pipe or a socket."""
    return path.exists() and not path.is_file() and not path.is_dir()


def part_of(path: Path) -> Path:
    """A new name for a temporary file beside `path`, which may itself have the longest name that is allowed."""
    name = os.fsdecode(os.fsencode(path.name)[:_LONGEST])
    return path.with_name(f".{name}.{os.urandom(4).hex()}{PART_SUFFIX}")


def write_atomic(path: Path, fill: Callable[[IO[bytes]], None], *, what: str | None = None) -> None:
    """Write `path` with `fill(file)` atomically: afterwards it is either unchanged or complete and on the disk.

    A link is followed. A device or pipe is written to and never replaced. Raises StorageError, naming `what` (default:
    the file's name), if the system refuses; no partial file remains.
    """
    try:
        if is_special(path):
            with open(path, "wb") as file:
                fill(file)
            return
        if path.is_symlink():
            path = path.resolve()
        temporary = part_of(path)
        try:
            with open(temporary, "xb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # must not hide the original error
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {what or path.name} to {path.parent}: {os_reason(error)}") from error


def write_bytes(path: Path, data: bytes, *, what: str | None = None) -> None:
    """Write `path` atomically. Raises StorageError as `write_atomic` does."""
    write_atomic(path, lambda file: _write(file, data), what=what)


def sync_folder(folder: Path) -> None:
    """Flush the directory entries of `folder` to the disk, if the system supports it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not supported by some network file systems
            raise
    finally:
        os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Remove temporary files that a killed process left in `folder`."""
    for part in folder.glob(f".*{PART_SUFFIX}"):
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, what: str | None = None) -> None:
    """Write `value` as indented JSON, atomically. Numbers are stored exactly."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), what=what)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, what: str | None = None
) -> None:
    """Write a safetensors file atomically, one tensor at a time; the same input gives the same bytes.

    The metadata get a SHA-256 of the tensors' bytes and one of the header, which `read_tensors` verifies.

    The format is 8 bytes of header length, the header in JSON, and the bytes of the tensors. The library's own writer
    is not used because it copies everything in memory and orders the metadata at random.
    """
    names = _file_order(tensors)
    described = {name: (_dtype_name(tensor.dtype), tuple(tensor.shape)) for name, tensor in tensors.items()}
    metadata = {**metadata, CHECKSUM: _checksum(tensors)}
    header: dict[str, Any] = {
        "__metadata__": {**metadata, HEADER_CHECKSUM: header_checksum(metadata, described)},
    }
    offset = 0
    for name in names:
        tensor = tensors[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _dtype_name(tensor.dtype),
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + size],
        }
        offset += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)

    def fill(file: IO[bytes]) -> None:
        _write(file, len(text).to_bytes(8, "little") + text)
        for name in names:
            _write(file, _raw_bytes(tensors[name]))

    write_atomic(path, fill, what=what)


def _file_order(tensors: Mapping[str, Tensor]) -> list[str]:
    # Large types first, so that every tensor starts at a multiple of its item size.
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in _file_order(tensors):
        digest.update(_raw_bytes(tensors[name]))
    return digest.hexdigest()


def header_checksum(metadata: Mapping[str, str], described: Mapping[str, tuple[str, tuple[int, ...]]]) -> str:
    """SHA-256 of the metadata, without this checksum, and of each tensor's type and shape, as canonical JSON."""
    told = {name: value for name, value in metadata.items() if name != HEADER_CHECKSUM}
    text = json.dumps([told, {name: [kind, list(shape)] for name, (kind, shape) in described.items()}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _write(file: IO[bytes], data: bytes | memoryview) -> None:
    file.write(data)


def _raw_bytes(tensor: Tensor) -> memoryview:
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    raw: memoryview = flat.view(torch.uint8).numpy().data
    return raw


def _dtype_names() -> dict[torch.dtype, str]:
    import torch

    return {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.bfloat16: "BF16",
        torch.float16: "F16",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.int16: "I16",
        torch.int8: "I8",
        torch.uint8: "U8",
        torch.bool: "BOOL",
    }


def _dtype_name(dtype: torch.dtype) -> str:
    return _dtype_names()[dtype]


# ---------------------------------------------------------------------- reading


def read_json(path: Path, *, what: str, remedy: str = "") -> dict[str, Any]:
    """The JSON object in `path`. Raises ModelError, which calls the file `what`."""
    end = f"; {remedy}" if remedy else ""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ModelError(f"cannot read {what} {path}: {os_reason(error)}{end}") from error
    if len(data) > MAX_JSON_BYTES:
        raise ModelError(f"{what} {path} is longer than {MAX_JSON_BYTES:,} bytes, the limit{end}")
    return parse_json(data, f"{what} {path}", end)


def parse_json(data: bytes | str, what: str, end: str = "") -> dict[str, Any]:
    """The JSON object in `data`. Raises ModelError also for NaN, infinities, lone surrogates and duplicate names."""
    try:
        value = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_refuse_twice)
        if (b"\\u" if isinstance(data, bytes) else "\\u") in data:  # type: ignore[operator]
            json.dumps(value, ensure_ascii=False).encode()  # raises for a lone surrogate
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise ModelError(f"{what} is damaged: it is not JSON ({reason[:100]}){end}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{what} is damaged: it must be a JSON object; got {type(value).__name__}{end}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate name")
    return result


class TensorSpec(NamedTuple):
    """The required shape of a tensor in a file, and the allowed type names."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]


FLOATS = ("F64", "F32", "BF16", "F16")


Expected: TypeAlias = Callable[[dict[str, str]], Mapping[str, TensorSpec]]


def check_tensors(path: Path, expected: Expected, *, what: str, remedy: str = "") -> None:
    """The checks of `read_tensors` before it reads tensors; only the header is read. Raises ModelError."""
    with _checked(path, expected, what, f"; {remedy}" if remedy else ""):
        pass


def read_tensors(
    path: Path, expected: Expected, *, what: str, remedy: str = ""
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, copied to the CPU, and its metadata.

    `expected(metadata)` returns the required tensors. Names, shapes and types in the header are compared with it, and
    the header with the file's size, before memory for any tensor is allocated. Then the checksums are verified, if the
    file has them (files of other programs do not). Floats must be finite. Raises ModelError otherwise.
    """
    end = f"; {remedy}" if remedy else ""
    with _checked(path, expected, what, end) as (file, described, metadata):
        # Cloned: the library's tensors map the file, which another process might truncate.
        tensors = {name: file.get_tensor(name).clone() for name in described}
        if CHECKSUM in metadata and metadata[CHECKSUM] != _checksum(tensors):
            raise ModelError(f"{what} {path} is damaged: the checksum of its tensors does not match{end}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(f"{what} {path} is damaged: {name} has NaN or infinite elements{end}")
    return tensors, metadata


@contextlib.contextmanager
def _checked(
    path: Path, expected: Expected, what: str, end: str
) -> Iterator[tuple[Any, dict[str, tuple[str, tuple[int, ...]]], dict[str, str]]]:
    """The open file, the type and shape of each tensor, and the metadata, after validation."""
    from safetensors import SafetensorError, safe_open

    try:
        if not path.is_file():  # the library's own message for a folder is about devices
            raise FileNotFoundError(2, "no such file")
        with open(path, "rb") as start:
            length = int.from_bytes(start.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ModelError(f"{what} {path} is damaged: its header claims {length:,} bytes{end}")
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            specs = expected(metadata)
            _check_names(path, what, end, file.keys(), specs)
            described: dict[str, tuple[str, tuple[int, ...]]] = {}
            for name, spec in specs.items():
                header = file.get_slice(name)
                shape, dtype = tuple(header.get_shape()), header.get_dtype()
                if shape != spec.shape or dtype not in spec.dtypes:
                    raise ModelError(
                        f"{what} {path} does not fit its configuration: {name} must be "
                        f"{' or '.join(spec.dtypes)} {spec.shape}; got {dtype} {str(shape)[:80]}{end}"
                    )
                described[name] = (dtype, shape)
            if HEADER_CHECKSUM in metadata and metadata[HEADER_CHECKSUM] != header_checksum(metadata, described):
                raise ModelError(f"{what} {path} is damaged: the checksum of its header does not match{end}")
            yield file, described, metadata
    except OSError as error:
        raise ModelError(f"cannot read {what} {path}: {os_reason(error)}{end}") from error
    except SafetensorError as error:
        raise ModelError(f"{what} {path} is damaged: {str(error)[:120]}{end}") from error


def _check_names(path: Path, what: str, end: str, names: Iterable[str], specs: Mapping[str, TensorSpec]) -> None:
    there = set(names)
    for problem, which in (("lacks", specs.keys() - there), ("has an unknown", there - specs.keys())):
        if which:
            first = min(which)
            more = f" and {len(which) - 1} more" if len(which) > 1 else ""
            raise ModelError(f"{what} {path} does not fit its configuration: it {problem} {first[:80]!r}{more}{end}")


# ---------------------------------------------------------------------- fields of configurations


def check_version(value: Mapping[str, Any], current: int, where: str, error: type[FastslowError] = ModelError) -> None:
    """Raise `error` unless `value["format_version"]` can be read by this program."""
    version = value.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise error(f"{where} has no format_version: it was not written by fastslow, or is damaged")
    if version > current:
        raise error(
            f"{where} was written by a newer fastslow (format {str(version)[:20]}; this one reads up to {current}): "
            "upgrade fastslow"
        )


def check_fields(value: Mapping[str, Any], known: Iterable[str], where: str, error: type[FastslowError]) -> None:
    """Raise `error` for the first unknown or missing field, unless the fields are exactly `known`."""
    names = set(known)
    for problem, which in (("an unknown field", set(value) - names), ("no field", names - set(value))):
        if which:
            raise error(f"{where} has {problem} {min(which)[:60]!r}; its fields are {', '.join(sorted(names))}")


def is_finite_number(value: object) -> bool:
    """Whether `value` is a finite int or float, not a bool."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # unlike math.isfinite, also for an int that is too large for a float
