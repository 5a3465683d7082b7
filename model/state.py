"""The state of a training: all that a step changes, and so all that a checkpoint must hold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from model.device import grad_scaler
from model.job import Job
from model.nets import build_net
from model.optim import build_optimiser, build_schedule


@dataclass
class TrainingState:
    """Saved and restored whole, it makes a stopped and resumed training equal to a never stopped.

    The order of the samples is not in it: that is a function of `step`.
    """

    net: nn.Module
    optimiser: Optimizer
    schedule: LRScheduler
    scaler: GradScaler
    loss_sum: Tensor  # float32 scalar on the device, over the steps of this epoch
    step: int = 0

    @classmethod
    def initial(cls, job: Job) -> Self:
        """The state before the first step; seeds torch's random state."""
        torch.manual_seed(job.recipe.seed)
        net = build_net(job.recipe, len(job.origin.classes)).to(job.device)
        net = net.to(memory_format=job.memory_format)
        optimiser = build_optimiser(job.recipe, net)
        return cls(
            net=net,
            optimiser=optimiser,
            schedule=build_schedule(job.recipe, optimiser, job.order.total_steps),
            scaler=grad_scaler(job.device, job.dtype),
            loss_sum=torch.zeros((), device=job.device),
        )

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, as `checkpoint.load` allows nothing else."""
        return {
            "net": self.net.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loss_sum": self.loss_sum,
            "step": self.step,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self.loss_sum.is_cuda else [],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state, torch's random state included."""
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        self.loss_sum.copy_(state["loss_sum"])
        self.step = state["step"]
        torch.set_rng_state(state["random"])
        # A checkpoint from a computer with another number of GPUs is still worth going on from.
        if self.loss_sum.is_cuda and len(state["random_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random_cuda"])
