"""How `gkd` ends (floor F5)."""

EXIT_INTERNAL = 70
EXIT_INTERRUPTED = 130

EXIT_CODES = {
    0: ("done", ""),
    2: (
        "usage, configuration, data, or a run that is not in the state a command needs; the message says what to do",
        "after mending it",
    ),
    EXIT_INTERNAL: ("it failed, or something did not answer in time", "goes on from the last checkpoint"),
    75: ("stopped on purpose, with a good checkpoint", "goes on from there"),
    EXIT_INTERRUPTED: ("stopped at once by Ctrl-C", "goes on from the last checkpoint"),
    143: ("SIGTERM before the first step", "goes on from the last checkpoint"),
}
"""Code -> what it means, and what the same command does when it is given again."""
