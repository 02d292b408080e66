"""Installs Rockchip's toolkit where the benchmark looks for it: `python -m benchmarks.rknn --accept-licence`."""

from __future__ import annotations

import argparse

from benchmarks import rknn
from squeeze_export.workers.environments import install


def main() -> None:
    """Shows the licence, and installs once it is accepted."""
    parser = argparse.ArgumentParser(description=rknn.NOTICE)
    parser.add_argument("--accept-licence", action="store_true", required=True, help=f"licence: {rknn.LICENCE}")
    print(install(rknn, accepted=parser.parse_args().accept_licence))


if __name__ == "__main__":
    main()
