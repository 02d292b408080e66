"""Core ML packages, run: by Core ML itself on macOS (`native`), and by an evaluator in numpy on any machine (`evaluator`)."""
