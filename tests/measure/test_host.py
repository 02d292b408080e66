"""Host facts of machines that the tests play."""

from __future__ import annotations

import json
import os
import platform
import subprocess

import pytest

from squeeze_export.measure import host
from squeeze_export.measure.host import CpuTimes, ask_sysctl, cpu_times, host_facts, other_load, read_text, tool_versions

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Platinum 8488C
cpu MHz\t\t: 2400.000
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni avx_vnni hypervisor amx_bf16 amx_tile amx_int8

processor\t: 1
model name\t: Intel(R) Xeon(R) Platinum 8488C
cpu MHz\t\t: 2400.000
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni avx_vnni hypervisor amx_bf16 amx_tile amx_int8
"""
CORTEX = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp i8mm\nCPU implementer\t: 0x41\n"


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def test_linux_on_a_xeon():
    files = {
        "/proc/cpuinfo": XEON,
        "/proc/meminfo": "MemTotal:        8000 kB\nMemFree: 1 kB\n",
        "/sys/devices/system/cpu/cpu0/topology/thread_siblings_list": "0-1\n",
        "/sys/devices/system/cpu/cpu1/topology/thread_siblings_list": "0-1\n",
        "/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
        "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "3800000\n",
        "/sys/fs/cgroup/cpu.max": "150000 100000\n",
    }
    facts = host_facts(system="Linux", read=files.get)
    assert facts["cpu"] == "Intel(R) Xeon(R) Platinum 8488C"
    assert facts["isa"] == ["avx2", "avx512_vnni", "avx_vnni", "amx_int8", "amx_bf16"]
    assert facts["memory_bytes"] == 8000 * 1024
    assert (facts["logical_cores"], facts["physical_cores"], facts["cpu_quota_cores"]) == (2, 1, 1.5)
    assert (facts["governor"], facts["frequency_mhz"], facts["max_frequency_mhz"]) == ("performance", 2400.0, 3800.0)
    assert facts["virtualised"] is True


def test_linux_on_bare_metal_and_without_bound():
    files = {"/proc/cpuinfo": XEON.replace("hypervisor ", ""), "/sys/fs/cgroup/cpu.max": "max 100000\n"}
    facts = host_facts(system="Linux", read=files.get)
    assert facts["virtualised"] is False
    assert "cpu_quota_cores" not in facts


def test_linux_on_arm_says_nothing_of_a_hypervisor():
    facts = host_facts(system="Linux", read={"/proc/cpuinfo": CORTEX}.get)
    assert facts["isa"] == ["asimddp", "i8mm"]
    assert not {"virtualised", "cpu", "frequency_mhz"} & set(facts)


def test_linux_that_tells_nothing(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "")
    facts = host_facts(system="Linux", read=lambda path: None)
    assert not {"cpu", "isa", "memory_bytes", "governor", "physical_cores", "virtualised", "architecture"} & set(facts)
    assert "python" in facts


def test_macos():
    values = {
        "machdep.cpu.brand_string": "Apple M3 Pro",
        "hw.physicalcpu": "12",
        "hw.memsize": "38654705664",
        "hw.optional.arm.FEAT_DotProd": "1",
        "hw.optional.arm.FEAT_I8MM": "1",
        "kern.hv_vmm_present": "0",
    }
    facts = host_facts(system="Darwin", ask=values.get)
    assert (facts["cpu"], facts["physical_cores"], facts["memory_bytes"]) == ("Apple M3 Pro", 12, 38654705664)
    assert (facts["isa"], facts["virtualised"]) == (["asimddp", "i8mm"], False)
    assert "isa" not in host_facts(system="Darwin", ask=lambda name: None)


def test_windows(monkeypatch):
    monkeypatch.setattr(platform, "processor", lambda: "Intel64 Family 6 Model 143 Stepping 8, GenuineIntel")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delattr(os, "getloadavg", raising=False)
    facts = host_facts(system="Windows")
    assert facts["cpu"].startswith("Intel64")
    assert not {"usable_cores", "load_average", "isa"} & set(facts)


def test_this_machine_can_be_written_and_is_not_named():
    facts = host_facts()
    assert list(facts) == sorted(facts)
    text = json.dumps(facts)
    assert platform.node() not in text or not platform.node()
    assert os.path.expanduser("~") not in text


def test_read_text(tmp_path):
    (tmp_path / "file").write_text("yes\n")
    assert read_text(str(tmp_path / "file")) == "yes\n"
    assert read_text(str(tmp_path / "none")) is None


def test_sysctl(monkeypatch):
    def answer(command, **options):
        if command[-1] == "slow":
            raise subprocess.TimeoutExpired(command, 5)
        return subprocess.CompletedProcess(command, 0 if command[-1] == "known" else 1, stdout="4\n")

    monkeypatch.setattr(subprocess, "run", answer)
    assert (ask_sysctl("known"), ask_sysctl("unknown"), ask_sysctl("slow")) == ("4", None, None)


def test_tool_versions():
    versions = tool_versions(["numpy", "no-such-package-here"])
    assert list(versions) == ["numpy"]
    assert versions["numpy"] == host.package_version("numpy")


def test_what_other_processes_take():
    """Two CPUs busy for 150 and 50 ticks of the same second, 100 of these ticks by this process."""
    cpus = sorted(os.sched_getaffinity(0))[:1] if hasattr(os, "sched_getaffinity") else []
    if not cpus:
        pytest.skip("this system has no affinity")
    ticks = os.sysconf("SC_CLK_TCK")
    stat = f"cpu  9 9 9 9\ncpu{cpus[0]} {ticks} 0 {ticks} 500 70 0 0 0 0 0\ncpu99999 7000 0 0 0 0 0 0 0\nintr 1\n"
    found = cpu_times(lambda path: stat if path == "/proc/stat" else None)
    assert found.busy_s == pytest.approx(2)
    before, after = CpuTimes(0.0, 10.0, 1.0), CpuTimes(2.0, 13.0, 2.0)
    assert other_load(before, after) == 1.0
    assert other_load(before, CpuTimes(0.1, 10.1, 1.0)) is None  # too short
    assert other_load(before, CpuTimes(2.0, 10.5, 2.0)) == 0
    assert other_load(None, after) is None
    assert cpu_times(lambda path: None) is None
