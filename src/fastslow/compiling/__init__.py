"""C++ compiled at first use: building, caching and loading libraries, and sharing threads with PyTorch."""
