"""The float modes: round trips, probes, and learning that is the same on both sides and helps."""

from __future__ import annotations

import io

import pytest
import torch

from fastslow import CharLM, codec
from fastslow.codec import container
from fastslow.codec.floating import Environment, FloatPredictor, integer_logits, probe
from fastslow.codec.learning import Learning, LearningPredictor, Online
from fastslow.data.alphabet import Alphabet
from fastslow.lm.config import LMConfig

from .tiny import ALPHABET, TEXT, random_text

MODES = ["float", "adapt", "online"]


@pytest.fixture(scope="module")
def lm() -> CharLM:
    torch.manual_seed(0)
    config = LMConfig(
        embedding_size=8, hidden_size=16, slow_size=12, zoneout_h=0.05, zoneout_c=0.1, alphabet=Alphabet(ALPHABET)
    )
    return CharLM(config, backend="reference").eval()


def small_online() -> dict[str, object]:
    return {"online": Online(hidden_size=12, slow_size=8, embedding_size=6), "learning": Learning(window=5, rate=0.01)}


def options_of(mode: str) -> dict[str, object]:
    return {"float": {}, "adapt": {"learning": Learning(window=6, rate=0.01)}, "online": small_online()}[mode]


def kinds(archive: bytes, model: CharLM | None) -> dict[str, int]:
    reader = codec.ArchiveReader(io.BytesIO(archive), model)
    for _ in reader.blocks():
        pass
    return reader.summary.kinds


