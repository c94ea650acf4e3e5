"""Runs as folders: their files, who works on them, how they are continued, watched and controlled (floor F2)."""
