"""Alphabets: round trips, errors that name the byte, and the stored form."""

from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastslow.data.alphabet import Alphabet, describe_byte
from fastslow.errors import AlphabetError, DataError

texts = st.binary(min_size=1, max_size=300)


@given(texts)
def test_text_comes_back(data: bytes) -> None:
    for alphabet in (Alphabet.of(data), Alphabet.bytes()):
        symbols = alphabet.encode(data)
        assert symbols.dtype == np.uint8
        assert symbols.shape == (len(data),)
        assert int(symbols.max()) < alphabet.size
        assert alphabet.decode(symbols) == data
        assert alphabet.decode(symbols.tolist()) == data
        assert alphabet.decode(torch.from_numpy(symbols.astype(np.int64))) == data
        assert [alphabet.index(b) for b in data] == symbols.tolist()


@given(texts)
def test_symbols_are_the_distinct_bytes_in_order(data: bytes) -> None:
    alphabet = Alphabet.of(data)
    assert alphabet.symbols == bytes(sorted(set(data)))
    assert alphabet.size == len(alphabet) == len(set(data))
    assert all((b in alphabet) == (b in data) for b in range(256))


@given(texts)
def test_stored_form_is_exact_and_small(data: bytes) -> None:
    alphabet = Alphabet.of(data)
    stored = json.dumps(alphabet.to_json())
    assert len(stored) < 540
    again = Alphabet.from_json(json.loads(stored))
    assert again == alphabet
    assert hash(again) == hash(alphabet)
    assert again.fingerprint == alphabet.fingerprint
    assert pickle.loads(pickle.dumps(alphabet)) == copy.deepcopy(alphabet) == alphabet


@given(texts, st.binary(min_size=1, max_size=300))
def test_the_first_unknown_symbol_is_named_with_its_place(known: bytes, data: bytes) -> None:
    alphabet = Alphabet.of(known)
    places = [i for i, byte in enumerate(data) if byte not in known]
    if not places:
        assert alphabet.decode(alphabet.encode(data)) == data
        alphabet.check(data)
        return
    message = f"it has byte {re.escape(describe_byte(data[places[0]]))} at offset {places[0]},"
    for look in (alphabet.encode, alphabet.check):
        with pytest.raises(AlphabetError, match=message) as caught:
            look(data, name="it")
        count = f"{len(places)} such byte"
        assert count in str(caught.value)


def test_byte_alphabet_is_the_identity_and_makes_no_copy(tmp_path: Path) -> None:
    path = tmp_path / "all"
    path.write_bytes(bytes(range(256)) * 3)
    mapped = np.memmap(path, dtype=np.uint8, mode="r")
    alphabet = Alphabet.bytes()
    assert alphabet.is_bytes
    assert alphabet.size == 256
    assert alphabet.encode(mapped) is mapped
    assert alphabet.to_json() == {"kind": "bytes"}
    assert Alphabet.from_json({"kind": "bytes"}) == alphabet == Alphabet.of(bytes(range(256)))
    assert repr(alphabet) == "Alphabet.bytes()"


def test_stored_form_is_pinned() -> None:
    alphabet = Alphabet(b"\n ab")
    assert alphabet.to_json() == {"kind": "symbols", "hex": "0a206162"}
    assert alphabet.fingerprint == "ee9224dc2b69087f"
    assert repr(alphabet) == "Alphabet(b'\\n ab')"


def test_different_alphabets_differ() -> None:
    assert Alphabet(b"ab") != Alphabet(b"abc")
    assert Alphabet(b"ab").fingerprint != Alphabet(b"abc").fingerprint
    assert Alphabet(b"ab") != b"ab"


def test_unknown_symbols_are_named_with_offset_number_and_remedy() -> None:
    alphabet = Alphabet.of(b"abc ")
    text = b"abc" * 500_000 + b"a\xe9b\xe9cX"  # past the first chunk
    for method in (alphabet.encode, alphabet.check):
        with pytest.raises(AlphabetError) as caught:
            method(text, name="book.txt")
        message = str(caught.value)
        assert "book.txt has byte 0xe9 at offset 1,500,001" in message
        assert "3 such bytes of 2 kinds" in message
        assert "4 symbols" in message
        assert "byte alphabet" in message
    with pytest.raises(AlphabetError, match=r"byte 0x0a '\\n' at offset 1,.*1 such byte in all"):
        alphabet.encode(b"a\nb")
    alphabet.check(b"cab")
    Alphabet.bytes().check(text)


def test_describe_byte() -> None:
    assert describe_byte(0x41) == "0x41 'A'"
    assert describe_byte(0x0A) == r"0x0a '\n'"
    assert describe_byte(0xE9) == "0xe9"


def test_index_and_decode_refuse_what_is_outside() -> None:
    alphabet = Alphabet(b"ab")
    with pytest.raises(AlphabetError, match="0x63 'c'"):
        alphabet.index(ord("c"))
    with pytest.raises(AlphabetError, match="300"):
        alphabet.index(300)
    assert "a" not in alphabet
    for wrong in ([0, 2], [0, -1], np.array([0, 255])):
        with pytest.raises(AlphabetError, match="position 1 is outside this alphabet: 0 to 1"):
            alphabet.decode(wrong)
    assert alphabet.decode([]) == b""
    for odd in ([[0]], [0.5], "ab"):
        with pytest.raises(TypeError, match="integers"):
            alphabet.decode(odd)


def test_what_is_not_an_alphabet_is_refused() -> None:
    with pytest.raises(AlphabetError, match="at least one"):
        Alphabet(b"")
    with pytest.raises(AlphabetError, match="0x61 'a' occurs twice"):
        Alphabet(b"aab")
    with pytest.raises(AlphabetError, match="ascending order; 0x61 'a' comes after 0x62 'b'"):
        Alphabet(b"ba")
    with pytest.raises(TypeError, match="bytes"):
        Alphabet("ab")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="empty"):
        Alphabet.of(b"")
    with pytest.raises(TypeError, match="uint8"):
        Alphabet.of(np.zeros(3, dtype=np.int64))
    with pytest.raises(TypeError, match="list"):
        Alphabet.bytes().encode([1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "stored",
    [
        None,
        [],
        "bytes",
        {},
        {"kind": "words"},
        {"kind": ["bytes"]},
        {"kind": "bytes", "hex": "61"},
        {"kind": "symbols"},
        {"kind": "symbols", "hex": "61", "more": 1},
        {"kind": "symbols", "hex": 61},
        {"kind": "symbols", "hex": ""},
        {"kind": "symbols", "hex": "6"},
        {"kind": "symbols", "hex": "61 62"},
        {"kind": "symbols", "hex": "6A"},
        {"kind": "symbols", "hex": "6161"},
        {"kind": "symbols", "hex": "6261"},
        {"kind": "symbols", "hex": "61" * 300},
        {"kind": "symbols", "hex": bytes(range(256)).hex()},
    ],
)
def test_a_damaged_stored_alphabet_is_refused(stored: object) -> None:
    with pytest.raises(AlphabetError):
        Alphabet.from_json(stored)
