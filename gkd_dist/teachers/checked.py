"""A teacher that can be asked whether it still answers as it should, around any engine that scores."""

from collections.abc import Callable, Sequence

from gkd_dist.checks import TeacherCheck, Tolerance
from gkd_dist.divergences import Readout
from gkd_dist.interfaces import Scorer
from gkd_dist.serial import SerialThread
from gkd_dist.targets import TargetsHandle, TeacherTargets
from gkd_dist.teachers.completion import complete
from gkd_dist.teachers.golden import Golden, ask, compare, top_answers
from gkd_dist.types import Trajectory

_MAX_ATTEMPTS = 3


class CheckedTeacher:
    """Implements `interfaces.Teacher`: `score`, `ping` and `close` are the engine's, `verify` compares golden
    answers, `complete` asks for scores.

    Args:
        engine: what scores, in this process.
        sequences: the golden ones.
        golden: what the engine's log-probs at them should be; None: what it says when it is first verified.
        load_readout: what the learner makes log-probs of hidden states with; loaded for each check, since the head of a
            large teacher takes gigabytes. None for other transports.
        tolerance: what counts as the same answer.
    """

    def __init__(
        self,
        engine: Scorer,
        *,
        sequences: Sequence[Trajectory],
        golden: Golden | None,
        load_readout: Callable[[], Readout] | None,
        tolerance: Tolerance,
    ) -> None:
        self._engine = engine
        self._sequences = tuple(sequences)
        self._golden = golden
        self._load_readout = load_readout
        self._tolerance = tolerance
        self._thread = SerialThread("comparison")

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
        """See `interfaces.Teacher.score`."""
        return await self._engine.score(trajectories)

    async def verify(self) -> TeacherCheck:
        """See `interfaces.Teacher.verify`. Answers that differ are asked for again: what else a server happens to do
        changes the rounding of its answers for a moment, a fault stays."""
        for left in reversed(range(_MAX_ATTEMPTS)):
            check = await self._asked()
            if check.passed or not left:
                break
        return check

    async def complete(
        self, drafts: Sequence[Trajectory], max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        """See `interfaces.Teacher.complete`."""
        readout = await self._thread.run(self._load_readout) if self._load_readout is not None else None
        score, stops = self._engine.score, frozenset(stop_token_ids)
        return await complete(score, drafts, readout, max_new_tokens=max_new_tokens, stop_token_ids=stops)

    async def ping(self) -> None:
        await self._engine.ping()

    async def _asked(self) -> TeacherCheck:
        targets = await ask(self._engine.score, self._sequences)
        return await self._thread.run(lambda: self._compare(targets))

    async def close(self) -> None:
        await self._engine.close()
        self._thread.close()

    def _compare(self, targets: list[TeacherTargets]) -> TeacherCheck:
        readout = self._load_readout() if self._load_readout is not None else None
        golden = self._golden or Golden(top_answers(self._sequences, targets, readout), "its first answers")
        check = compare(golden, self._sequences, targets, readout, self._tolerance)
        if check.passed:
            self._golden = golden  # answers at fault are nothing to compare with
        return check
