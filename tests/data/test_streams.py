"""Streams and windows: each symbol a target exactly once, in order, whatever the sizes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fastslow.data.streams import Streams, Window, random_offset, random_resets, rank_columns
from fastslow.data.text import Text, open_text
from fastslow.errors import DataError

sizes = st.integers(2, 250)
batches = st.integers(1, 9)
window_lengths = st.integers(1, 40)


def numbered(n: int) -> np.ndarray:
    """A text whose symbols are their own positions (n at most 256)."""
    return np.arange(n, dtype=np.uint8)


def scored(windows: list[Window], column: int) -> tuple[list[int], list[int]]:
    """The inputs and targets that one column scores, in the order of the windows."""
    inputs: list[int] = []
    targets: list[int] = []
    for window in windows:
        steps = window.steps if window.lengths is None else int(window.lengths[column])
        inputs += window.inputs[:steps, column].tolist()
        targets += window.targets[:steps, column].tolist()
    return inputs, targets


@given(sizes, batches, window_lengths)
def test_evaluation_scores_every_symbol_but_the_first_once_in_order(n: int, batch: int, window: int) -> None:
    assume(n > batch)
    streams = Streams.evaluation(numbered(n), batch, window)
    windows = list(streams)
    everything: list[int] = []
    for column in range(batch):
        inputs, targets = scored(windows, column)
        assert targets == [i + 1 for i in inputs]
        everything += targets
    assert everything == list(range(1, n))
    assert streams.targets == sum(w.symbols for w in windows) == n - 1
    assert len(windows) == len(streams)


@given(sizes, batches, window_lengths, st.sampled_from(["keep", "drop"]), st.integers(0, 20))
def test_training_scores_each_stream_in_order_and_drops_only_the_rest(
    n: int, batch: int, window: int, ragged: str, offset: int
) -> None:
    length = (n - 1 - offset) // batch if n > offset else 0
    steps = length if ragged == "keep" else length // window * window
    assume(steps > 0)
    streams = Streams.training(numbered(n), batch, window, ragged=ragged, offset=offset)
    windows = list(streams)
    assert all(w.lengths is None and w.mask() is None for w in windows)
    assert all(w.steps == window for w in windows[:-1])
    for column in range(batch):
        inputs, targets = scored(windows, column)
        start = offset + column * length
        assert inputs == list(range(start, start + steps))
        assert targets == list(range(start + 1, start + steps + 1))
    assert streams.steps == steps
    assert streams.targets == steps * batch


@given(st.integers(20, 250), st.integers(1, 4), st.integers(1, 20), st.integers(1, 9), st.integers(0, 99))
def test_windows_of_random_lengths_read_the_same_text(n: int, batch: int, window: int, jitter: int, seed: int) -> None:
    assume(2 * jitter < window and (n - 1) // batch >= window)
    plain = Streams.training(numbered(n), batch, window)
    moved = Streams.training(numbered(n), batch, window, jitter=jitter, seed=(seed,))
    assert (len(moved), moved.steps, moved.targets) == (len(plain), plain.steps, plain.targets)
    assert [w.start for w in moved] == [moved.start(i) for i in range(len(moved))]
    assert moved.start(len(moved)) == moved.steps
    assert all(abs(w.start - w.index * window) <= jitter for w in moved)
    for column in range(batch):
        assert scored(list(moved), column) == scored(list(plain), column)


def test_lengths_of_windows_are_drawn_by_their_seed() -> None:
    def lengths(*seed: int) -> list[int]:
        return [w.steps for w in Streams.training(numbered(250), 1, 10, jitter=4, seed=seed)]

    assert lengths(1, 2) == lengths(1, 2) != lengths(1, 3)
    assert len({*lengths(1, 2)}) > 5
    assert min(lengths(1, 2)) >= 10 - 2 * 4


@given(sizes, batches, window_lengths, st.integers(1, 5), st.booleans())
def test_ranks_share_the_batch_between_them(n: int, batch: int, window: int, ranks: int, training: bool) -> None:
    assume(ranks <= batch and n > batch * (window + 1))
    make = Streams.training if training else Streams.evaluation
    whole = make(numbered(n), batch, window)
    parts = [make(numbered(n), batch, window, columns=rank_columns(batch, r, ranks)) for r in range(ranks)]
    assert {len(p) for p in parts} == {len(whole)}
    assert sum(p.width for p in parts) == whole.width == whole.batch == batch
    for i, window_of_all in enumerate(whole):
        pieces = [p[i] for p in parts]
        assert torch.equal(torch.cat([p.inputs for p in pieces], dim=1), window_of_all.inputs)
        assert torch.equal(torch.cat([p.targets for p in pieces], dim=1), window_of_all.targets)
        assert sum(p.symbols for p in pieces) == window_of_all.symbols


@given(sizes, batches, window_lengths, st.data())
def test_going_on_in_the_middle_is_going_on(n: int, batch: int, window: int, data: st.DataObject) -> None:
    assume(n > batch)
    streams = Streams.evaluation(numbered(n), batch, window)
    start = data.draw(st.integers(0, len(streams)))
    rest = list(streams.windows(start))
    assert [w.index for w in rest] == list(range(start, len(streams)))
    for w in rest:
        assert w.start == w.index * window
        assert torch.equal(w.inputs, streams[w.index].inputs)
        assert torch.equal(w.targets, streams[w.index].targets)


def test_a_window_by_hand() -> None:
    streams = Streams.evaluation(np.frombuffer(b"abcdefghi", np.uint8), batch=2, window=3)
    first, second = streams
    assert first.inputs.dtype == first.targets.dtype == torch.int64
    assert bytes(first.inputs.T.flatten().tolist()) == b"abcefg"
    assert bytes(first.targets.T.flatten().tolist()) == b"bcdfgh"
    assert (first.index, first.start, first.lengths, first.symbols) == (0, 0, None, 6)
    assert bytes(second.targets.T.flatten().tolist()) == b"ei"
    assert (second.index, second.start, second.steps) == (1, 3, 1)


def test_past_the_end_of_a_stream_is_zero_and_masked() -> None:
    streams = Streams.evaluation(np.full(9, 7, np.uint8), batch=3, window=2)  # 3, 3 and 2 targets
    last = streams[-1]
    assert last.lengths is not None
    assert last.lengths.tolist() == [1, 1, 0]
    mask = last.mask()
    assert mask is not None
    assert mask.tolist() == [[True, True, False]]
    assert last.inputs.tolist() == last.targets.tolist() == [[7, 7, 0]]
    assert last.symbols == 2


def test_the_number_of_windows_of_an_epoch_is_the_authors() -> None:
    ptb = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (5_101_618,), (0,))
    assert len(Streams.training(ptb, 128, 150)) == (5_101_618 // 128 - 1) // 150 == 265
    enwik8 = np.lib.stride_tricks.as_strided(np.zeros(1, np.uint8), (90_000_000,), (0,))
    assert len(Streams.training(enwik8, 128, 150)) == (90_000_000 // 128 - 1) // 150 == 4687
    assert len(Streams.training(enwik8, 128, 100)) == (90_000_000 // 128 - 1) // 100 == 7031


def test_a_mapped_text_stays_mapped(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"to be or not to be" * 10)
    text = open_text(path)
    streams = Streams.training(text.data, 4, 5)
    assert isinstance(streams._symbols, np.memmap)
    assert streams[0].inputs.shape == (5, 4)


def test_windows_belong_to_the_caller() -> None:
    symbols = numbered(50)
    streams = Streams.training(symbols, 2, 5)
    streams[0].inputs.zero_()
    assert streams[0].inputs.any()
    assert np.array_equal(symbols, numbered(50))


def test_out_of_range() -> None:
    streams = Streams.evaluation(numbered(10), 1, 3)
    assert len(streams) == 3
    assert list(streams.windows(3)) == []
    for index in (3, -4):
        with pytest.raises(IndexError, match="there are 3"):
            streams[index]
    with pytest.raises(ValueError, match="negative"):
        next(streams.windows(-1))


def test_too_short_a_text_says_how_long_it_must_be() -> None:
    with pytest.raises(DataError, match="4 streams and 6 steps, which needs at least 25"):
        Streams.training(numbered(21), 4, 6)
    Streams.training(numbered(25), 4, 6)
    with pytest.raises(DataError, match=r"at least 8:"):
        Streams.training(numbered(7), 4, 6, ragged="keep", offset=3)
    Streams.training(numbered(8), 4, 6, ragged="keep", offset=3)
    with pytest.raises(DataError, match="allow at most 3 streams"):
        Streams.evaluation(numbered(4), 4, 6)
    with pytest.raises(DataError, match="at most 0 streams"):
        Streams.evaluation(numbered(0), 1, 6)


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch": 0},
        {"window": 0},
        {"ragged": "pad"},
        {"offset": -1},
        {"jitter": -1},
        {"jitter": 2},
        {"jitter": 1, "ragged": "keep"},
        {"columns": slice(2, 2)},
        {"columns": slice(0, 9)},
        {"columns": slice(0, 4, 2)},
    ],
)
def test_senseless_settings_are_refused(arguments: dict[str, object]) -> None:
    settings: dict[str, object] = {"batch": 4, "window": 3, **arguments}
    with pytest.raises(ValueError):
        Streams.training(numbered(100), **settings)  # type: ignore[arg-type]


def test_symbols_must_be_bytes() -> None:
    with pytest.raises(TypeError, match="uint8"):
        Streams.training(np.zeros(50, np.int64), 1, 5)


def test_random_offset_depends_on_its_arguments_alone() -> None:
    drawn = [random_offset(7, epoch, 150) for epoch in range(400)]
    assert drawn == [random_offset(7, epoch, 150) for epoch in range(400)]
    assert drawn != [random_offset(8, epoch, 150) for epoch in range(400)]
    assert min(drawn) >= 0
    assert max(drawn) < 150
    assert len(set(drawn)) > 100
    assert random_offset(-1, 0, 1) == 0
    with pytest.raises(ValueError, match="limit"):
        random_offset(0, 0, 0)


def test_random_resets_depend_on_their_arguments_alone() -> None:
    drawn = np.stack([random_resets(7, update, 50, 0.1) for update in range(100)])
    assert np.array_equal(drawn, np.stack([random_resets(7, update, 50, 0.1) for update in range(100)]))
    assert not np.array_equal(drawn, np.stack([random_resets(8, update, 50, 0.1) for update in range(100)]))
    assert 0.08 < drawn.mean() < 0.12
    assert random_resets(-1, 0, 3, 1.0).all()
    assert not random_resets(0, 0, 3, 0.0).any()


@given(st.integers(1, 300), st.integers(1, 16))
def test_rank_columns_partition_the_batch(batch: int, ranks: int) -> None:
    assume(ranks <= batch)
    slices = [rank_columns(batch, r, ranks) for r in range(ranks)]
    assert [c for s in slices for c in range(batch)[s]] == list(range(batch))
    widths = [s.stop - s.start for s in slices]
    assert max(widths) - min(widths) <= 1


def test_rank_columns_refuses_ranks_without_streams() -> None:
    with pytest.raises(DataError, match="3 streams is too small for 4 processes"):
        rank_columns(3, 0, 4)
    with pytest.raises(ValueError, match="rank"):
        rank_columns(8, 2, 2)


def test_documents_begin_where_they_are_said_to() -> None:
    """A reset stands where the first symbol of a document is the target, in every cut, and past no end."""
    text = np.frombuffer(b"one\ntwo\n\nthree\nfour", dtype=np.uint8)
    starts = Text.of(text, "x").documents("lines")
    assert starts.tolist() == [4, 8, 9, 15]
    for cut in (
        Streams.evaluation(text, 3, 4, starts=starts),
        Streams.evaluation(text, 1, 100, starts=starts),
        Streams.training(text, 2, 3, starts=starts),
    ):
        for window in cut:
            assert window.resets is not None
            mask = window.mask()
            scored = window.resets if mask is None else window.resets & mask
            assert torch.equal(scored, window.resets)
            newline = window.inputs == 10
            assert torch.equal(window.resets, newline if mask is None else newline & mask)
    assert all(window.resets is None for window in Streams.evaluation(text, 3, 4))
    assert not Streams.evaluation(text, 3, 4, starts=starts[:0])[0].resets.any()  # type: ignore[union-attr]


def test_files_are_documents(tmp_path: Path) -> None:
    for name, content in (("a", b"abc"), ("b", b""), ("c", b"de"), ("d", b"fghij")):
        (tmp_path / name).write_bytes(content)
    text = open_text([tmp_path / name for name in "abcd"])
    assert text.documents("files").tolist() == [0, 3, 5]
    assert text.part(2, 9, "part").documents("files").tolist() == [1, 3]
