from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from fastslow.codec import CodecError
from fastslow.codec.files import Exists, is_special, replacing


def written(path: Path, data: bytes = b"new", **options: object) -> None:
    with replacing(path, **{"force": False, **options}) as file:  # type: ignore[arg-type]
        file.write(data)


def test_the_longest_name(tmp_path: Path) -> None:
    for name in ("x" * 255, "\u20ac" * 85):
        written(tmp_path / name)
        assert (tmp_path / name).read_bytes() == b"new"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    path, got = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()))
    reader.start()
    written(path)
    reader.join(10)
    assert got == [b"new"]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert [found.name for found in tmp_path.iterdir()] == ["pipe"]


def test_a_device_is_not_replaced(tmp_path: Path) -> None:
    link = tmp_path / "null"
    link.symlink_to(os.devnull)
    assert is_special(link)
    written(link, force=True)
    assert link.is_symlink()


def test_a_folder_and_an_existing_file_stay(tmp_path: Path) -> None:
    with pytest.raises(CodecError, match="is a folder"):
        written(tmp_path)
    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(Exists):
        written(tmp_path / "old")
    assert (tmp_path / "old").read_bytes() == b"old"
    written(tmp_path / "old", force=True)
    assert (tmp_path / "old").read_bytes() == b"new"


def test_owner_and_group_are_kept_where_the_system_allows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").write_bytes(b"old")
    os.chmod(tmp_path / "old", 0o674)
    like, asked = (tmp_path / "old").stat(), []
    monkeypatch.setattr(os, "fchown", lambda _, user, group: asked.append((user, group)))
    written(tmp_path / "kept", like=like)
    assert asked == [(like.st_uid, -1), (-1, like.st_gid)]
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o674

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    written(tmp_path / "refused", like=like)
    assert stat.S_IMODE((tmp_path / "refused").stat().st_mode) == 0o644
