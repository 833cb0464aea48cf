"""What LLVM makes of the CPU kernels' tiles, for processors that need not be there."""
