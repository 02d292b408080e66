"""The settings of one compilation: accelerator, system configuration, memory mode, and the file that defines the last two."""

from __future__ import annotations

import configparser
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from squeeze_export.errors import BadInput, Unavailable, did_you_mean

PACKAGE = "ethos-u-vela"
STRATEGIES = ("Performance", "Size")
AUTO = "auto"
"""Both strategies; the result with fewer cycles is kept."""
NAMES = ("system_config", "memory_mode", "config", "optimise")
"""The settings that a user may choose, by Vela's own names."""
MAX_INI_BYTES = 1_000_000
_SYSTEM, _MEMORY = "System_Config.", "Memory_Mode."

_U55, _U65 = ("Ethos_U55_High_End_Embedded", "Shared_Sram"), ("Ethos_U65_High_End", "Dedicated_Sram_384KB")
DEFAULTS: Mapping[str, tuple[str, str]] = {
    "ethos-u55-128": _U55,
    "ethos-u55-32": _U55,
    "ethos-u55-64": _U55,
    "ethos-u55-256": _U55,
    "ethos-u65-256": _U65,
    "ethos-u65-512": _U65,
    "ethos-u85-128": ("Ethos_U85_SYS_Flash_Low", "Shared_Sram"),
    "ethos-u85-256": ("Ethos_U85_SYS_Flash_High", "Shared_Sram"),
    "ethos-u85-512": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_512KB"),
    "ethos-u85-1024": ("Ethos_U85_SYS_DRAM_Mid", "Dedicated_Sram_512KB"),
    "ethos-u85-2048": ("Ethos_U85_SYS_DRAM_High", "Dedicated_Sram_512KB"),
}
"""Accelerator, by Vela's own name -> default system configuration and memory mode of Vela's `Arm/vela.ini`. The first accelerator
is the default. These are generic reference systems: small accelerators with flash, large ones with DRAM.
"""


@dataclass(frozen=True)
class VelaSettings:
    """One accelerator in one system.

    Attributes:
        accelerator: a key of `DEFAULTS`.
        system_config: name of a section in `config`, without its prefix.
        memory_mode: likewise.
        optimise: one of `STRATEGIES`.
        config: the file that defines both.
        own_config: whether this file is the user's own.
    """

    accelerator: str
    system_config: str
    memory_mode: str
    optimise: str
    config: Path
    own_config: bool

    def facts(self) -> dict[str, str]:
        """Name -> value for the report and the provenance. The user's own file is identified by its hash."""
        found = {
            "accelerator": self.accelerator,
            "system_config": self.system_config,
            "memory_mode": self.memory_mode,
            "optimise": self.optimise,
            "config": self.config.name if self.own_config else "Arm/vela.ini",
        }
        return found | ({"config_sha256": hashlib.sha256(self.config.read_bytes()).hexdigest()} if self.own_config else {})


def installed_version() -> str:
    """Vela's version.

    Raises:
        Unavailable: it is not installed.
    """
    try:
        return metadata.version(PACKAGE)
    except metadata.PackageNotFoundError as err:
        raise Unavailable("Arm's compiler Vela is not installed", hint="pip install 'squeeze-export[ethosu]'") from err


def choices_of(accelerator: str, settings: Mapping[str, str]) -> tuple[VelaSettings, ...]:
    """Completes the user's settings with the defaults: one `VelaSettings` for each strategy to try.

    Args:
        accelerator: a key of `DEFAULTS`.
        settings: some of `NAMES`; `config` is the path of the user's own `vela.ini`, `optimise` one of `STRATEGIES` or `AUTO`.

    Raises:
        BadInput: no such accelerator, setting, strategy, configuration or memory mode, or `config` cannot be read.
        Unavailable: Vela is not installed.
    """
    if accelerator not in DEFAULTS:
        raise BadInput(f"no Ethos-U is called `{accelerator}`", hint=did_you_mean(accelerator, DEFAULTS))
    unknown = [name for name in settings if name not in NAMES]
    if unknown:
        raise BadInput(f"Vela has no setting `{unknown[0]}` here", hint=did_you_mean(unknown[0], NAMES))
    installed_version()
    optimise = settings.get("optimise", AUTO)
    if optimise not in (*STRATEGIES, AUTO):
        raise BadInput(f"Vela does not optimise for `{optimise}`", hint=f"--optimise {', '.join(STRATEGIES)} or {AUTO}")
    config = Path(settings["config"]).absolute() if "config" in settings else _shipped_ini()
    system_config = settings.get("system_config", DEFAULTS[accelerator][0])
    memory_mode = settings.get("memory_mode", DEFAULTS[accelerator][1])
    sections = _read(config)
    for prefix, name, option in ((_SYSTEM, system_config, "--system-config"), (_MEMORY, memory_mode, "--memory-mode")):
        if not sections.has_section(f"{prefix}{name}"):
            found = [section.removeprefix(prefix) for section in sections.sections() if section.startswith(prefix)]
            raise BadInput(
                f"`{config.name}` defines no {option.removeprefix('--').replace('-', ' ')} `{name}`",
                hint=did_you_mean(name, found, otherwise=f"{option} with one of: {', '.join(found) or 'none is in that file'}"),
            )
    section = sections[f"{_SYSTEM}{system_config}"]
    if "core_clock" not in section and "inherit" not in section:
        # Vela would assume 1 Hz.
        raise BadInput(f"`{config.name}` gives `{system_config}` no `core_clock`", hint="core_clock=500e6")
    strategies = STRATEGIES if optimise == AUTO else (optimise,)
    return tuple(
        VelaSettings(accelerator, system_config, memory_mode, strategy, config, "config" in settings) for strategy in strategies
    )


def _shipped_ini() -> Path:
    spec = importlib.util.find_spec("ethosu.vela")
    path = Path(spec.origin or "").parents[1] / "config_files" / "Arm" / "vela.ini" if spec is not None else None
    if path is None or not path.is_file():
        raise Unavailable("Vela's own `Arm/vela.ini` is not installed", hint="pip install --force-reinstall ethos-u-vela")
    return path


def _read(path: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    if path.suffix != ".ini":
        raise BadInput(f"`{path}` does not end in `.ini`, as Vela requires")
    try:
        if path.stat().st_size > MAX_INI_BYTES:
            raise BadInput(f"`{path}` is larger than {MAX_INI_BYTES} bytes")
        parser.read_string(path.read_text(encoding="utf-8"), source=path.name)
    except OSError as err:
        raise BadInput(f"`{path}` cannot be read: {err.strerror}", hint="--vela-config FILE, such as a copy of vela.ini") from err
    except (UnicodeDecodeError, configparser.Error) as err:
        raise BadInput(f"`{path}` is not a Vela configuration: {' '.join(str(err).split())}") from err
    return parser
