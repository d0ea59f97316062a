"""The undamaged runs."""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.stress.fuzz.files import (
    FILES,
    JSON_FILES,
    METRICS,
    TENSOR_FILES,
    Folder,
    join_safetensors,
    read_safetensors,
    signed,
    split_safetensors,
    write_files,
)

TIMES = ("seconds", "characters_per_second", "elapsed")


@dataclass(frozen=True)
class Original:
    """An undamaged run: its files, and the values in them."""

    name: str
    files: Folder
    tensors: dict[str, dict[str, bytes]]


def make_originals(folder: Path) -> list[Original]:
    """Train the small runs in `folder`."""
    from dataclasses import replace

    from fastslow.lm import ModelOptions
    from fastslow.training import DataSource, TrainConfig, train
    from fastslow.training.events import Event, Saved

    text = folder / "text.txt"
    text.write_bytes(b"".join(b"%d times %d is %d\n" % (i % 13, i % 7, (i % 13) * (i % 7)) for i in range(60)))
    model = ModelOptions(embedding_size=4, hidden_size=6, slow_size=5, dropout=0.1, zoneout_c=0.2)
    recipe = TrainConfig(
        batch=3,
        window=8,
        epochs=2,
        max_updates=6,
        rate=1e-2,
        schedule="plateau",
        validate_every=3,
        valid_streams=4,
        test_streams=4,
        log_every=2,
        checkpoint_seconds=0.0,
        tensorboard=False,
    )
    source = DataSource(texts=(str(text),), alphabet="text")

    class Stopped(BaseException):
        pass

    def stop(event: Event) -> None:
        if isinstance(event, Saved) and event.update == 3:
            raise Stopped

    made = []
    for name, options, changes, alphabet, progress in (
        ("complete", model, {}, "text", None),
        ("stopped", replace(model, architecture="stacked", slow_size=None), {"average": 0.9}, "bytes", stop),
        ("no-norms", replace(model, architecture="sequential", slow_size=None, layer_norm=False), {}, "text", None),
    ):
        out = folder / name
        with contextlib.suppress(Stopped):
            train(
                options,
                replace(recipe, **changes),
                replace(source, alphabet=alphabet),
                out,
                device="cpu",
                backend="reference",
                progress=progress,
            )
        if not (out / "model.safetensors").is_file():  # stopped between the checkpoint and the best weights
            from fastslow.training import resume

            def stop_after(event: Event) -> None:
                if type(event).__name__ == "Started":
                    raise Stopped

            with contextlib.suppress(Stopped):
                resume(out, progress=stop_after)
        files: Folder = {file: (out / file).read_bytes() for file in FILES if (out / file).is_file()}
        without_times(files)
        made.append(Original(name, files, {file: read_safetensors(files[file]) for file in TENSOR_FILES}))
    return made


def without_times(files: Folder) -> None:
    """Remove what differs between identical runs, so that cases are reproducible."""

    def timeless(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: 1.5 if k in TIMES else "2026" if k == "started" else timeless(v) for k, v in value.items()}
        return [timeless(inner) for inner in value] if isinstance(value, list) else value

    for name in JSON_FILES:
        if name in files:
            files[name] = json.dumps(timeless(json.loads(files[name] or b"")), indent=2).encode() + b"\n"
    lines = (files[METRICS] or b"").splitlines()
    files[METRICS] = b"".join(json.dumps(timeless(json.loads(line))).encode() + b"\n" for line in lines)
    header, body = split_safetensors(files["checkpoint.safetensors"] or b"")
    record = timeless(json.loads(header["__metadata__"]["fastslow"]))
    record["position"]["metrics_bytes"] = len(files[METRICS] or b"")
    header["__metadata__"]["fastslow"] = json.dumps(record)
    signed(header, body)
    text = json.dumps(header).encode()
    files["checkpoint.safetensors"] = join_safetensors(text + b" " * (-len(text) % 8), body)


def save_originals(folder: Path, originals: list[Original]) -> None:
    for original in originals:
        write_files(folder / f"original-{original.name}", original.files)


def load_originals(folder: Path) -> list[Original]:
    made = []
    for path in sorted(folder.glob("original-*")):
        files: Folder = {file: (path / file).read_bytes() for file in FILES if (path / file).is_file()}
        tensors = {file: read_safetensors(files[file]) for file in TENSOR_FILES}
        made.append(Original(path.name.removeprefix("original-"), files, tensors))
    return made
