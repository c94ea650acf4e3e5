"""What is done to runs from outside of them: submit, look, follow, stop, and check the machine (floor F5)."""
