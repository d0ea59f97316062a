from __future__ import annotations

import pytest

from fastslow.wiring import FROM_INPUT, NO_INPUT, Node, Wiring, fast_slow, sequential, stacked


def test_fast_slow_is_the_papers_program() -> None:
    w = fast_slow(4)
    assert [n.name for n in w.nodes] == ["fast.0", "slow", "fast.1", "fast.2", "fast.3"]
    assert w.slots == ("fast", "slow")
    assert w.slot_of == (0, 1, 0, 0, 0)
    assert w.sources == (FROM_INPUT, 0, 1, NO_INPUT, NO_INPUT)
    assert w.output == "fast.3"
    assert w.output_index == 4


def test_baselines() -> None:
    assert stacked(3).sources == (FROM_INPUT, 0, 1)
    assert stacked(3).slot_of == (0, 1, 2)
    assert sequential(3).sources == (FROM_INPUT, NO_INPUT, NO_INPUT)
    assert sequential(3).slot_of == (0, 0, 0)


def test_every_random_site_has_a_number_of_its_own() -> None:
    w = fast_slow(3)
    sites = [w.input_site(i) for i in range(4)] + [w.zoneout_site(i) for i in range(4)] + [w.output_site]
    assert len(set(sites)) == len(sites)


def test_three_tiers_in_a_few_lines() -> None:
    w = Wiring(
        (
            Node("fast.0", "fast", "x"),
            Node("mid", "mid", "fast.0"),
            Node("slow", "slow", "mid"),
            Node("fast.1", "fast", "slow"),
        )
    )
    assert w.slots == ("fast", "mid", "slow")
    assert w.sources == (FROM_INPUT, 0, 1, 2)


A = Node("a", "s", "x")


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        ((), {}, "at least one node"),
        ((Node("x", "s", "x"),), {}, "other than 'x'"),
        ((A, Node("a", "s")), {}, "two nodes are named 'a'"),
        ((A, Node("b", "s", "nowhere")), {}, "neither 'x' nor one of"),
        ((Node("a", "s", "b"), Node("b", "s", "x")), {}, "cycle"),
        ((Node("a", "s", "a"),), {}, "cycle"),
        ((Node("a", "s"),), {}, "no node reads the input"),
        ((A,), {"slots": ("s", "spare")}, "'spare' is used by no node"),
        ((A,), {"slots": ("other",)}, "'other' is used by no node"),
        ((A, Node("b", "t", "a")), {"slots": ("t",)}, "uses slot 's', which is not one of"),
        ((A, Node("b", "t", "a")), {"slots": ("s", "t", "s")}, "declared twice"),
        ((A,), {"output": "z"}, "not in the wiring"),
        ((A, Node("b", "t", "a")), {"output": "a"}, "'b' reaches neither the output"),
    ],
)
def test_a_wrong_program_is_refused_in_a_sentence(nodes: tuple[Node, ...], options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Wiring(nodes, **options)


@pytest.mark.parametrize(("make", "number"), [(fast_slow, 1), (stacked, 0), (sequential, 0)])
def test_too_few(make, number: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        make(number)
