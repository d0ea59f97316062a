"""The arithmetic of a node's step apart from its products, and its gradient: one cell per file, chosen by `Kind.code`.

A cell has two classes.

    Forward(node, room, n, rows)    `step(z, h, c, share_h, share_c, h_t, c_t)`: computes the new state from
                                    z (B, blocks, H) and the state that is read, in place
    Backward(node, n, z, h, c, share_h, keep_h, room)
                                    for a block of k steps: computes the factors of the gradients at once
        each_step()                 the arguments of `step`, one entry per step
        step(node, parts, dh, dc, share_c, keep_h, keep_c, scratch, dz) -> bool
                                    from (dh_t, dc_t) to dz (B, blocks, H), in place; leaves dc and, if it returns True,
                                    the part of dh that does not flow through the products
        add_vectors(grads, dz)      adds the gradients of the vectors after the block; dz (k, B, blocks, H)

A share is the part of the new value that a unit takes (`fastslow.backends.window.masks.Share`), and `keep` is 1 -
share. A cell without c has a c of size 0.
"""

from __future__ import annotations

from typing import Any

from fastslow.backends.window.cells import gru, lstm, simple

CELLS: dict[int, Any] = {0: lstm, 1: gru, 2: simple, 3: simple}
"""By `Kind.code`."""
