"""Files that are whole or not there: atomic writes, and JSON and safetensors read with every claim checked first.

A file is written beside its place under a name of its own, flushed to the disk and renamed: until the new one is
complete the old one stays. Nothing here unpickles.
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
"""Of a safetensors file: ten times what the deepest network's checkpoint has."""
PART_SUFFIX = ".part"
CHECKSUM = "sha256"
HEADER_CHECKSUM = "header_sha256"


class StorageError(FastslowError):
    """A file that could not be written; what was there before is still there."""


class ModelError(FastslowError):
    """A file or folder that is no usable model: missing, half written, damaged, or of a newer version."""


# ---------------------------------------------------------------------- writing


def make_folder(path: Path) -> None:
    """Make a folder and those it lies in. Raises StorageError."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {path}: {os_reason(error)}") from error


def write_atomic(path: Path, fill: Callable[[IO[bytes]], None], *, what: str | None = None) -> None:
    """Write `path` by `fill(file)`, so that it is either what it was before or complete, and on the disk.

    Raises StorageError, naming `what` (default: the file's name), where the system refuses; nothing half written stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PART_SUFFIX}")
    try:
        try:
            with open(temporary, "wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):  # it must not hide what went wrong
                temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {what or path.name} to {path.parent}: {os_reason(error)}") from error


def write_bytes(path: Path, data: bytes, *, what: str | None = None) -> None:
    """Write `path`, so that it is either what it was before or complete. Raises StorageError as `write_atomic` does."""
    write_atomic(path, lambda file: _write(file, data), what=what)


def sync_folder(folder: Path) -> None:
    """Put the names in `folder` on the disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems know no such thing
            raise
    finally:
        os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left of files it was writing in `folder`."""
    for part in folder.glob(f".*{PART_SUFFIX}"):
        part.unlink(missing_ok=True)


def write_json(path: Path, value: Any, *, what: str | None = None) -> None:
    """Write `value` as indented JSON, atomically. Numbers read back exactly."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_bytes(path, text.encode(), what=what)


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], *, what: str | None = None
) -> None:
    """Write a safetensors file, atomically and a tensor at a time; the same input makes the same bytes.

    Its metadata gets a SHA-256 of the tensors' bytes and one of the rest, which `read_tensors` compares.

    The format is 8 bytes of header length, the header in JSON, and the tensors' bytes one after the other; the
    library's own writer first copies everything in memory and orders the metadata at random.
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
    """SHA-256 of the metadata, this checksum aside, and of each tensor's type and shape, in one form of JSON."""
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
    """The JSON object in `path`; ModelError, in a line that calls it `what`, for anything else."""
    end = f"; {remedy}" if remedy else ""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ModelError(f"cannot read {what} {path}: {os_reason(error)}{end}") from error
    if len(data) > MAX_JSON_BYTES:
        raise ModelError(f"{what} {path} is longer than {MAX_JSON_BYTES:,} bytes: it is not one{end}")
    return parse_json(data, f"{what} {path}", end)


def parse_json(data: bytes | str, what: str, end: str = "") -> dict[str, Any]:
    """The JSON object in `data`, without NaN, infinities, half characters or a name given twice. ModelError."""
    try:
        value = json.loads(data, parse_constant=_refuse_constant, parse_float=_finite, object_pairs_hook=_refuse_twice)
        if (b"\\u" if isinstance(data, bytes) else "\\u") in data:  # type: ignore[operator]
            json.dumps(value, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise ModelError(f"{what} is damaged: it is not JSON ({reason[:100]}){end}") from error
    if not isinstance(value, dict):
        raise ModelError(f"{what} is damaged: it holds no JSON object but {type(value).__name__}{end}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is too large a number")
    return number


def _refuse_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name is given twice")
    return result


class TensorSpec(NamedTuple):
    """What a tensor of a file must be: its shape, and the names of the types it may have."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]


FLOATS = ("F64", "F32", "BF16", "F16")


Expected: TypeAlias = Callable[[dict[str, str]], Mapping[str, TensorSpec]]


def check_tensors(path: Path, expected: Expected, *, what: str, remedy: str = "") -> None:
    """What `read_tensors` makes sure of before it reads: no memory is taken but for the header. ModelError."""
    with _checked(path, expected, what, f"; {remedy}" if remedy else ""):
        pass


def read_tensors(
    path: Path, expected: Expected, *, what: str, remedy: str = ""
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, in memory of their own on the CPU, and its metadata.

    `expected(metadata)` says which tensors there must be. Names, shapes and types in the file's header are compared
    with it, and the header with the file's size, before memory for any tensor is taken; then bytes and header with
    their checksums, where there are some (files of other programs have none). Floats are finite. ModelError otherwise.
    """
    end = f"; {remedy}" if remedy else ""
    with _checked(path, expected, what, end) as (file, described, metadata):
        # Cloned: the library's tensors are the mapped file, which another process might cut short.
        tensors = {name: file.get_tensor(name).clone() for name in described}
        if CHECKSUM in metadata and metadata[CHECKSUM] != _checksum(tensors):
            raise ModelError(f"{what} {path} is damaged: its bytes do not have the checksum they were stored with{end}")
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ModelError(f"{what} {path} is damaged: {name} holds numbers that are not finite{end}")
    return tensors, metadata


@contextlib.contextmanager
def _checked(
    path: Path, expected: Expected, what: str, end: str
) -> Iterator[tuple[Any, dict[str, tuple[str, tuple[int, ...]]], dict[str, str]]]:
    """The open file, type and shape of each tensor, and the metadata, once they are as they should be."""
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
                raise ModelError(
                    f"{what} {path} is damaged: its header does not have the checksum it was stored with{end}"
                )
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
    """`value["format_version"]` is one this program reads, or `error` in a sentence."""
    version = value.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise error(f"{where} has no format_version: it was not written by fastslow, or is damaged")
    if version > current:
        raise error(
            f"{where} was written by a newer fastslow (format {str(version)[:20]}; this one reads up to {current}): "
            "upgrade fastslow"
        )


def check_fields(value: Mapping[str, Any], known: Iterable[str], where: str, error: type[FastslowError]) -> None:
    """Exactly the fields `known` are there, or `error` names the first that is unknown or missing."""
    names = set(known)
    for problem, which in (("an unknown field", set(value) - names), ("no field", names - set(value))):
        if which:
            raise error(f"{where} has {problem} {min(which)[:60]!r}; its fields are {', '.join(sorted(names))}")


def is_finite_number(value: object) -> bool:
    """Whether `value` is an int or float, finite, and no bool."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # unlike math.isfinite also of a whole number that is too large for a float
