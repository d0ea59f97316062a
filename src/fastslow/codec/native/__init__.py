"""The codec in compiled C++: exact inference, frequencies and the range coder, the same bits as the Python beside it.

`library` builds and loads it; `engine` is `exact.engine`'s twin, `coder` that of the coders in `blocks`. Without a
compiler, or with `FASTSLOW_NATIVE=0`, the Python runs, more slowly.
"""
