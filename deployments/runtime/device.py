"""Where and how precisely a model runs: settings in, a (torch device, torch dtype) pair out.

`precision: auto` means bf16 where the processor has bf16 instructions (AVX512-BF16 or AMX) or on a GPU,
and fp32 elsewhere: bf16 without the instructions is emulated and slower.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "fp32", "bf16"]


class DeviceSettings(BaseModel):
    """Device part of every encoder node's settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: Literal["cpu", "cuda"] = Field("cpu", description="Where the model runs.")
    precision: Precision = Field("auto", description="auto: bf16 where the hardware has it, else fp32.")
    threads: int = Field(1, ge=1, description="CPU threads of one replica; more replicas scale better than threads.")
    memory_fraction: float | None = Field(
        None, gt=0, le=1, description="Upper bound of GPU memory for one replica; Ray's num_gpus does not enforce one."
    )


def cpu_has_bf16() -> bool:
    """True where the first processor lists avx512_bf16 or amx_bf16 (Linux; False where it cannot be told)."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return "avx512_bf16" in flags or "amx_bf16" in flags


def resolve_precision(settings: DeviceSettings) -> Literal["fp32", "bf16"]:
    if settings.precision != "auto":
        return settings.precision
    return "bf16" if settings.device == "cuda" or cpu_has_bf16() else "fp32"


def prepare_torch(settings: DeviceSettings) -> tuple[torch.device, torch.dtype]:
    """Set this process's threads and GPU memory bound; return where tensors go and their dtype."""
    import torch

    torch.set_num_threads(settings.threads)
    if settings.device == "cuda" and settings.memory_fraction is not None:
        torch.cuda.set_per_process_memory_fraction(settings.memory_fraction)
    dtype = torch.bfloat16 if resolve_precision(settings) == "bf16" else torch.float32
    return torch.device(settings.device), dtype
