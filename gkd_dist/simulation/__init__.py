"""The real ring over engines and a clock that are simulated: thousands of actors in one process (floor F5)."""
