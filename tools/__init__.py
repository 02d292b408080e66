"""What the project is made with. Nothing here is in the wheel."""
