"""The context mixer in Python: the specification of csrc/mixer.h, bit for bit; about one kilobyte per second.

Each byte is eight binary decisions, the high bit first. The predictors of a decision:

    15 hashed contexts    a bit history (one byte per node) and an adaptive probability for that history
    3 direct contexts     orders 0, 1 and 2: an adaptive probability per node
    2 matches             the longest earlier match of the preceding text, in any lane
    a network             its distribution over the next byte, if there is one, and three adaptive maps of its logit

Each provides its logit and its distance from 1/2. Six weight sets, selected by six contexts, mix these inputs; their
outputs are mixed once more, and five adaptive maps refine the result. Everything is updated after each bit. Lanes share
all tables. docs/format.md gives the same specification in prose.

Units: probabilities are those of a 1 bit, in 2^-16; logits in 2^-10; weights in 2^-16; estimates hold a probability in
2^-22 above a count of ten bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastslow.mixing.tables import LIMIT, Ints, ln, tables

HASHED, DIRECT, MATCHES, READINGS, SETS, MAPS = 15, 3, 2, 3, 6, 5
NETWORK = 3 + READINGS
"""Inputs from a network, the last of them from maps of its logit."""
INPUTS = 2 * HASHED + 2 * DIRECT + 2 * MATCHES + NETWORK + 1
WEIGHT_LIMIT = (1 << 17) - 1
ESCAPE_MASS = 64
"""The mass of each byte that is not in the network's alphabet; the bytes in it have 2^24 in total."""
HALF = 1 << 31
_CELLS, _SPACING = 33, 768
_SHORTEST = (5, 12)
_LONGEST = 65000
_SHARES = (1, 1, 1, 1, 2)
_WORD = 0xFFFFFFFF


def _first_weights(network: bool) -> Ints:
    """The weights of the inputs before anything is learned: near the averages of those that texts lead to."""
    groups = (  # inputs, weights with and without a network
        (HASHED, 4900, 7864),
        (HASHED, -1300, 0),
        (DIRECT, 3500, 7864),
        (DIRECT, -2800, 0),
        (MATCHES, 9830, 9830),
        (MATCHES, -1500, 0),
        (1, 30000, 0),
        (1, 1800, 0),
        (1, 2000, 0),
        (READINGS, 2500, 0),
        (1, 0, 0),
    )
    return np.repeat([first if network else other for _, first, other in groups], [count for count, *_ in groups])


def hash_of(a: int, b: int) -> int:
    h = (a * 0x2C1B3C6D + b * 0x9E3779B1) & _WORD
    h ^= h >> 15
    h = (h * 0x85EBCA6B) & _WORD
    return h ^ h >> 13


def table_size(length: int, least: int, most: int) -> int:
    """The smallest power of two, from 2^least to 2^most, that is at least `length`."""
    return 1 << max(least, min(most, (length - 1).bit_length()))


@dataclass(frozen=True)
class Masses:
    """A network's distribution over the next byte. sums (257): cumulative masses of the bytes below each byte; top: the
    likeliest byte; surprise: its code length in half bits, at most 7."""

    sums: list[int]
    top: int
    surprise: int


def masses_of(frequencies: Ints, symbols: bytes) -> Masses:
    """Masses from frequencies (V,) of the bytes `symbols`, which sum to 2^24."""
    mass = np.full(256, ESCAPE_MASS, dtype=np.int64)
    mass[np.frombuffer(symbols, np.uint8)] = frequencies
    top = int(mass.argmax())
    sums = [0, *mass.cumsum().tolist()]
    logarithm = tables().logarithm
    surprise = int(ln(sums[-1], logarithm) - ln(int(mass[top]), logarithm)) // 22713
    return Masses(sums, top, max(0, min(7, surprise)))


class Coded(NamedTuple):
    """Bytes as a mixer has predicted them. probabilities (n, 8) uint16: of each bit that occurred, in 2^-16. likeliest
    (n, k) uint8: the likeliest bytes at each place, likeliest first. chances (n, k) uint32: their probabilities, in
    2^-32, before anything is learned from the byte; the bits of a byte are predicted after the bits before them were
    learned from, which makes a small difference."""

    probabilities: NDArray[np.uint16]
    likeliest: NDArray[np.uint8]
    chances: NDArray[np.uint32]


