# ruff: noqa: PT018 - assertions stand for the checks of a decoder
"""A decoder of archives of version 2 written from docs/format.md alone, in plain Python, as `restatement` is of
version 1: it shares no code with the package.

`decode(data, model=None)` gives the texts of the archives in `data`, one after the other; about a kilobyte a second.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import defaultdict
from decimal import ROUND_HALF_EVEN, Decimal, getcontext
from functools import cache
from typing import Any

from . import restatement
from .restatement import Network, unpack

U32, U64 = 2**32 - 1, 2**64 - 1


def decode(data: bytes, model: bytes | None = None) -> bytes:
    texts, at = [], 0
    while at < len(data):
        if data[at : at + 5] == b"\x89FSZ\r":
            return b"".join(texts) + restatement.decode(data[at:], model)
        text, at = one(data, at, model)
        texts.append(text)
    return b"".join(texts)


class Fields:
    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.start, self.at = data, at, at

    def take(self, count: int) -> bytes:
        self.at += count
        assert self.at <= len(self.data)
        return self.data[self.at - count : self.at]

    def number(self) -> int:
        value = 0
        for i in range(9):
            (byte,) = self.take(1)
            value += (byte % 128) << 7 * i
            if byte < 128:
                assert i == 0 or byte
                return value
        raise AssertionError("too long")

    def sealed(self, seed: int) -> int:
        crc = zlib.crc32(self.data[self.start : self.at], seed)
        assert self.take(4) == crc.to_bytes(4, "little")
        return crc


def one(data: bytes, at: int, model: bytes | None) -> tuple[bytes, int]:
    assert data[at : at + 5] == b"\x89FSZ\x02"
    at, seed, whole = at + 5, zlib.crc32(b"\x89FSZ\x02"), b""
    while True:
        fields = Fields(data, at)
        tag = fields.take(1)
        if tag == b"E":
            assert fields.number() == len(whole) and fields.take(8) == hashlib.sha256(whole).digest()[:8]
            return whole, fields.at
        if tag == b"M":
            size, stored, identity = fields.number(), fields.number(), fields.take(8)
            seed = fields.sealed(seed)
            model = unpack(fields.take(stored), size)
            assert hashlib.sha256(model).digest()[:8] == identity
            at = fields.at
            continue
        assert tag in (b"R", b"L", b"C", b"N")
        size = fields.number()
        stored = size if tag == b"R" else fields.number()
        assert 1 <= size <= 2**26 and (tag == b"R" or stored < size)
        lanes = done = note_size = 0
        inner, network = size, None
        if tag in (b"C", b"N"):
            lanes, (done,) = fields.number(), fields.take(1)
            if done:
                inner, note_size = fields.number(), fields.number()
        if tag == b"N":
            fields.take(1)
            assert model is not None and hashlib.sha256(model).digest()[:8] == fields.take(8)
            network = Network(model)
        check = fields.take(8)
        seed = fields.sealed(seed)
        payload = text = fields.take(stored)
        if tag == b"L":
            text = unpack(payload, size)
        elif tag != b"R":
            text = undone(done, Mixer(payload[note_size:], inner, lanes, network).text(), payload[:note_size])
        assert len(text) == size and hashlib.sha256(payload + text).digest()[:8] == check
        whole, at = whole + text, fields.at


def undone(done: int, text: bytes, note: bytes) -> bytes:
    if done & 4:
        alone, fields, line = set(), Fields(note, 0), -1
        while fields.at < len(note):
            line += 1 + fields.number()
            alone.add(line)
        out, line = bytearray(), 0
        for byte in text:
            if byte == 10:
                if line not in alone:
                    out.append(13)
                line += 1
            out.append(byte)
        assert not alone or max(alone) < line
        text = bytes(out)
    if done & 2:
        text = b"\xef\xbb\xbf" + text
    if done & 1:
        text = text.decode("utf-8", "surrogatepass").encode("utf-16-le", "surrogatepass")
    return text


# ---------------------------------------------------------------------- tables


@cache
def tables() -> Any:
    getcontext().prec = 40

    def whole(value: Decimal) -> int:
        return int(value.to_integral_value(ROUND_HALF_EVEN))

    logarithms = [whole((Decimal(4096 + i) / 4096).ln() * 65536) for i in range(4096)]

    def ln(n: int) -> int:
        top = n.bit_length() - 1
        return 45426 * top + logarithms[((n << 12) >> top) - 4096]

    stretch = [-12287] + [clip((ln(p) - ln(65536 - p) + 32) // 64) for p in range(1, 65536)]
    upper = [whole(65536 / (1 + (-Decimal(s) / 1024).exp())) for s in range(12289)]
    squash = {s: max(1, min(65535, upper[s] if s >= 0 else 65536 - upper[-s])) for s in range(-12288, 12288)}

    limits = [41, 38, 13, 8, 6, 5]

    def fits(a: int, b: int) -> bool:
        return min(a, b) < 6 and max(a, b) <= limits[min(a, b)]

    def kept(a: int, b: int, last: int) -> tuple[int, int, int]:
        return a, b, last if a and b and a + b <= 12 else 0

    order = sorted(
        {kept(a, b, last) for a in range(42) for b in range(42) for last in (0, 1) if fits(a, b)},
        key=lambda s: (s[0] + s[1], s[1], s[2]),
    )
    number = {state: i for i, state in enumerate(order)}
    following, initial = [], []
    for zeros, ones, _ in order:
        pair = []
        for bit in (0, 1):
            own, other = (ones, zeros) if bit else (zeros, ones)
            own += 1
            other = other.bit_length() if other > 2 else other
            while not fits(own, other):
                own -= 1
            pair.append(number[kept(*((other, own) if bit else (own, other)), bit)])
        following.append(pair)
        initial.append((((5 * ones + 2) * (2**22 - 1)) // (5 * (zeros + ones) + 4)) * 1024 + 2)
    return ln, stretch, squash, following, initial


def clip(x: int) -> int:
    return max(-12287, min(12287, x))


def mash(a: int, b: int) -> int:
    h = (a * 0x2C1B3C6D + b * 0x9E3779B1) & U32
    h = ((h ^ h >> 15) * 0x85EBCA6B) & U32
    return h ^ h >> 13


def size_for(n: int, least: int, most: int) -> int:
    bits = least
    while bits < most and 2**bits < n:
        bits += 1
    return 2**bits


def learn(table: Any, key: Any, bit: int, most: int) -> None:
    p, n = divmod(table[key], 1024)
    p = min(2**22 - 1, p + ((bit * 2**22 - p) * (2**17 // (2 * n + 3))) // 2**16)
    table[key] = p * 1024 + min(n + 1, max(n, most))


class Lane:
    def __init__(self, first: int) -> None:
        self.first = self.at = self.line = self.above = first
        self.last = self.word = self.word1 = self.word2 = self.start = 0
        self.matches = [[0, 0, 0], [0, 0, 0]]  # where, length, misses
        self.one = self.two = 0  # what followed, as it was when the lane's last byte was done


class Mixer:
    def __init__(self, payload: bytes, length: int, lanes: int, network: Network | None) -> None:
        self.ln, self.stretch, self.squash, self.following, initial = tables()
        self.payload, self.length, self.network = payload, length, network
        self.value, self.width, self.read = int.from_bytes(payload[:8].ljust(8, b"\0"), "big"), U64, 8
        short, longer = divmod(length, lanes)
        starts = [lane * short + min(lane, longer) for lane in range(lanes)]
        self.starts, self.lanes = starts, [Lane(start) for start in starts]
        self.out = [-1] * length
        self.steps = [(t, lane) for t in range(short + 1) for lane in range(lanes if t < short else longer)]
        self.slots: Any = defaultdict(lambda: [0] * 16)
        self.slot_count, self.direct_size = size_for(8 * length, 14, 22), size_for(8 * length, 16, 22)
        self.match_size = size_for(length, 12, 20)
        self.estimates = [list(initial) for _ in range(15)]
        self.direct: Any = [defaultdict(lambda: 2**31) for _ in range(3)]
        self.match_heads: Any = [defaultdict(int) for _ in range(2)]
        self.match_estimates: Any = [defaultdict(lambda: 3500000 * 1024) for _ in range(2)]
        self.told: Any = defaultdict(lambda: 2**31)
        self.one: Any = defaultdict(int)
        self.two: Any = defaultdict(int)
        first = [7864] * 15 + [0] * 15 + [7864] * 3 + [0] * 3 + [9830] * 2 + [0] * 9
        if network:
            first = [4900] * 15 + [-1300] * 15 + [3500] * 3 + [-2800] * 3 + [9830] * 2 + [-1500] * 2
            first += [30000, 1800, 2000, 2500, 2500, 2500, 0]
        self.weights: Any = [defaultdict(lambda: list(first)) for _ in range(6)]
        self.final: Any = defaultdict(lambda: [10922] * 6)
        cells = [self.squash[max(-12288, min(12287, 768 * (j - 16)))] for j in range(33)]
        self.maps: Any = [defaultdict(lambda: list(cells)) for _ in range(5)]
        self.readings: Any = [defaultdict(lambda: list(cells)) for _ in range(3)]

    def text(self) -> bytes:
        states = [self.network.zero() for _ in self.lanes] if self.network else []
        previous = [self.network.start] * len(self.lanes) if self.network else []
        for count, (_, lane) in enumerate(self.steps):
            masses = None
            if self.network:
                found = self.network.frequencies(self.network.step(previous[lane], states[lane]), 0)
                masses = [64] * 256
                for symbol, frequency in zip(self.network.symbols, found, strict=True):
                    masses[symbol] = frequency
            byte = self.byte(self.lanes[lane], masses, 12 + 560000 // (20000 + count))
            assert self.read <= len(self.payload) + 8
            if self.network:
                known = self.network.symbols
                previous[lane] = known.index(byte) if byte in known else self.network.start
        assert len(self.payload) <= self.read
        return bytes(self.out)

    def bit(self, p: int) -> int:
        split = self.width // 65536 * p
        y = int(self.value < split)
        if y:
            self.width = split
        else:
            self.value, self.width = self.value - split, self.width - split
        while self.width < 2**56:
            byte = self.payload[self.read] if self.read < len(self.payload) else 0
            self.value, self.width, self.read = (self.value * 256 + byte) & U64, self.width * 256, self.read + 1
        return y

    def slot(self, h: int) -> list[int]:
        place, check = ((h * 0x9E3779B1) & U32) // 128 % self.slot_count, h >> 24
        three = [self.slots[place ^ i] for i in range(3)]
        for slot in three:
            if slot[0] == check and slot[1]:
                return slot
        slot = min(three, key=lambda slot: slot[1])
        slot[:] = [check] + [0] * 15
        return slot

    def byte(self, z: Lane, masses: list[int] | None, rate: int) -> int:
        c = [z.last >> 8 * i & 255 for i in range(8)]
        low3, low4 = z.last & 0xFFFFFF, z.last & U32
        expected, buckets = [], []
        for match in z.matches:
            byte = self.out[match[0]] if match[1] and match[0] < self.length else -1
            if byte < 0:
                match[1] = 0
            expected.append(byte)
            length = match[1]
            buckets.append(length if length < 16 else 16 if length < 24 else 17 if length < 32 else 0)
            if length >= 32:
                buckets[-1] = min(31, 18 + (length // 64).bit_length())
        top = surprise = 0
        if masses:
            top = masses.index(max(masses))
            surprise = max(0, min(7, (self.ln(sum(masses)) - self.ln(masses[top])) // 22713))
        column = min(255, z.at - z.line)
        above = self.out[z.above + column] if z.above + column < z.line else 0
        which = 1 if expected[1] >= 0 else 0
        likely = expected[which] + 1 + 256 * (buckets[which] // 4) if expected[which] >= 0 else 0
        if expected[which] < 0 and masses:
            likely = top + 100000
        contexts = [
            mash(2, low3),
            mash(3, low4),
            mash(5 + 256 * (c[4] + 256 * c[5]), low4),
            mash(z.word * 16 + 6, c[0]),
            mash(z.word * 16 + 7, z.word1),
            mash(z.word * 16 + 8, z.word2),
            mash(10, low4 >> 8),
            mash(11 + 256 * above + 65536 * c[0], z.start),
            mash(12 + 256 * column, above),
            mash(13 + 256 * (z.one & 0xFFFF), c[0]),
            mash(14 + 256 * (z.two & 255), z.last & 0xFFFF),
            mash(15 + 256 * c[0], likely),
            mash(16, low4 & 0xE0F0F0FF),
            mash(mash(z.word * 16 + 9, z.word1), z.word2),
            mash(z.word * 16 + 10, top + 1 if masses else 0),
        ]
        if masses:
            contexts[9] = mash(13 + 256 * top + 65536 * surprise, c[0])
        bases = [0, 256 * c[0], mash(77, z.last & 0xFFFF) // 256 * 256]
        node = 1
        for bit in range(8):
            if bit in (0, 4):
                slots = [self.slot(mash(h, node) if bit else h) for h in contexts]
            inner = node if bit < 4 else node % 2 ** (bit - 4) + 2 ** (bit - 4)
            # inputs
            ps, order = [], 0
            histories = [slot[inner] for slot in slots]
            for i, history in enumerate(histories):
                ps.append(self.estimates[i][history] // 65536 if history else None)
                order = i + 1 if history and i < 3 else order
            x = [0 if p is None else self.stretch[p] for p in ps] + [0 if p is None else (p - 32768) // 8 for p in ps]
            near = [bases[0] + node, bases[1] + node, (bases[2] + node) % self.direct_size]
            ps = [self.direct[i][near[i]] // 65536 for i in range(3)]
            x += [self.stretch[p] for p in ps] + [(p - 32768) // 8 for p in ps]
            said, sure, pairs = -1, [None, None], [[0, 0], [0, 0]]
            for m in range(2):
                if expected[m] >= 0 and (expected[m] + 256) >> (8 - bit) == node:
                    said = expected[m] >> (7 - bit) & 1
                    sure[m] = (buckets[m] * 8 + z.matches[m][2] % 8, said)
                    p = self.match_estimates[m][sure[m][0]] // 65536
                    sign = 2 * said - 1
                    pairs[m] = [sign * self.stretch[p], sign * ((p - 32768) // 4)]
            x += [pairs[0][0], pairs[1][0], pairs[0][1], pairs[1][1]]
            told = (0, 0, 0)
            if masses:
                width = 256 >> bit
                start = (node << (8 - bit)) % 256
                zero, one = sum(masses[start : start + width // 2]), sum(masses[start + width // 2 : start + width])
                logit = clip((self.ln(one) - self.ln(zero) + 32) // 64)
                told = ((logit + 12288) // 512, surprise, bit)
                x += [logit, (self.squash[logit] - 32768) // 8, self.stretch[self.told[told] // 65536]]
                turn = told[0] * 16 + order * 2 + (sure != [None, None])
                spot, rest = divmod(logit + 12288, 768)
                places = [node, node + 256 * c[0], mash(z.last & 0xFFFF, node) % 65536]
                for table, key in zip(self.readings, places, strict=True):
                    x.append(self.stretch[(table[key][spot] * (768 - rest) + table[key][spot + 1] * rest) // 768])
            else:
                x += [0] * 6
                turn = min(63, z.at - z.line) * 16 + bit * 2 + (said >= 0)
            x.append(512)
            # mixing
            kinds = [kind(b) for b in c[:3]]
            sets = [
                node + 256 * (said + 1),
                c[0] * 8 + bit,
                turn,
                (order * 8 + surprise) * 2 + (bit > 0),
                c[1] * 8 + bit,
                (kinds[0] * 36 + kinds[1] * 6 + kinds[2]) * 4 + (bit > 1) + (bit > 3) + (bit > 5),
            ]
            rows = [self.weights[s][choice] for s, choice in enumerate(sets)]
            logits = [clip(sum(a * b // 256 for a, b in zip(x, row, strict=True)) // 256) for row in rows]
            mixed = clip(sum(a * b for a, b in zip(logits, self.final[node], strict=True)) // 65536)
            j, part = divmod(mixed + 12288, 768)
            guess = top if masses else expected[0] if sure[0] else 0
            keys = [
                node,
                node + 256 * c[0],
                mash(z.last & 0xFFFF, node) % 65536,
                mash(low3, node + 31) % 65536,
                node + 256 * guess,
            ]
            total = 2 * self.squash[mixed]
            for share, table, key in zip((1, 1, 1, 1, 2), self.maps, keys, strict=True):
                total += share * ((table[key][j] * (768 - part) + table[key][j + 1] * part) // 768)
            y = self.bit(max(1, min(65535, total // 8)))
            # learning
            for row, logit in zip(rows, logits, strict=True):
                error = (y * 65536 - self.squash[logit]) * rate // 256
                row[:] = [limit(w + (a * error + 32768) // 65536) for a, w in zip(x, row, strict=True)]
            error = (y * 65536 - self.squash[mixed]) * 14 // 256
            self.final[node] = [
                limit(w + (a * error + 32768) // 65536) for a, w in zip(logits, self.final[node], strict=True)
            ]
            cell = j + (2 * part >= 768)
            for table, key in zip(self.maps, keys, strict=True):
                table[key][cell] += (65535 * y - table[key][cell]) // 64
            for i, slot in enumerate(slots):
                if histories[i]:
                    learn(self.estimates[i], histories[i], y, 1000)
                slot[inner] = self.following[slot[inner]][y]
            for i in range(3):
                learn(self.direct[i], near[i], y, 255)
            for m in range(2):
                if sure[m]:
                    learn(self.match_estimates[m], sure[m][0], int(sure[m][1] == y), 400)
            if masses:
                learn(self.told, told, y, 1000)
                spot += 2 * rest >= 768
                for table, key in zip(self.readings, places, strict=True):
                    table[key][spot] += (65535 * y - table[key][spot]) // 32
            node = 2 * node + y
        self.end(z, node - 256, expected)
        return node - 256

    def end(self, z: Lane, c: int, expected: list[int]) -> None:
        self.out[z.at] = c
        z.at += 1
        for table, key in ((self.one, z.last & 255), (self.two, z.last & 0xFFFF)):
            table[key] = (table[key] * 256 + c) & U32
        z.last = (z.last * 256 + c) & U64
        letter = c | 32
        if 97 <= letter <= 122 or c >= 128:
            z.word = (z.word + letter) * 0x2F0B4C47 & U32
        elif z.word:
            z.word, z.word1, z.word2 = 0, z.word, z.word1
        if c == 10:
            z.above, z.line, z.start = z.line, z.at, 0
        elif z.at == z.line + 1:
            z.start = c
        for m, least in enumerate((5, 12)):
            match = z.matches[m]
            if expected[m] >= 0:
                right = expected[m] == c
                match[2] = match[2] * 2 % 256 + (not right)
                match[1] = min(65000, match[1] + 1) if right else 0
                match[0] += right
            if z.at - z.first < least:
                continue
            h = mash(z.last & U32, z.last >> 32 & 255)
            if m == 1:
                h = mash(z.last & U32, z.last >> 32)
                for back in range(9, 13):
                    h = mash(h, self.out[z.at - back])
            place = self.match_heads[m][h % self.match_size]
            if match[1] < 16 and place and not (match[1] and match[0] == place):
                start = max(s for s in self.starts if s < place)
                length = 0
                while length < min(32, place - start, z.at - z.first):
                    if self.out[place - 1 - length] != self.out[z.at - 1 - length]:
                        break
                    length += 1
                if length >= least and length > match[1]:
                    match[0], match[1] = place, length
            self.match_heads[m][h % self.match_size] = z.at
        z.one, z.two = self.one[z.last & 255], self.two[z.last & 0xFFFF]


def limit(w: int) -> int:
    return max(1 - 2**17, min(2**17 - 1, w))


def kind(c: int) -> int:
    if c == 32:
        return 0
    if 97 <= c | 32 <= 122:
        return 1
    return 2 if 48 <= c <= 57 else 3 if c < 32 else 5 if c < 128 else 4
