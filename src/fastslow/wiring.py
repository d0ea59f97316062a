"""A recurrent network as a short program run once per time step.

Each `Node` is one cell: the *state slot* it reads and writes, and its input: the network's input `x`,
the output of an earlier node of the same step, or nothing. Nodes that share a slot form a deep transition:
each reads the state its predecessor wrote in the same step, the first the state of the step before. The paper's
three networks are three wirings; every engine runs any wiring.

    >>> three_tiers = Wiring((Node("fast.0", "fast", "x"), Node("mid", "mid", "fast.0"),
    ...                       Node("slow", "slow", "mid"), Node("fast.1", "fast", "slow")))
    >>> three_tiers.slots
    ('fast', 'mid', 'slow')
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property

INPUT = "x"
FROM_INPUT = -1
"""`Wiring.sources` entry of a node that reads the network's input."""
NO_INPUT = -2
"""`Wiring.sources` entry of a node that has no input at all."""


@dataclass(frozen=True)
class Node:
    """One cell of a wiring.

    name: what other nodes call its output; also the dotted path of its parameters unless `cell` is given.
    slot: the state it reads and writes.
    input: `"x"`, the name of an earlier node, or None.
    cell: the dotted path of its parameters, where several nodes share one set of weights.
    """

    name: str
    slot: str
    input: str | None = None
    cell: str | None = None

    @property
    def cell_name(self) -> str:
        return self.name if self.cell is None else self.cell


