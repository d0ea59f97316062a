"""Context mixing in integer arithmetic: the codec's predictor, and adaptive code lengths of a text.

from fastslow.mixing import Mixer

bits = Mixer(len(text)).bits(text)          # (n,): the code length of every byte
"""

from fastslow.mixing.mixer import Mixer

__all__ = ["Mixer"]
