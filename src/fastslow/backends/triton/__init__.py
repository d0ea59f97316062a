"""The "triton" engine: one library product and one fused kernel per cell step, on a CUDA device."""
