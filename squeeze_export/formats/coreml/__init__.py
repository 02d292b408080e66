"""Core ML: what an `.mlpackage` consists of, read without any of Apple's code."""
