# ruff: noqa: PT018 - assertions stand for the checks of a decoder
"""A decoder of exact archives written from docs/format.md alone, in plain Python: it shares no code with the package.

Slow and short. `decode(archive, model=None)` gives the text; assertions stand for every check.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import struct
import zlib


def decode(archive: bytes, model: bytes | None = None) -> bytes:
    assert archive[:10] == b"\x89FSZ\r\n\x1a\n\x01\x00"
    embedded, size, lanes, alphabet = archive[10], *struct.unpack_from("<IHH", archive, 12)
    identity = archive[20:52]
    settings, plain, stored = struct.unpack_from("<III", archive, 60)
    assert lanes == 0 and archive[52:60] == bytes(8)
    at = 72 + settings
    (seed,) = struct.unpack_from("<I", archive, at)
    assert zlib.crc32(archive[:at]) == seed
    at += 4
    if embedded:
        model = unpack(archive[at : at + stored], plain)
        at += stored
    texts, index = [], []
    while archive[at] == 0x42:
        kind, lanes, escape = struct.unpack_from("<BHB", archive, at + 1)
        number, plain, stored, payload_crc = struct.unpack_from("<QIII", archive, at + 8)
        payload = archive[at + 40 : at + 40 + stored]
        assert zlib.crc32(archive[at : at + 36], seed) == struct.unpack_from("<I", archive, at + 36)[0]
        assert number == len(texts) and 0 < plain <= size and zlib.crc32(payload, seed) == payload_crc
        if kind == 0:
            text = payload
        elif kind == 1:
            text = unpack(payload, plain)
        else:
            assert model is not None and hashlib.sha256(model).digest() == identity
            network = Network(model)
            assert len(network.symbols) == alphabet
            text = neural(payload, plain, network, lanes, escape)
        assert hashlib.sha256(text).digest()[:8] == archive[at + 28 : at + 36]
        texts.append(text)
        index.append((stored, plain))
        at += 40 + stored
    whole = b"".join(texts)
    trailer = archive[at:]
    assert trailer[:8] == b"\x45" + bytes(7) and struct.unpack_from("<QQ", trailer, 8) == (len(texts), len(whole))
    assert trailer[24:56] == hashlib.sha256(whole).digest()
    entries = trailer[56 : 56 + 8 * len(texts)]
    assert list(struct.iter_unpack("<II", entries)) == index
    crc, length = struct.unpack_from("<IQ", trailer, 56 + 8 * len(texts))
    assert crc == zlib.crc32(trailer[: 56 + 8 * len(texts)], seed) and length == len(trailer)
    assert trailer[-8:] == b"FSZEND\r\n"
    return whole


def unpack(data: bytes, length: int) -> bytes:
    dictionary = 4096
    while dictionary < length:
        dictionary *= 2
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": dictionary}]
    return lzma.decompress(data, format=lzma.FORMAT_RAW, filters=filters)


def neural(payload: bytes, length: int, network: Network, lanes: int, escape: int) -> bytes:
    short, longer = divmod(length, lanes)
    texts = [bytearray() for _ in range(lanes)]
    states = [network.zero() for _ in range(lanes)]
    previous = [network.start] * lanes
    size = len(network.symbols)
    data = payload + bytes(8)
    value, width, read = int.from_bytes(data[:8], "big"), 2**64 - 1, 8

    def symbol_of(frequencies: list[int]) -> int:
        nonlocal value, width, read
        unit = width // 2**24
        target = value // unit
        assert target < 2**24
        symbol, start = 0, 0
        while start + frequencies[symbol] <= target:
            start += frequencies[symbol]
            symbol += 1
        value -= unit * start
        width = unit * frequencies[symbol]
        while width < 2**56:
            value = value * 256 + data[read]
            read, width = read + 1, width * 256
        return symbol

    for t in range(short + (longer > 0)):
        for lane in range(lanes if t < short else longer):
            frequencies = network.frequencies(network.step(previous[lane], states[lane]), escape)
            symbol = symbol_of(frequencies)
            if symbol < size:
                texts[lane].append(network.symbols[symbol])
            else:
                texts[lane].append(symbol_of([2**16] * 256))
                symbol = network.start
            previous[lane] = symbol
    assert len(payload) <= read <= len(payload) + 8
    return b"".join(texts)


def rounded(x: int, bits: int) -> int:
    return x << -bits if bits < 0 else (2 * x + (1 << bits)) >> (bits + 1)


def limited(x: int, low: int, high: int) -> int:
    return max(low, min(high, x))


def epsilon(bits: int) -> int:
    return max(1, (4**bits + 500) // 1000)


class Network:
    def __init__(self, data: bytes) -> None:
        assert data[:4] == b"FSXM"
        (length,) = struct.unpack_from("<I", data, 4)
        head = json.loads(data[8 : 8 + length])
        self.at, self.data = 8 + length, data
        self.symbols = bytes.fromhex(head["symbols"])
        self.start, self.slots, self.nodes, self.output = head["start"], head["slots"], head["nodes"], head["output"]
        self.keep_h, self.keep_c = head["keep"]
        weight = {1: "b", 2: "h"}[head["width"]]
        self.knots, self.coarse, self.fine = self.take("i", 1025), self.take("i", 704), self.take("i", 1024)
        size, self.embedding_bits = head["embedding"]
        self.embedding = self.matrix(weight, len(self.symbols), size)
        self.cells = head["cells"]
        for cell in self.cells:
            hidden = cell["hidden"]
            cell["weight"] = self.matrix(weight, 4 * hidden, cell["input"] + hidden)
            if cell["embedded"]:
                cell["embed_weight"] = self.matrix(weight, 4 * hidden, size)
            cell["bias"] = self.take("i", 4 * hidden)
            if cell["norm"]:
                cell["gate_gain"], cell["gate_shift"] = self.take("h", 4 * hidden), self.take("i", 4 * hidden)
                cell["cell_gain"], cell["cell_shift"] = self.take("h", hidden), self.take("i", hidden)
        self.head = self.matrix(weight, len(self.symbols), self.slots[self.nodes[self.output][1]])
        self.head_bias, self.head_bits = self.take("i", len(self.symbols)), head["head_bits"]
        assert self.at == len(data)

    def take(self, kind: str, count: int) -> list[int]:
        values = struct.unpack_from(f"<{count}{kind}", self.data, self.at)
        self.at += struct.calcsize(f"<{count}{kind}")
        return list(values)

    def matrix(self, kind: str, rows: int, columns: int) -> list[list[int]]:
        return [self.take(kind, columns) for _ in range(rows)]

    def knot(self, i: int) -> int:
        k, part = divmod(i, 64)
        return self.knots[k] if part == 0 else (self.knots[k] * (64 - part) + self.knots[k + 1] * part + 32) // 64

    def sigmoid(self, a: int) -> int:
        a = limited(a, -(2**16), 2**16 - 1)
        value = self.knot(a) if a >= 0 else 2**30 - self.knot(-a)
        return min((value + 2**14) // 2**15, 2**15 - 1)

    def tanh(self, a: int) -> int:
        a = limited(a, -(2**16), 2**16 - 1)
        value = min((2 * self.knot(min(2 * abs(a), 2**16)) - 2**30 + 2**14) // 2**15, 2**15 - 1)
        return value if a >= 0 else -value

    def zero(self) -> list[list[list[int]]]:
        return [[[0] * size, [0] * size] for size in self.slots]

    def normalised(self, values: list[int], bits: int, gain: list[int], shift: list[int], gain_bits: int) -> list[int]:
        size = len(values)
        mean = (2 * sum(values) + size) // (2 * size)
        variance = sum((x - mean) ** 2 for x in values) // size
        inverse = math.floor(2.0**40 / math.sqrt(variance + epsilon(bits)))
        out = []
        for x, g, s in zip(values, gain, shift, strict=True):
            n = ((x - mean) * inverse) >> 26
            out.append(rounded(4 * n * g + (s << gain_bits), gain_bits + 4))
        return out

    def step(self, symbol: int, state: list[list[list[int]]]) -> list[int]:
        outputs: list[list[int]] = []
        for cell_number, slot, source in self.nodes:
            cell = self.cells[cell_number]
            hidden, z_bits = cell["hidden"], cell["z_bits"]
            h, c = state[slot]
            read = (outputs[source] if source >= 0 else []) + h
            z = []
            for row in range(4 * hidden):
                value = rounded(dot(cell["weight"][row], read), cell["bits"] + 15 - z_bits) + cell["bias"][row]
                if source == -1:
                    product = dot(cell["embed_weight"][row], self.embedding[symbol])
                    value += rounded(product, cell["embed_bits"] + self.embedding_bits - z_bits)
                z.append(value)
            arguments = []
            for gate in range(4):
                part = slice(gate * hidden, (gate + 1) * hidden)
                if cell["norm"]:
                    gain, shift = cell["gate_gain"][part], cell["gate_shift"][part]
                    arguments.append(self.normalised(z[part], z_bits, gain, shift, cell["gate_bits"]))
                else:
                    arguments.append([rounded(x, z_bits - 12) for x in z[part]])
            i, f, o = ([self.sigmoid(a) for a in arguments[gate]] for gate in (0, 1, 3))
            g = [self.tanh(a) for a in arguments[2]]
            new_c = [limited(rounded(f[k] * c[k] + i[k] * g[k], 15), -(2**23) + 1, 2**23 - 1) for k in range(hidden)]
            if cell["norm"]:
                inner = self.normalised(new_c, 15, cell["cell_gain"], cell["cell_shift"], cell["cell_bits"])
            else:
                inner = [rounded(x, 3) for x in new_c]
            new_h = [rounded(o[k] * self.tanh(inner[k]), 15) for k in range(hidden)]
            state[slot] = [
                [rounded(self.keep_h * x + (2**15 - self.keep_h) * y, 15) for x, y in zip(new_h, h, strict=True)],
                [rounded(self.keep_c * x + (2**15 - self.keep_c) * y, 15) for x, y in zip(new_c, c, strict=True)],
            ]
            outputs.append(state[slot][0])
        y = outputs[self.output]
        return [rounded(dot(row, y), self.head_bits) + b for row, b in zip(self.head, self.head_bias, strict=True)]

    def frequencies(self, logits: list[int], escape: int) -> list[int]:
        best = logits.index(max(logits))
        reserved = 2 ** (escape - 1) if escape else 0
        weights = []
        for logit in logits:
            d = logits[best] - logit
            weights.append(0 if d >= 704 << 10 else self.coarse[d >> 10] * self.fine[d & 1023] >> 30)
        total = sum(weights)
        result = [1 + weight * (2**24 - len(logits) - reserved) // total for weight in weights]
        result[best] += 2**24 - reserved - sum(result)
        return result + [reserved] * (escape > 0)


def dot(a: list[int], b: list[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))
