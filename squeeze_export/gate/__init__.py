"""The gate: what a report found, against bounds and a baseline, becomes verdicts that a CI run can end with."""
