"""The one thread of a controller: what goes through it goes one after the other."""

import asyncio

from gkd_dist.planning.controller import DriverCosts


class Driver:
    """Takes work in the order in which it comes."""

    def __init__(self, costs: DriverCosts) -> None:
        self._costs = costs
        self._free_at = 0.0
        self.busy_s = 0.0
        self.num_calls = 0

    async def call(self, num_sequences: int = 0) -> None:
        """Return when the controller has done its part of a call."""
        self.num_calls += 1
        cost_s = self._costs.call_s + num_sequences * self._costs.sequence_s
        if cost_s <= 0:
            return
        now = asyncio.get_running_loop().time()
        self.busy_s += cost_s
        self._free_at = max(now, self._free_at) + cost_s
        await asyncio.sleep(self._free_at - now)
