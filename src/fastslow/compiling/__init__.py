"""C++ compiled at first use: building, caching and loading libraries, and the threads they share with PyTorch."""
