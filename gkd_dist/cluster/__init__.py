"""The ring's parts as Ray actors; the only room that imports ray (floor F4)."""
