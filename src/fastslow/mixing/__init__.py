"""Context mixing in integers: what the codec codes by, and an honest surprisal of a text that learns as it goes.

from fastslow.mixing import Mixer

bits = Mixer(len(text)).bits(text)          # (n,): the code length of every byte
"""

from fastslow.mixing.mixer import Mixer

__all__ = ["Mixer"]