@pytest.mark.parametrize("mode", MODES)
def test_round_trip_in_blocks_of_every_kind(lm: CharLM, mode: str) -> None:
    model = None if mode == "online" else lm
    weights = [weight.clone() for weight in lm.parameters()]
    data = random_text(300) + b"a" * 300 + random_text(440, 3) + bytes((i * i * 7 + i // 3) % 256 for i in range(300))
    archive = codec.compress(data, model, mode=mode, lanes=20, block_size=300, **options_of(mode))
    assert codec.decompress(archive, model) == data
    found = kinds(archive, model)
    assert found["lzma"] >= 300
    if mode != "online":
        assert found["neural"] >= 600
    assert all(torch.equal(a, b) for a, b in zip(weights, lm.parameters(), strict=True)), "the model was changed"
    assert not any(weight.grad is not None for weight in lm.parameters())


@pytest.mark.parametrize("mode", ["float", "adapt"])
def test_the_embedded_model_is_enough(lm: CharLM, mode: str) -> None:
    """It runs on the engine that its maker named: another might compute other numbers."""
    data = random_text(300)
    archive = codec.compress(data, lm, mode=mode, lanes=20, embed_model=True, **options_of(mode))
    assert codec.decompress(archive) == data


@pytest.mark.parametrize("mode", MODES)
def test_other_numbers_are_refused_by_the_probe(lm: CharLM, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = None if mode == "online" else lm
    options = options_of(mode)
    if mode == "online":
        options["learning"] = Learning(window=2, rate=0.05)
    archive = codec.compress(random_text(800) if model else TEXT[:120], model, mode=mode, lanes=4, **options)
    if mode == "online" and not kinds(archive, model)["neural"]:
        pytest.skip("the untrained model lost to lzma")
    from fastslow.codec import floating, learning

    def nudged(logits: torch.Tensor) -> object:
        return integer_logits(logits + 2**-14)

    monkeypatch.setattr(floating, "integer_logits", nudged)
    monkeypatch.setattr(learning, "integer_logits", nudged)
    with pytest.raises(codec.NumericsError, match="arithmetic differs") as caught:
        codec.decompress(archive, model)
    assert "\n" not in str(caught.value)


def test_numbers_that_change_after_the_probe_are_noticed(lm: CharLM, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastslow.codec import floating, predictors

    archive = codec.compress(random_text(400), lm, mode="float", lanes=20)
    monkeypatch.setattr(predictors, "check_probe", lambda *_: None)
    monkeypatch.setattr(floating, "integer_logits", lambda logits: integer_logits(logits.flip(-1)))
    with pytest.raises(codec.NumericsError, match="block 0 does not decode"):
        codec.decompress(archive, lm)


def test_the_maker_s_threads_are_taken_and_given_back(lm: CharLM, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        archive = codec.compress(random_text(300), lm, mode="float", lanes=20)
        torch.set_num_threads(1)
        seen = []
        step = FloatPredictor.step
        monkeypatch.setattr(
            FloatPredictor, "step", lambda self, s: (seen.append(torch.get_num_threads()), step(self, s))[1]
        )
        codec.decompress(archive, lm)
        assert set(seen) == {2}
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def bits(predictor: FloatPredictor | LearningPredictor, data: bytes, lanes: int) -> float:
    from fastslow.codec.blocks import encode_block

    return 8 * len(encode_block(data, predictor, lanes, 0, 1 << 30) or b"") / len(data)


def test_learning_helps(lm: CharLM) -> None:
    data = TEXT * 20
    frozen = bits(FloatPredictor(lm), data, 16)
    adapted = bits(LearningPredictor(lm, Learning(rate=0.02, window=10)), data, 16)
    assert adapted < frozen - 0.3
    assert bits(LearningPredictor(lm, Learning(rate=0.0)), data, 16) == frozen


def test_a_decay_of_one_forgets_at_once(lm: CharLM) -> None:
    predictor = LearningPredictor(lm, Learning(rate=0.0, decay=1.0, window=3))
    assert bits(predictor, TEXT, 4) == bits(FloatPredictor(lm), TEXT, 4)


def test_an_unused_block_leaves_no_trace(lm: CharLM) -> None:
    predictor = LearningPredictor(lm, Learning(rate=0.01, window=4))
    first = probe(predictor, 5, 20)
    assert probe(predictor, 5, 20) == first
    bits(predictor, TEXT, 4)
    predictor.settle(False)
    assert probe(predictor, 5, 20) == first
    bits(predictor, TEXT, 4)
    predictor.settle(True)
    assert probe(predictor, 5, 20) != first


def test_no_symbol_sees_itself(lm: CharLM) -> None:
    """What is predicted up to a place does not depend on what stands there or later."""
    import numpy as np

    def logits(symbols: np.ndarray) -> np.ndarray:
        predictor = LearningPredictor(lm, Learning(rate=0.05, window=3))
        predictor.begin(2)
        return np.stack([predictor.step(row) for row in symbols])

    symbols = np.arange(40).reshape(20, 2) % len(ALPHABET)
    for at in (3, 10, 19):
        changed = symbols.copy()
        changed[at:] = (changed[at:] + 5) % len(ALPHABET)
        assert (logits(symbols)[:at] == logits(changed)[:at]).all()
        assert (logits(symbols)[at] != logits(changed)[at]).any()


def test_online_models_are_made_from_their_seed_alone() -> None:
    state = torch.get_rng_state()
    one, two = Online(hidden_size=8, slow_size=8).build(), Online(hidden_size=8, slow_size=8).build()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(Online(hidden_size=8, slow_size=8, seed=2).build().embedding.weight, one.embedding.weight)


@pytest.mark.parametrize(
    "options",
    [{"rate": 2.0}, {"rate": "x"}, {"rate": True}, {"window": 0}, {"window": 1.5}, {"beta": 1.0}, {"clip": 0}],
)
def test_senseless_learning_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(codec.CodecError):
        Learning(**options)  # type: ignore[arg-type]
    with pytest.raises(codec.FormatError):
        Learning.from_json(Learning().to_json() | options)


@pytest.mark.parametrize("value", [None, [], ["", 0, "auto"], ["", True, "auto"], ["", 1, "auto", 1], [1, 1, "auto"]])
def test_hostile_environments_are_refused(value: object) -> None:
    with pytest.raises(codec.FormatError):
        Environment.from_json(value)


@pytest.mark.parametrize("value", [None, {}, {"hidden_size": 2**40}, Online().to_json() | {"hidden_size": 5000}, []])
def test_hostile_online_settings_are_refused(value: object) -> None:
    with pytest.raises(codec.FormatError):
        Online.from_json(value)
    with pytest.raises(codec.FormatError):
        Learning.from_json(value)


def test_a_window_that_would_need_all_memory_is_refused() -> None:
    header = container.Header(
        container.Mode.ONLINE,
        1 << 20,
        4096,
        256,
        bytes(32),
        settings={
            "environment": ["", 1, "auto"],
            "learning": Learning(window=4096).to_json(),
            "online": Online(hidden_size=8, slow_size=8).to_json(),
        },
    ).sealed()
    block = container.BlockHeader(0, container.Kind.NEURAL, 4096, 0, 100, 3, 0, bytes(8))
    import zlib
    from dataclasses import replace

    block = replace(block, payload_crc=zlib.crc32(b"abc", header.crc))
    data = header.to_bytes() + block.to_bytes(header.crc) + b"abc"
    with pytest.raises(codec.CodecError, match="too large"):
        codec.decompress(data)


def test_logits_that_are_no_numbers_are_refused(lm: CharLM) -> None:
    with pytest.raises(codec.ModelError, match="not finite"):
        integer_logits(torch.tensor([[float("nan")]]))


def test_open_jumps_in_learning_archives(lm: CharLM, tmp_path: object) -> None:
    from pathlib import Path

    path = Path(str(tmp_path)) / "a.fsz"
    data = random_text(600)
    path.write_bytes(
        codec.compress(data, lm, mode="adapt", lanes=20, block_size=150, learning=Learning(window=3, rate=0.01))
    )
    with codec.open(path, lm) as file:
        for at in (460, 10, 300, 155):
            file.seek(at)
            assert file.read(100) == data[at : at + 100]
