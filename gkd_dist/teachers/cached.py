"""A teacher that is asked about each fixed pair once."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence

from gkd_dist.checks import TeacherCheck
from gkd_dist.interfaces import Teacher
from gkd_dist.targets import CacheUse, TargetsHandle, TeacherTargets
from gkd_dist.teachers.fingerprint import sequences_key
from gkd_dist.teachers.score_cache import ScoreCache
from gkd_dist.types import Source, Trajectory

logger = logging.getLogger(__name__)

Answers = dict[int, TeacherTargets | TargetsHandle]
"""By the index of the trajectory."""


class CachedTeacher:
    """Implements `interfaces.Teacher` and `Remembering` around another: what that says about completions that the
    student did not write is kept on disk and found there by the next epoch, replica or run.

    A teacher is frozen and its targets are those of temperature 1, so they depend on the teacher and the tokens alone:
    neither on the objective nor on `teacher.temperature`. They are those of the first time, when they may have been
    computed beside other sequences; asked again, a teacher answers the same up to the rounding of another batch. Runs
    that repeat bit for bit ask for each alone, so that its rounding depends on nothing else. What the student wrote is
    always asked for, in a call of its own: its rounding does not depend on what was found.

    `verify` goes to the teacher itself. Where it fails, what was kept since it last passed is dropped, and nothing is
    kept that was asked for before it passes again.

    Args:
        teacher: in this process, so that it answers with targets, not with handles.
        cache: where the answers are kept.
        fingerprint: everything that the answers depend on but the tokens; called once, with the first fixed pair,
            since it may read the weights.
        is_exact: ask for what is missing one by one. Slower, and needed by whoever repeats a run bit for bit.
    """

    def __init__(
        self, teacher: Teacher, cache: ScoreCache, fingerprint: Callable[[], str], *, is_exact: bool = False
    ) -> None:
        self._teacher = teacher
        self._is_exact = is_exact
        self._cache = cache
        self._make_fingerprint = fingerprint
        self._fingerprint: str | None = None
        self._lock = threading.Lock()
        """Around what follows, which answers that are just being kept share with a check that fails meanwhile."""
        self._unverified: set[str] = set()
        self._is_refused = False
        self._num_turns = 0
        """Of checks from good to bad and back."""
        self.use = CacheUse()
        """Fixed pairs that the teacher was not asked about, and those that it was, from the beginning."""
        self._untold = CacheUse()

    async def score(self, trajectories: Sequence[Trajectory]) -> list[TeacherTargets | TargetsHandle]:
        """See `interfaces.Scorer.score`."""
        fixed = {index: each for index, each in enumerate(trajectories) if each.source is not Source.STUDENT}
        if not fixed:
            return await self._teacher.score(trajectories)
        turn = self._num_turns
        keys, answers = await asyncio.to_thread(self._look_up, fixed)
        found_bytes = sum(each.num_bytes for each in answers.values())
        num_found = len(answers)
        found_tokens = sum(trajectories[index].num_tokens for index in answers)
        missing = [index for index in fixed if index not in answers]
        written = [index for index in range(len(trajectories)) if index not in fixed]
        if self._is_exact:
            # Each is waited for: what waits together, teachers score together.
            for group in (written, *([index] for index in missing)):
                answers |= await self._ask(trajectories, group)
        else:
            for scored in await asyncio.gather(*(self._ask(trajectories, group) for group in (written, missing))):
                answers |= scored
        missing_bytes = sum(answers[index].num_bytes for index in missing)
        use = CacheUse(num_found, len(missing), found_bytes, missing_bytes, found_tokens)
        self.use += use
        self._untold += use
        await asyncio.to_thread(self._keep, {keys[index]: answers[index] for index in missing}, turn)
        return [answers[index] for index in range(len(trajectories))]

    def cache_use(self) -> CacheUse:
        """See `interfaces.Remembering.cache_use`."""
        use, self._untold = self._untold, CacheUse()
        return use

    async def verify(self) -> TeacherCheck:
        """See `interfaces.Teacher.verify`."""
        with self._lock:
            before = set(self._unverified)
        check = await self._teacher.verify()
        with self._lock:
            if self._is_refused == check.passed:
                self._is_refused = not check.passed
                self._num_turns += 1
            if check.passed:
                self._unverified -= before
            else:
                for key in self._unverified:
                    self._cache.drop(key)
                self._unverified.clear()
        return check

    async def complete(
        self, drafts: Sequence[Trajectory], max_new_tokens: int, stop_token_ids: Sequence[int]
    ) -> list[list[int]]:
        """See `interfaces.Teacher.complete`."""
        return await self._teacher.complete(drafts, max_new_tokens, stop_token_ids)

    async def ping(self) -> None:
        """See `interfaces.Scorer.ping`."""
        await self._teacher.ping()

    async def close(self) -> None:
        """Close the teacher; what was kept stays."""
        num_fixed = self.use.num_hits + self.use.num_misses
        logger.info("%d of %d fixed pairs were scored before", self.use.num_hits, num_fixed)
        await self._teacher.close()

    async def _ask(self, trajectories: Sequence[Trajectory], group: Sequence[int]) -> Answers:
        """What the teacher says about the trajectories with these indices."""
        if not group:
            return {}
        targets = await self._teacher.score([trajectories[index] for index in group])
        return dict(zip(group, targets, strict=True))

    def _look_up(self, fixed: dict[int, Trajectory]) -> tuple[dict[int, str], Answers]:
        """Keys of all, and the answers that were kept, both by index."""
        if self._fingerprint is None:
            self._fingerprint = self._make_fingerprint()
        keys = {index: sequences_key(self._fingerprint, [each]) for index, each in fixed.items()}
        found = {index: self._cache.find(keys[index], each.num_completion_tokens) for index, each in fixed.items()}
        return keys, {index: targets for index, targets in found.items() if targets is not None}

    def _keep(self, answers: dict[str, TeacherTargets | TargetsHandle], turn: int) -> None:
        """
        Args:
            turn: when they were asked for.
        """
        for key, targets in answers.items():
            # What no model can say is refused later, and by name; it must not come back.
            if isinstance(targets, TargetsHandle) or targets.fault is not None:
                continue
            with self._lock:
                if self._is_refused or turn != self._num_turns:
                    return
                self._unverified.add(key)
                self._cache.keep(key, targets)
