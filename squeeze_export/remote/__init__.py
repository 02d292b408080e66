"""Boards and phones: artifacts are sent there, run there, timed there, and nothing of them stays there."""
