"""The native engine: a window in compiled C++ (CPU, float32 and float64). `choose` imports the module `engine`."""
