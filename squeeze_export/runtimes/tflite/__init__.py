"""What runs TFLite files: the interpreter of three packages, LiteRT with its accelerators, and TFLite Micro."""
