"""What a board reports about itself. This file is sent there, so it may use only Python 3.7 and the standard library.

A fact that cannot be read is left out, never guessed. No fact holds the board's name on the network, its user, or a path.
"""

from __future__ import annotations

import glob
import os
import platform
import re
import subprocess
import sys
from typing import Any

CPU = "/sys/devices/system/cpu"
ISA = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "sve", "sve2", "neon")
"""The instruction sets that decide how fast INT8 runs, as Linux spells them."""
CPUINFO = {"model name": "cpu", "Hardware": "soc", "Model": "board", "CPU implementer": "cpu_implementer", "CPU part": "cpu_part"}
"""Field of /proc/cpuinfo -> fact. Arm kernels give numbers of the maker and the core instead of a name."""
MAX_TEXT_BYTES = 1 << 16
FAMILIES = {"x86": r"(x86_64|amd64|i[3-6]86)$", "arm": r"(aarch64|arm)", "riscv": r"riscv", "mips": r"mips"}
"""Families of processors that run each other's programs."""


def read_text(path: str) -> str:
    """The text of a small file, stripped; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_TEXT_BYTES).decode("utf-8", "replace").replace("\0", "").strip()
    except OSError:
        return ""


def emulated_by(machine: str, kernel: str, cpuinfo: str) -> str:
    """Why this process must run on an emulated processor; empty if nothing shows that.

    Args:
        machine: the processor that Python is built for, as `uname -m` spells it.
        kernel: the one that the kernel is built for (/proc/sys/kernel/arch, since Linux 6.1); qemu's user mode shows the host's.
        cpuinfo: the text of /proc/cpuinfo, for older kernels; only x86 writes `vendor_id` there.
    """
    if kernel and _family(kernel) != _family(machine):
        return f"a program for {machine} on a kernel for {kernel}"
    if not kernel and _family(machine) != "x86" and re.search(r"^vendor_id\s*:", cpuinfo, re.MULTILINE):
        return f"a program for {machine} on an x86 processor"
    return ""


def emulated() -> str:
    """`emulated_by` for this process."""
    return emulated_by(platform.machine(), read_text("/proc/sys/kernel/arch"), read_text("/proc/cpuinfo"))


def _family(machine: str) -> str:
    return next((name for name, pattern in FAMILIES.items() if re.match(pattern, machine.lower())), machine)


def facts() -> dict[str, Any]:
    """All known facts: board, cpu, isa, cores, governor, frequencies, temperatures, memory, system."""
    fields = dict(re.findall(r"^([^\t:\n]+?)[ \t]*:[ \t]*(.*)$", read_text("/proc/cpuinfo"), re.MULTILINE))
    found: dict[str, Any] = {fact: fields[field] for field, fact in CPUINFO.items() if fields.get(field)}
    told = set((fields.get("flags") or fields.get("Features") or "").split())
    memory = re.search(r"^MemTotal:\s+(\d+) kB", read_text("/proc/meminfo"), re.MULTILINE)
    release = re.search(r'^PRETTY_NAME="?([^"\n]+)', read_text("/etc/os-release"), re.MULTILINE)
    found.update(
        board=read_text("/proc/device-tree/model") or found.get("board"),
        architecture=platform.machine(),
        isa=[name for name in ISA if name in told] if told else None,
        logical_cores=os.cpu_count(),
        usable_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        governor=read_text(CPU + "/cpu0/cpufreq/scaling_governor"),
        max_frequency_mhz=fastest_mhz("cpuinfo_max_freq"),
        memory_bytes=int(memory.group(1)) * 1024 if memory else None,
        os=release.group(1) if release else None,
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
    )
    found.update(state())
    return {name: value for name, value in found.items() if value not in (None, "", {})}


def state() -> dict[str, Any]:
    """Facts that change during a run: temperatures_c (sensor -> degrees), frequency_mhz of the fastest core, throttle_count (the
    x86 kernel's, of all cores) and raspberry_pi_throttled (the firmware's bits in hexadecimal, as `vcgencmd` shows them).
    """
    zones = {}
    for zone in sorted(glob.glob("/sys/class/thermal/thermal_zone*"))[:32]:
        text = read_text(zone + "/temp")
        if re.match(r"-?\d+$", text):
            zones[f"{os.path.basename(zone)[len('thermal_zone') :]} {read_text(zone + '/type')}".strip()] = int(text) / 1000
    counters = [text for text in map(read_text, glob.glob(CPU + "/cpu*/thermal_throttle/*_throttle_count")) if text.isdigit()]
    found = {
        "temperatures_c": zones,
        "frequency_mhz": fastest_mhz("scaling_cur_freq"),
        "throttle_count": sum(map(int, counters)) if counters else None,
        "raspberry_pi_throttled": _raspberry_pi_throttled(),
    }
    return {name: value for name, value in found.items() if value not in (None, "", {})}


def _raspberry_pi_throttled() -> str:
    """The bits from the kernel if it shows them, else from the firmware's own program; empty on other boards."""
    if not read_text("/proc/device-tree/model").startswith("Raspberry Pi"):
        return ""
    files = glob.glob("/sys/devices/platform/soc*/*firmware/get_throttled")
    if files:
        return read_text(files[0])
    try:
        done = subprocess.run(["vcgencmd", "get_throttled"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"throttled=0x([0-9a-fA-F]+)", done.stdout.decode("ascii", "replace"))
    return found.group(1) if found else ""


def fastest_mhz(name: str) -> float | None:
    """The highest value of a cpufreq file over all cores; None if there is no such file."""
    found = [text for text in map(read_text, glob.glob(CPU + "/cpu[0-9]*/cpufreq/" + name)) if text.isdigit()]
    return max(int(text) / 1000 for text in found) if found else None


def installed(modules: list[str]) -> dict[str, str]:
    """The installed ones of these modules: module -> version, or `unknown`."""
    import importlib.util

    return {module: _version(module) for module in modules if importlib.util.find_spec(module) is not None}


def _version(module: str) -> str:
    own = str(getattr(sys.modules.get(module), "__version__", "unknown"))
    try:
        from importlib import metadata
    except ImportError:  # Python 3.7
        return own
    for name in (module.replace("_", "-"), f"{module.replace('_', '-')}-gpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:  # noqa: PERF203
            continue
    return own
