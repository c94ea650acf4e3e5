"""Replicas that fail, heal, move and scale: pure logic and asyncio, no Ray (floor F2)."""
