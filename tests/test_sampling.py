from __future__ import annotations

import io

import pytest

from fastslow.data.alphabet import Alphabet
from fastslow.errors import AlphabetError
from fastslow.lm.generation import SamplingError
from fastslow.sampling import readable, sample, write_bytes, write_text
from tests.lm.models import small_lm


def pieces(raw: bytes) -> list[bytes]:
    return [raw[i : i + 1] for i in range(len(raw))]


def test_characters_come_whole() -> None:
    assert list(readable(pieces("é日😀".encode()))) == ["é", "日", "😀"]


def test_what_is_no_text_is_escaped_and_drives_no_terminal() -> None:
    raw = b"a\xff\xe6b\x1b[31m\x07\r\n\tc"
    assert "".join(readable(pieces(raw))) == "a\\xff\\xe6b\\x1b[31m\\x07\\r\n\tc"


def test_a_character_cut_short_at_the_end_is_shown() -> None:
    assert list(readable([b"a", b"\xf0\x9f"])) == ["a", "\\xf0\\x9f"]


class Flushed(io.StringIO):
    def __init__(self) -> None:
        super().__init__()
        self.at_flush: list[str] = []

    def flush(self) -> None:
        self.at_flush.append(self.getvalue())


def test_text_is_flushed_at_every_character_and_ends_its_line() -> None:
    out = Flushed()
    write_text(pieces("aé".encode()), out)
    assert out.at_flush[:2] == ["a", "aé"]
    assert out.getvalue() == "aé\n"
    again = io.StringIO()
    write_text([b"x\n"], again)
    assert again.getvalue() == "x\n"


def test_a_file_gets_the_bytes() -> None:
    out = io.BytesIO()
    write_bytes(pieces(b"a\xff\x1b"), out)
    assert out.getvalue() == b"a\xff\x1b"


def test_a_sample_is_the_prompt_and_what_the_model_draws() -> None:
    lm = small_lm()
    assert b"".join(sample(lm, b"the ", 20, seed=3)) == b"the " + lm.generate(b"the ", 20, seed=3)
    assert b"".join(sample(lm, b"", 5, seed=3)) == lm.generate(b"", 5, seed=3)


def test_seeds_repeat() -> None:
    lm = small_lm(alphabet=Alphabet.bytes())
    first, again, other = (b"".join(sample(lm, b"a", 30, seed=seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_bad_options_and_prompts_are_told_at_once() -> None:
    lm = small_lm()
    with pytest.raises(SamplingError, match="temperature"):
        sample(lm, b"", 3, temperature=-1.0)
    with pytest.raises(AlphabetError, match="the prompt has byte 0x58 'X' at offset 1"):
        sample(lm, b"aX", 3)
