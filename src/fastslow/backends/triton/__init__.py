"""The "triton" engine: a library product and one fused kernel a cell step, each way, on a CUDA device."""
