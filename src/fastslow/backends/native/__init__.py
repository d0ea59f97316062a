"""The native engine: a window in compiled C++ (CPU, float32 and float64). `engine` is what `choose` imports."""