@dataclass(frozen=True)
class Wiring:
    """Nodes in the order they run, and the state slots they use; checked once, here.

    slots: the state slots, in the order states are given and returned (default: order of first use).
    output: the node whose output the network returns (default: the last one).

    Raises ValueError, with a sentence, for anything that is not a program: an unknown name, an input that runs
    later in the same step (a cycle), a slot no node uses, a node whose result nothing uses.
    """

    nodes: tuple[Node, ...]
    slots: tuple[str, ...] = ()
    output: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        if not self.nodes:
            raise ValueError("a wiring needs at least one node; got none")
        used = tuple(dict.fromkeys(node.slot for node in self.nodes))
        object.__setattr__(self, "slots", tuple(self.slots) or used)
        object.__setattr__(self, "output", self.output or self.nodes[-1].name)
        self._check_names()
        self._check_inputs()
        self._check_slots(used)
        self._check_used()
        # Worked out now: torch.compile cannot follow the lock that a cached property takes at its first use.
        _ = self.slot_of, self.sources, self.output_index, self.text

    def _check_names(self) -> None:
        names = [node.name for node in self.nodes]
        for i, name in enumerate(names):
            if not name or name == INPUT:
                raise ValueError(f"node {i} is named {name!r}: a node needs a name other than {INPUT!r}, the input's")
            if name in names[:i]:
                raise ValueError(f"two nodes are named {name!r}; names must differ (to share weights, set Node.cell)")
        if self.output not in names:
            raise ValueError(f"the output names node {self.output!r}, which is not in the wiring; nodes: {names}")

    def _check_inputs(self) -> None:
        names = [node.name for node in self.nodes]
        for i, node in enumerate(self.nodes):
            if node.input is None or node.input == INPUT or node.input in names[:i]:
                continue
            if node.input in names:
                raise ValueError(
                    f"node {node.name!r} reads {node.input!r}, which runs at or after it in the same step: a cycle; "
                    "a node may read x or an earlier node, and remembers other steps only through its slot"
                )
            raise ValueError(f"node {node.name!r} reads {node.input!r}, which is neither 'x' nor one of {names}")
        if all(node.input != INPUT for node in self.nodes):
            raise ValueError("no node reads the input 'x'; at least one must")

    def _check_slots(self, used: tuple[str, ...]) -> None:
        for slot in self.slots:
            if slot not in used:
                raise ValueError(f"slot {slot!r} is used by no node; remove it or let a node read and write it")
            if self.slots.count(slot) > 1:
                raise ValueError(f"slot {slot!r} is declared twice")
        for node in self.nodes:
            if node.slot not in self.slots:
                raise ValueError(f"node {node.name!r} uses slot {node.slot!r}, which is not one of {list(self.slots)}")

    def _check_used(self) -> None:
        # What reaches the output: by an input edge, or by a slot, in this step or in a later one.
        reached = {self.output}
        while True:
            live_slots = {node.slot for node in self.nodes if node.name in reached}
            grown = reached | {node.name for node in self.nodes if node.slot in live_slots}
            grown |= {node.input for node in self.nodes if node.name in grown and node.input not in (None, INPUT)}
            if grown == reached:
                break
            reached = grown
        for node in self.nodes:
            if node.name not in reached:
                raise ValueError(
                    f"node {node.name!r} reaches neither the output {self.output!r} nor its state; remove it"
                )

    @cached_property
    def slot_of(self) -> tuple[int, ...]:
        """Index into `slots`, one per node."""
        return tuple(self.slots.index(node.slot) for node in self.nodes)

    @cached_property
    def sources(self) -> tuple[int, ...]:
        """What each node reads: the index of an earlier node, `FROM_INPUT` or `NO_INPUT`."""
        index = {node.name: i for i, node in enumerate(self.nodes)}
        index[INPUT] = FROM_INPUT
        return tuple(NO_INPUT if node.input is None else index[node.input] for node in self.nodes)

    @cached_property
    def output_index(self) -> int:
        return [node.name for node in self.nodes].index(self.output)

    @cached_property
    def text(self) -> str:
        """The wiring as JSON, the same for equal wirings: `Wiring.parse` reads it."""
        nodes = [[node.name, node.slot, node.input, node.cell] for node in self.nodes]
        return json.dumps({"nodes": nodes, "output": self.output, "slots": self.slots}, separators=(",", ":"))

    @staticmethod
    def parse(text: str) -> Wiring:
        """The wiring whose `text` this is."""
        read = json.loads(text)
        return Wiring(tuple(Node(*node) for node in read["nodes"]), tuple(read["slots"]), read["output"])

    # The random numbers of a step are numbered by site, so that every engine draws the same masks.

    def input_site(self, node: int) -> int:
        """The site of the dropout on a node's input."""
        return 2 * node

    def zoneout_site(self, node: int) -> int:
        """The site of a node's two zoneout masks (h in the low half of the bits, c in the high half)."""
        return 2 * node + 1

    @property
    def output_site(self) -> int:
        """The site of the dropout on the network's output."""
        return 2 * len(self.nodes)


def fast_slow(num_fast: int = 2) -> Wiring:
    """FS-k (paper, eqs. 1-5): k fast cells in sequence share one state, one slow cell sits between the first two."""
    if num_fast < 2:
        raise ValueError(f"num_fast must be at least 2 (the slow cell sits between two fast cells); got {num_fast}")
    first, slow = Node("fast.0", "fast", INPUT), Node("slow", "slow", "fast.0")
    rest = (Node(f"fast.{i}", "fast", "slow" if i == 1 else None) for i in range(1, num_fast))
    return Wiring((first, slow, *rest), slots=("fast", "slow"))


def stacked(num_layers: int) -> Wiring:
    """n cells with a state each; each reads the output of the one below at the same step."""
    if num_layers < 1:
        raise ValueError(f"num_layers must be at least 1; got {num_layers}")
    return Wiring(
        tuple(Node(f"layers.{i}", f"layer{i}", INPUT if i == 0 else f"layers.{i - 1}") for i in range(num_layers))
    )


def sequential(num_cells: int) -> Wiring:
    """k cells that share one state, of which only the first reads the input (a deep transition)."""
    if num_cells < 1:
        raise ValueError(f"num_cells must be at least 1; got {num_cells}")
    return Wiring(tuple(Node(f"cells.{i}", "state", INPUT if i == 0 else None) for i in range(num_cells)))
