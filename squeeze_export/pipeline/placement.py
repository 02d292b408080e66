"""Whether every operator of a file ran on the device asked for, and in integers where the file means integers."""

from __future__ import annotations

from collections.abc import Sequence

from squeeze_export.errors import GateFailed, GateUndecided
from squeeze_export.results import Measurement

_MOST_NAMES = 4


def check_full_placement(rows: Sequence[Measurement]) -> None:
    """Refuses rows with an operator that ran on another device than the one asked for, or in float where the file means integers.

    Args:
        rows: of a report; failed and skipped ones are ignored.

    Raises:
        GateFailed: an operator fell back; the first few are named.
        GateUndecided: a runtime does not tell where its operators ran, or nothing ran.
    """
    ran = [row for row in rows if row.status == "ok"]
    if not ran:
        raise GateUndecided("nothing ran, so nothing is known of where operators run", hint="leave out --no-validate or --no-bench")
    for row in ran:
        fallbacks = row.placement.fallbacks if row.placement is not None else ()
        if row.placement is not None and fallbacks:
            named = ", ".join(f"`{name}`" for name in fallbacks[:_MOST_NAMES])
            more = f" and {len(fallbacks) - _MOST_NAMES} more" if len(fallbacks) > _MOST_NAMES else ""
            raise GateFailed(
                f"`{row.artifact}` on {row.runtime}, device `{row.device}`: {len(fallbacks)} of {row.placement.operator_count} "
                f"operators fell back: {named}{more}",
                hint="`squeeze-export lint FILE --for CHIP` tells what to change for a chip",
            )
    for row in ran:
        if row.placement is None:
            raise GateUndecided(f"`{row.artifact}` did not run, or its runtime does not tell where its operators ran")
