"""The four architectures that kernels are audited for: limits of a multiprocessor and peaks of a common card."""

from typing import NamedTuple


class AuditedGpu(NamedTuple):
    """From the CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", and data sheets."""

    card: str
    arch: int
    multiprocessors: int
    block_shared_bytes: int  # most that one block may have
    shared_bytes: int  # of a multiprocessor; each block takes 1 KiB more than it asks for
    max_warps: int  # of a multiprocessor
    max_blocks: int  # of a multiprocessor
    memory_gb_s: float
    dense_tflops: float  # 16 bit, fp32 sums


_KIB = 1024

AUDITED_GPUS = {
    gpu.arch: gpu
    for gpu in (
        AuditedGpu("A100 80 GB SXM", 80, 108, 163 * _KIB, 164 * _KIB, 64, 32, 2039, 312),
        AuditedGpu("H100 SXM", 90, 132, 227 * _KIB, 228 * _KIB, 64, 32, 3350, 989),
        AuditedGpu("B200", 100, 148, 227 * _KIB, 228 * _KIB, 64, 32, 8000, 2250),
        AuditedGpu("RTX 5090", 120, 170, 99 * _KIB, 100 * _KIB, 48, 24, 1792, 209),
    )
}

REGISTERS = 65536  # of a multiprocessor, on all of them


def resident_blocks(gpu: AuditedGpu, warps: int, registers: int, shared_bytes: int) -> int:
    """Blocks of a kernel that fit on one multiprocessor at a time."""
    registers_per_warp = -(-registers // 8) * 8 * 32  # handed out in units of 256 a warp
    return min(
        gpu.max_blocks,
        gpu.max_warps // warps,
        REGISTERS // (registers_per_warp * warps),
        gpu.shared_bytes // (shared_bytes + _KIB),
    )
