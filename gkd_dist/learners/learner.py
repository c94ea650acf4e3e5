"""The learner: owns the student's parameters, the optimizer and the policy version."""

import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import torch

from gkd_dist.config.learner import LearnerConfig
from gkd_dist.divergences import ForwardKl, ReverseKl
from gkd_dist.errors import EngineError
from gkd_dist.fault_points import fault_point
from gkd_dist.learners.checkpoint import save_student
from gkd_dist.learners.model import StudentModel
from gkd_dist.learners.optimizer import make_optimizer
from gkd_dist.learners.schedule import make_schedule
from gkd_dist.learners.snapshot import LearnerProgress, LearnerState, Snapshot
from gkd_dist.learners.step import LossSettings, accumulate_gradient, token_divergences
from gkd_dist.learners.stopwatch import Stopwatch
from gkd_dist.learners.world import ALONE, World
from gkd_dist.serial import SerialThread
from gkd_dist.types import ByteArray, DivergenceReport, StepReport, TrainBatch, WeightManifest, WeightPublication
from gkd_dist.weights.publisher import WeightPublisher


class GkdLearner:
    """Implements `interfaces.Learner` on one device, that of the student. CPU; CUDA untested.

    As one of several ranks it takes its share of a batch and reports on all of it. Every rank gets the same calls in
    the same order; a publication and a saved student leave from rank 0.

    All work runs on one thread of its own, in the order of the calls; the event loop stays free.

    Args:
        student: the model to train.
        source: the folder the student came from (tokenizer, generation config).
        config: optimizer, schedule, clipping.
        settings: the loss.
        publisher: how weights leave.
        world: the ranks that hold the student together.
    """

    def __init__(
        self,
        student: StudentModel,
        *,
        source: Path,
        config: LearnerConfig,
        settings: LossSettings,
        publisher: WeightPublisher,
        world: World = ALONE,
    ) -> None:
        self._student = student
        self._source = source
        self._config = config
        self._settings = settings
        self._publisher = publisher
        self._world = world
        self._optimizer = make_optimizer(student.model, config)
        self._schedule = make_schedule(self._optimizer, config)
        self._state = LearnerState(student, self._optimizer, self._schedule, rank=world.rank, world_size=world.size)
        self._snapshot: Snapshot | None = None
        self._step = 0
        self._nonfinite_in_a_row = 0
        self._thread = SerialThread("learner")
        self._writer = SerialThread("snapshot")

    async def train(self, batch: TrainBatch) -> StepReport:
        return await self._thread.run(lambda: self._train(batch))

    async def evaluate(self, batch: TrainBatch) -> DivergenceReport:
        return await self._thread.run(lambda: self._evaluate(batch))

    async def publish(self) -> WeightPublication:
        return await self._thread.run(lambda: self._publisher.publish(self._student.published(), self._step))

    async def stream(self) -> AsyncIterator[ByteArray | WeightManifest]:
        """As `publish`: each bucket as soon as it is filled, then the manifest; the next one is filled while the caller
        takes one, and no more than these two are held here.

        Raises:
            EngineError: a parameter is not finite, or a step was trained meanwhile.
        """
        step, parts = await self._thread.run(
            lambda: (self._step, self._publisher.stream(self._student.published(), self._step))
        )

        def following() -> ByteArray | WeightManifest | None:
            if self._step != step:
                raise EngineError(f"step {self._step} was trained while version {step} was published")
            return next(parts, None)

        async with aclosing(self._thread.ahead(following)) as filled:
            async for part in filled:
                yield part
                del part

    async def save(self, path: Path) -> None:
        await self._thread.run(lambda: self._save(path))

    async def snapshot(self) -> int:
        return await self._thread.run(self._take_snapshot)

    async def write_snapshot(self, folder: Path) -> None:
        """As the Protocol says, on a thread of its own, one at a time; the memory of what was written is free then."""
        snapshot = self._snapshot
        if snapshot is None:
            raise EngineError("there is no snapshot that was not written yet; take one first")
        await self._writer.run(lambda: snapshot.write(folder))
        if self._snapshot is snapshot:
            self._snapshot = None

    async def restore(self, folder: Path) -> int:
        return await self._thread.run(lambda: self._restore(folder))

    async def close(self) -> None:
        self._thread.close()
        self._writer.close()
        self._world.close()

    def _train(self, batch: TrainBatch) -> StepReport:
        if batch.step != self._step:
            raise EngineError(f"the learner is at step {self._step}, the batch is for step {batch.step}")
        watch = Stopwatch(self._student.device)
        quantities: dict[str, float] = {}
        loss = accumulate_gradient(self._student, batch, self._settings, quantities, self._world, watch)
        fault_point("learner.after_backward")
        norm = torch.nn.utils.clip_grad_norm_(self._student.model.parameters(), self._config.max_grad_norm)
        grad_norm = self._world.whole(norm).item()
        learning_rate = self._schedule.get_last_lr()[0]
        finite = math.isfinite(loss) and math.isfinite(grad_norm)
        if finite:
            self._optimizer.step()
            fault_point("learner.in_optimizer_step")
            self._schedule.step()  # a skipped step takes no step of the schedule either, as in transformers
        self._optimizer.zero_grad(set_to_none=True)
        watch.lap("optimizer")
        self._count_nonfinite(finite)
        self._step += 1
        fault_point("learner.after_step")
        return StepReport(
            step=batch.step,
            policy_version=self._step,
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            num_sequences=batch.num_sequences,
            num_trained_tokens=batch.num_tokens,
            num_skipped=0 if finite else 1,
            seconds=watch.seconds(),
            quantities=quantities,
        )

    def _save(self, path: Path) -> None:
        gathered = self._student.gathered()  # by all ranks, before anything that may fail at one
        self._state.check_finite(self._step)
        if self._world.rank == 0:
            save_student(self._student, path, source=self._source, state_dict=gathered)

    def _take_snapshot(self) -> int:
        self._snapshot = None  # before there are two
        self._snapshot = self._state.copy(LearnerProgress(self._step, self._nonfinite_in_a_row))
        return self._step

    def _restore(self, folder: Path) -> int:
        progress = self._state.load(folder)
        self._optimizer.zero_grad(set_to_none=True)
        self._snapshot = None
        self._step, self._nonfinite_in_a_row = progress.step, progress.nonfinite_in_a_row
        return self._step

    def _count_nonfinite(self, finite: bool) -> None:
        self._nonfinite_in_a_row = 0 if finite else self._nonfinite_in_a_row + 1
        if self._nonfinite_in_a_row >= self._config.max_nonfinite_steps:
            raise EngineError(
                f"loss or gradient was not finite in {self._nonfinite_in_a_row} steps in a row; weights are unchanged "
                "since; lower learner.learning_rate or look at the data"
            )

    def _evaluate(self, batch: TrainBatch) -> DivergenceReport:
        kinds = [ForwardKl(), ReverseKl(), None]
        sums = token_divergences(self._student, batch.scored, kinds, self._settings, self._world)
        return DivergenceReport(
            forward_kl=sums[0] / batch.num_tokens,
            reverse_kl=sums[1] / batch.num_tokens,
            objective=sums[2] / batch.num_tokens,
            num_sequences=batch.num_sequences,
            num_tokens=batch.num_tokens,
        )
