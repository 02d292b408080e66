"""How the demo network and its images were made: `python -m tools.demo.train`."""