@dataclass
class _Lane:
    first: int
    at: int
    line: int
    line_before: int
    last: int = 0
    word: int = 0
    word1: int = 0
    word2: int = 0
    first_of_line: int = 0
    match: list[int] = field(default_factory=lambda: [0] * MATCHES)
    match_lane: list[int] = field(default_factory=lambda: [0] * MATCHES)
    length: list[int] = field(default_factory=lambda: [0] * MATCHES)
    misses: list[int] = field(default_factory=lambda: [0] * MATCHES)
    context: list[int] = field(default_factory=lambda: [0] * HASHED)


class ReferenceMixer:
    """A mixer for a text of `length` bytes in `lanes` contiguous lanes; the first (length mod lanes) are one byte
    longer.

    For each byte, in order of steps, then of lanes, call `begin`, eight times `predict` and `update`, then `end`.
    """

    def __init__(self, length: int, lanes: int = 1, network: bool = False) -> None:
        t = tables()
        self.length, self.lanes, self.network = length, lanes, network
        self._full, self._longer = divmod(length, lanes)
        self.text = bytearray(length)
        self.offsets = [i * self._full + min(i, self._longer) for i in range(lanes)]
        self._stretch: list[int] = t.stretch.tolist()
        self._squash: list[int] = t.squash.tolist()
        self._rate: list[int] = t.rate.tolist()
        self._next: list[list[int]] = t.next_history.tolist()
        self._logarithm: list[int] = t.logarithm.tolist()
        self._slots: dict[int, bytearray] = {}
        self._slot_mask = table_size(8 * length, 14, 22) - 1
        self._estimates = [t.initial.tolist() for _ in range(HASHED)]
        direct_size = table_size(8 * length, 16, 22)
        self._direct = [[HALF] * 256, [HALF] * 65536, [HALF] * direct_size]
        self._match_mask = table_size(length, 12, 20) - 1
        self._heads: list[dict[int, int]] = [{} for _ in range(MATCHES)]
        self._match_estimates = [[3500000 << 10] * 256 for _ in range(MATCHES)]
        self._network_estimates = [HALF] * (48 * 64)
        self._after1, self._after2 = [0] * 256, [0] * 65536
        self._first_weights = _first_weights(network)
        self._weights: list[dict[int, NDArray[np.int64]]] = [{} for _ in range(SETS)]
        self._last_weights = [[65536 // SETS] * SETS for _ in range(256)]
        points = [(j - 16) * _SPACING for j in range(_CELLS)]
        self._first_row = [self._squash[min(p, LIMIT) + 12288] for p in points]
        self._maps: list[dict[int, list[int]]] = [{} for _ in range(MAPS)]
        self._readings: list[dict[int, list[int]]] = [{} for _ in range(READINGS)]
        self._lanes = [_Lane(at, at, at, at) for at in self.offsets]
        for lane in self._lanes:
            self._find_contexts(lane)
        self._coded = 0

    def active(self, t: int) -> int:
        """The number of lanes, counted from the first, that have a byte at step t."""
        return self.lanes if t < self._full else self._longer

    # ------------------------------------------------------------------ a byte

    def begin(self, lane: int, t: int, masses: Masses | None = None) -> None:
        """Start the byte of `lane` at step t. masses: from the network, or None without one."""
        z = self._lanes[lane]
        self._z, self._number, self._step, self._masses = z, lane, t, masses
        self._node, self._bit = 1, 0
        self._speed = 12 + 560000 // (20000 + self._coded)
        c1 = z.last & 255
        self._expected = [-1] * MATCHES
        for m in range(MATCHES):
            if z.length[m]:
                its = z.match_lane[m]
                while its + 1 < self.lanes and z.match[m] >= self.offsets[its + 1]:
                    its += 1
                z.match_lane[m] = its
                if self._is_known(its, z.match[m]):
                    self._expected[m] = self.text[z.match[m]]
                else:
                    z.length[m] = 0
        self._bucket = [_bucket_of(length) for length in z.length]
        which = 1 if self._expected[1] >= 0 else 0
        byte, top = self._expected[which], masses.top if masses else 0
        likely = byte + 1 + 256 * (self._bucket[which] >> 2) if byte >= 0 else top + 100000 if masses else 0
        z.context[11] = hash_of(15 + (c1 << 8), likely)
        z.context[14] = hash_of(z.word * 16 + 10, top + 1 if masses else 0)
        if masses:
            z.context[9] = hash_of(13 + (top << 8) + (masses.surprise << 16), c1)
        self._slot = [self._find(h) for h in z.context]
        self._base = (0, c1 << 8, hash_of(77, z.last & 0xFFFF) & ~255)

    def predict(self) -> int:
        """The probability that the next bit is 1, an integer from 1 to 65535."""
        if self._bit == 4:
            self._slot = [self._find(hash_of(h, self._node)) for h in self._z.context]
        return self._mix()

    def likeliest(self, count: int) -> list[tuple[int, int]]:
        """After `begin`: the `count` likeliest bytes with their probabilities in 2^-32, likeliest first. From
        the root on, the likeliest open branch is followed, of equals that of the smaller node. Nothing is learned.
        """
        open_, outer = [(1 << 32, 1)], self._slot
        found: list[tuple[int, int]] = []
        while len(found) < count:
            p, node = max(open_, key=lambda branch: (branch[0], -branch[1]))
            open_.remove((p, node))
            if node >= 256:
                found.append((node & 255, p))
                continue
            self._node, self._bit = node, node.bit_length() - 1
            enters = node >> (self._bit - 4) if self._bit >= 4 else 0
            self._slot = [self._look(hash_of(h, enters)) for h in self._z.context] if enters else outer
            one = p * self._mix() >> 16
            open_ += [(one, node * 2 + 1), (p - one, node * 2)]
        self._slot, self._node, self._bit = outer, 1, 0
        return found

    def _mix(self) -> int:
        """The mixed probability at the current node."""
        z, node, bit, masses, stretch = self._z, self._node, self._bit, self._masses, self._stretch
        self._within = node if bit < 4 else 1 << (bit - 4) | node & ((1 << (bit - 4)) - 1)
        order, c1, c2, c3 = 0, z.last & 255, z.last >> 8 & 255, z.last >> 16 & 255
        logits, distances = [0] * HASHED, [0] * HASHED
        self._histories = [slot[self._within] for slot in self._slot]
        for i, history in enumerate(self._histories):
            if history:
                p = self._estimates[i][history] >> 16
                logits[i], distances[i] = stretch[p], (p - 32768) >> 3
                if i < 3:
                    order = i + 1
        inputs = logits + distances
        self._near = [base + node & (len(table) - 1) for base, table in zip(self._base, self._direct, strict=True)]
        found = [table[at] >> 16 for at, table in zip(self._near, self._direct, strict=True)]
        inputs += [stretch[p] for p in found] + [(p - 32768) >> 3 for p in found]
        said, logits, distances = -1, [0] * MATCHES, [0] * MATCHES
        self._matched: list[tuple[int, int] | None] = [None] * MATCHES
        for m, byte in enumerate(self._expected):
            if byte < 0 or (byte | 256) >> (8 - bit) != node:
                continue
            said = byte >> (7 - bit) & 1
            at = self._bucket[m] * 8 + (z.misses[m] & 7)
            self._matched[m] = (at, said)
            p, sign = self._match_estimates[m][at] >> 16, 1 if said else -1
            logits[m], distances[m] = sign * stretch[p], sign * ((p - 32768) >> 2)
        inputs += logits + distances
        matches = self._matched[0] is not None or self._matched[1] is not None
        surprise, column = 0, z.at - z.line
        if masses:
            width, low = 256 >> bit, node << (8 - bit) & 255
            before, middle, after = (masses.sums[low + part] for part in (0, width // 2, width))
            told = limited((self._ln(after - middle) - self._ln(middle - before) + 32) >> 6)
            surprise = masses.surprise
            self._mapped = (told + 12288 >> 9) * 64 + surprise * 8 + bit
            refined = stretch[self._network_estimates[self._mapped] >> 16]
            inputs += [told, (self._squash[told + 12288] - 32768) >> 3, refined]
            places = node, node + (c1 << 8), hash_of(z.last & 0xFFFF, node) & 65535
            found, self._read = self._look_at(self._readings, places, told)
            inputs += [stretch[p] for p in found]
            turn = (told + 12288 >> 9) * 16 + order * 2 + matches
        else:
            inputs += [0] * NETWORK
            turn = min(column, 63) * 16 + bit * 2 + (said >= 0)
        self._inputs = np.array([*inputs, 512], dtype=np.int64)

        kinds = _class_of(c1) * 36 + _class_of(c2) * 6 + _class_of(c3)
        self._choice = (
            node + 256 * (said + 1),
            c1 * 8 + bit,
            turn,
            (order * 8 + surprise) * 2 + (bit > 0),
            c2 * 8 + bit,
            kinds * 4 + (bit > 1) + (bit > 3) + (bit > 5),
        )
        chosen = (w.setdefault(k, self._first_weights) for w, k in zip(self._weights, self._choice, strict=True))
        sums = (((self._inputs * w) >> 8).sum() for w in chosen)
        self._logits = [limited(int(total) >> 8) for total in sums]
        last = self._last_weights[node]
        at = limited(sum(x * w for x, w in zip(self._logits, last, strict=True)) >> 16)
        self._mixed = self._squash[at + 12288]
        likely = masses.top if masses else self._expected[0] if self._matched[0] else 0
        rows = (
            node,
            node + (c1 << 8),
            hash_of(z.last & 0xFFFF, node) & 65535,
            hash_of(z.last & 0xFFFFFF, node + 31) & 65535,
            node + (likely << 8),
        )
        found, self._refined = self._look_at(self._maps, rows, at)
        p = 2 * self._mixed + sum(share * its for share, its in zip(_SHARES, found, strict=True))
        return max(1, min(65535, p >> 3))

    def _look_at(
        self, maps: list[dict[int, list[int]]], rows: Sequence[int], logit: int
    ) -> tuple[list[int], list[tuple[list[int], int]]]:
        """A row of each adaptive map at a logit: the probabilities, and the rows with the point that learns."""
        j, part = divmod(logit + 12288, _SPACING)
        nearest = j + (2 * part >= _SPACING)
        found = [its.setdefault(row, self._first_row.copy()) for its, row in zip(maps, rows, strict=True)]
        values = [(cells[j] * (_SPACING - part) + cells[j + 1] * part) // _SPACING for cells in found]
        return values, [(cells, nearest) for cells in found]

    def update(self, y: int) -> None:
        """Learn from the predicted bit."""
        goal = y << 16
        for w, k, logit in zip(self._weights, self._choice, self._logits, strict=True):
            error = ((goal - self._squash[logit + 12288]) * self._speed) >> 8
            w[k] = (w[k] + ((self._inputs * error + 32768) >> 16)).clip(-WEIGHT_LIMIT, WEIGHT_LIMIT)
        error = ((goal - self._mixed) * 14) >> 8
        last = self._last_weights[self._node]
        for s, logit in enumerate(self._logits):
            last[s] = max(-WEIGHT_LIMIT, min(WEIGHT_LIMIT, last[s] + ((logit * error + 32768) >> 16)))
        end = 65535 if y else 0
        for cells, point in self._refined:
            cells[point] += (end - cells[point]) >> 6
        # Two contexts may share a slot: each updates it in turn.
        for estimates, slot, history in zip(self._estimates, self._slot, self._histories, strict=True):
            if history:
                self._learn(estimates, history, y, 1000)
            slot[self._within] = self._next[slot[self._within]][y]
        for direct, place in zip(self._direct, self._near, strict=True):
            self._learn(direct, place, y, 255)
        for estimates, matched in zip(self._match_estimates, self._matched, strict=True):
            if matched is not None:
                self._learn(estimates, matched[0], int(y == matched[1]), 400)
        if self._masses:
            self._learn(self._network_estimates, self._mapped, y, 1000)
            for cells, point in self._read:
                cells[point] += (end - cells[point]) >> 5
        self._node, self._bit = self._node * 2 + y, self._bit + 1

    def end(self) -> int:
        """Finish the byte after eight bits, and return it."""
        z, c = self._z, self._node & 255
        self.text[z.at] = c
        z.at += 1
        for table, key in ((self._after1, z.last & 255), (self._after2, z.last & 0xFFFF)):
            table[key] = (table[key] << 8 | c) & _WORD
        z.last = (z.last << 8 | c) & 0xFFFFFFFFFFFFFFFF
        lower = c | 32
        if 97 <= lower <= 122 or c >= 128:
            z.word = ((z.word + lower) * 0x2F0B4C47) & _WORD
        elif z.word:
            z.word2, z.word1, z.word = z.word1, z.word, 0
        if c == 10:
            z.line_before, z.line, z.first_of_line = z.line, z.at, 0
        elif z.at - z.line == 1:
            z.first_of_line = c
        for m in range(MATCHES):
            if self._expected[m] >= 0:
                hit = self._expected[m] == c
                z.misses[m] = z.misses[m] << 1 & 255 | (not hit)
                z.length[m] = min(_LONGEST, z.length[m] + 1) if hit else 0
                z.match[m] += hit
            if z.at - z.first < _SHORTEST[m]:
                continue
            key = self._match_hash(m) & self._match_mask
            if z.length[m] < 16:
                self._look_up(m, self._heads[m].get(key, 0))
            self._heads[m][key] = z.at
        self._find_contexts(z)
        self._coded += 1
        return c

    # ------------------------------------------------------------------ parts

    def _ln(self, n: int) -> int:
        top = n.bit_length() - 1
        return top * 45426 + self._logarithm[(n >> top - 12 if top >= 12 else n << 12 - top) & 4095]

    def _learn(self, table: list[int], at: int, y: int, most: int) -> None:
        p, count = table[at] >> 10, table[at] & 1023
        p = min(4194303, p + ((((y << 22) - p) * self._rate[count]) >> 16))
        table[at] = p << 10 | (count + (count < most))

    def _find_contexts(self, z: _Lane) -> None:
        c4, c2, c1, older = z.last & _WORD, z.last & 0xFFFF, z.last & 255, z.last >> 32
        column = min(z.at - z.line, 255)
        place = z.line_before + column
        above = self.text[place] if place < z.line and z.first <= place < z.at else 0
        z.context = [
            hash_of(2, c4 & 0xFFFFFF),
            hash_of(3, c4),
            hash_of(5 + ((older & 0xFFFF) << 8), c4),
            hash_of(z.word * 16 + 6, c1),
            hash_of(z.word * 16 + 7, z.word1),
            hash_of(z.word * 16 + 8, z.word2),
            hash_of(10, c4 >> 8),
            hash_of(11 + (above << 8) + (c1 << 16), z.first_of_line),
            hash_of(12 + (column << 8), above),
            hash_of(13 + ((self._after1[c1] & 0xFFFF) << 8), c1),
            hash_of(14 + ((self._after2[c2] & 255) << 8), c2),
            0,
            hash_of(16, c4 & 0xE0F0F0FF),
            hash_of(hash_of(z.word * 16 + 9, z.word1), z.word2),
            0,
        ]

    def _find(self, h: int) -> bytearray:
        """A context's slot: a check byte, then the histories of 15 nodes, at one of three places. If the context is at
        none of them, the place whose first node has the fewest counts is replaced."""
        first, check = (h * 0x9E3779B1 & _WORD) >> 7 & self._slot_mask, h >> 24
        places = [first, first ^ 1, first ^ 2]
        for place in places:
            slot = self._slots.setdefault(place, bytearray(16))
            if slot[0] == check and slot[1]:
                return slot
        slot = min((self._slots[place] for place in places), key=lambda slot: slot[1])
        slot[:] = bytes((check, *bytes(15)))
        return slot

    def _look(self, h: int) -> bytearray:
        """A context's slot, or an empty one if the context is at none of the three places; nothing is replaced."""
        first, check = (h * 0x9E3779B1 & _WORD) >> 7 & self._slot_mask, h >> 24
        for place in (first, first ^ 1, first ^ 2):
            slot = self._slots.get(place)
            if slot and slot[0] == check and slot[1]:
                return slot
        return bytearray(16)

    def _is_known(self, lane: int, at: int) -> bool:
        t = at - self.offsets[lane]
        return at < self.length and (t < self._step or (t == self._step and lane < self._number))

    def _match_hash(self, m: int) -> int:
        z = self._z
        if m == 0:
            return hash_of(z.last & _WORD, z.last >> 32 & 255)
        h = hash_of(z.last & _WORD, z.last >> 32)
        for back in range(9, _SHORTEST[1] + 1):
            h = hash_of(h, self.text[z.at - back])
        return h

    def _look_up(self, m: int, at: int) -> None:
        """Start a match at `at` if the text before it equals what this lane has just read."""
        z = self._z
        if at == 0 or (z.length[m] and z.match[m] == at):
            return
        lane = max(i for i, offset in enumerate(self.offsets) if offset <= at - 1)
        most, length = min(32, at - self.offsets[lane], z.at - z.first), 0
        while length < most and self.text[at - 1 - length] == self.text[z.at - 1 - length]:
            length += 1
        if length >= _SHORTEST[m] and length > z.length[m]:
            z.match[m], z.match_lane[m], z.length[m] = at, lane, length


def limited(logit: int) -> int:
    return max(-LIMIT, min(LIMIT, logit))


def _class_of(c: int) -> int:
    if c == 32:
        return 0
    if 97 <= c | 32 <= 122:
        return 1
    if 48 <= c <= 57:
        return 2
    return 3 if c < 32 else 4 if c >= 128 else 5


def _bucket_of(length: int) -> int:
    if length < 16:
        return length
    if length < 32:
        return 16 if length < 24 else 17
    return min(31, 18 + (length >> 6).bit_length())
