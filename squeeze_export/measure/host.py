"""Facts about the machine, for the report. A fact that cannot be read is absent, never guessed.

No fact names the machine, its user or a path, since reports are made to be published.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

Read = Callable[[str], "str | None"]
"""A path -> the text there, or None."""
Ask = Callable[[str], "str | None"]
"""A sysctl name -> its value, or None."""

_SHORTEST_S = 0.2
"""The kernel counts in steps of 10 ms."""
ISA_FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimddp", "i8mm")
"""As Linux spells them: the instruction sets that decide how fast and how exactly INT8 runs."""
_SYSCTL_ISA = {
    "asimddp": "hw.optional.arm.FEAT_DotProd",
    "i8mm": "hw.optional.arm.FEAT_I8MM",
    "avx2": "hw.optional.avx2_0",
}


def read_text(path: str) -> str | None:
    """The text of a small file such as those under /proc and /sys; None where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def ask_sysctl(name: str) -> str | None:
    """One value of macOS's `sysctl`; None where it does not know the name."""
    try:
        answer = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None


def host_facts(*, system: str | None = None, read: Read = read_text, ask: Ask = ask_sysctl) -> dict[str, Any]:
    """The facts about this machine.

    Args:
        system: `Linux`, `Darwin`, `Windows`; None asks Python. This and the next two are parameters for the tests.
        read: reads a file of /proc or /sys.
        ask: asks macOS's sysctl.

    Returns:
        Some of: cpu, architecture, physical_cores, logical_cores, usable_cores, cpu_quota_cores, isa (list), governor,
        frequency_mhz, max_frequency_mhz, memory_bytes, os, python, virtualised, load_average (1, 5 and 15 minutes).
    """
    system = platform.system() if system is None else system
    if system == "Linux":
        own = _linux(read)
    elif system == "Darwin":
        own = _darwin(ask)
    else:
        own = {"cpu": platform.processor() or None}
    facts: dict[str, Any] = {
        **own,
        "architecture": platform.machine() or None,
        "logical_cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "os": f"{system} {platform.release()}".strip() or None,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load_average": _load_average(),
    }
    return {name: value for name, value in sorted(facts.items()) if value is not None}


def _linux(read: Read) -> dict[str, Any]:
    cpuinfo = read("/proc/cpuinfo") or ""
    fields = dict(re.findall(r"^([^\t:\n]+?)[ \t]*:[ \t]*(.*)$", cpuinfo, re.MULTILINE))
    flags_text = fields.get("flags") or fields.get("Features")
    flags = None if flags_text is None else set(flags_text.split())
    memory = re.search(r"^MemTotal:\s+(\d+) kB", read("/proc/meminfo") or "", re.MULTILINE)
    first = "/sys/devices/system/cpu/cpu0/cpufreq"
    frequency_khz = _whole_number(read(f"{first}/cpuinfo_max_freq"))
    current = fields.get("cpu MHz", "")
    return {
        "cpu": fields.get("model name"),
        "physical_cores": _physical_cores(read),
        "cpu_quota_cores": _cpu_quota(read("/sys/fs/cgroup/cpu.max")),
        "isa": None if flags is None else [flag for flag in ISA_FLAGS if flag in flags],
        "governor": (read(f"{first}/scaling_governor") or "").strip() or None,
        "frequency_mhz": float(current) if re.fullmatch(r"\d+(\.\d+)?", current) else None,
        "max_frequency_mhz": None if frequency_khz is None else frequency_khz / 1000,
        "memory_bytes": int(memory[1]) * 1024 if memory else None,
        # Only x86 has the flag: on Arm its absence says nothing.
        "virtualised": "hypervisor" in flags if flags is not None and "flags" in fields else None,
    }


def _physical_cores(read: Read) -> int | None:
    """Counts groups of hyper-threads; None if the kernel does not tell."""
    groups = {read(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") for cpu in range(os.cpu_count() or 0)}
    return len(groups - {None}) or None


def _cpu_quota(cpu_max: str | None) -> float | None:
    """Cores that a container may keep busy, from cgroup v2's `quota period`; None if there is no limit."""
    match = re.fullmatch(r"(\d+) (\d+)", (cpu_max or "").strip())
    return int(match[1]) / int(match[2]) if match and int(match[2]) else None


def _darwin(ask: Ask) -> dict[str, Any]:
    flags = {flag: ask(name) for flag, name in _SYSCTL_ISA.items()}
    virtual = ask("kern.hv_vmm_present")
    return {
        "cpu": ask("machdep.cpu.brand_string"),
        "physical_cores": _whole_number(ask("hw.physicalcpu")),
        "isa": [flag for flag in ISA_FLAGS if flags.get(flag) == "1"] if any(flags.values()) else None,
        "memory_bytes": _whole_number(ask("hw.memsize")),
        "virtualised": None if virtual is None else virtual == "1",
    }


def _whole_number(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdecimal() else None


def _load_average() -> list[float] | None:
    try:
        return [round(value, 2) for value in os.getloadavg()]
    except (AttributeError, OSError):
        return None


@dataclass(frozen=True)
class CpuTimes:
    """What the CPUs of this process have done by now, in seconds.

    Attributes:
        wall_s: the time.
        busy_s: in which they were busy, summed over the CPUs, whoever kept them so.
        own_s: of this process.
    """

    wall_s: float
    busy_s: float
    own_s: float


def cpu_times(read: Read = read_text) -> CpuTimes | None:
    """The times by now; None where the kernel does not tell (macOS, Windows)."""
    lines = re.findall(r"^cpu(\d+) (.+)$", read("/proc/stat") or "", re.MULTILINE)
    if not lines or not hasattr(os, "sched_getaffinity"):
        return None
    usable, ticks = os.sched_getaffinity(0), 0
    for cpu, values in lines:
        if int(cpu) in usable:
            user, nice, system, _, _, interrupts, soft, stolen, *_ = (*map(int, values.split()), 0, 0, 0)
            ticks += user + nice + system + interrupts + soft + stolen
    return CpuTimes(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), time.process_time())


def other_load(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """Cores that other processes kept busy between two `cpu_times`; None if that is unknown, or too short to tell."""
    if before is None or after is None or after.wall_s - before.wall_s < _SHORTEST_S:
        return None
    others_s = (after.busy_s - before.busy_s) - (after.own_s - before.own_s)
    return round(max(0.0, others_s / (after.wall_s - before.wall_s)), 2)


def tool_versions(names: Iterable[str]) -> Mapping[str, str]:
    """Package -> version of those installed, from their metadata: nothing is imported."""
    return {name: version for name in names if (version := package_version(name)) is not None}


def package_version(name: str) -> str | None:
    """The version of a package, None if it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
