"""The arithmetic of a node's step besides its products, and its gradient: one cell a file, chosen by `Kind.code`.

A cell has two classes.

    Forward(node, room, n, rows)    `step(z, h, c, share_h, share_c, h_t, c_t)`: from z (B, blocks, H) and the state
                                    that is read to the state that is written, in place
    Backward(node, n, z, h, c, share_h, keep_h, room)
                                    for a block of k steps: the factors of the gradients, formed at once
        each_step()                 what `step` needs, one entry a step
        step(node, parts, dh, dc, share_c, keep_h, keep_c, scratch, dz) -> bool
                                    from (dh_t, dc_t) to dz (B, blocks, H), in place; leaves dc and, if it says so,
                                    what of dh passes by the products
        add_vectors(grads, dz)      the gradients of the vectors, after the block; dz (k, B, blocks, H)

A share is how much of the new value a unit takes, `fastslow.backends.window.masks.Share`, and `keep` the rest. A cell
without c has c of size 0.
"""

from __future__ import annotations

from typing import Any

from fastslow.backends.window.cells import gru, lstm, simple

CELLS: dict[int, Any] = {0: lstm, 1: gru, 2: simple, 3: simple}
"""By `Kind.code`."""
