"""The state of a training: all that a step changes, and so all that a checkpoint must hold."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model.device import grad_scaler
from model.job import Job
from model.nets import build_net, must_be_trainable
from model.optim import build_optimiser, build_schedule


@dataclass
class TrainingState:
    """Saved and restored whole, it makes a stopped and resumed training equal to a never stopped.

    The order of the samples is not in it: that is a function of `step`.
    """

    net: nn.Module
    # The net, shared with the other ranks where there are any, compiled where the recipe wants it.
    forward: Callable[[Tensor], Tensor]
    averaged: AveragedModel | None  # of the weights after each step
    optimiser: Optimizer
    schedule: LRScheduler
    scaler: GradScaler
    loss_sum: Tensor  # float32 scalar on the device, over the steps of this epoch
    step: int = 0

    @classmethod
    def initial(cls, job: Job) -> Self:
        """The state before the first step; seeds torch's random state."""
        recipe, steps = job.recipe, job.order.steps_per_epoch
        torch.manual_seed(recipe.seed)
        net = build_net(recipe, len(job.origin.classes)).to(job.device)
        net = net.to(memory_format=job.memory_format)
        must_be_trainable(net, recipe, job.order.batch_size // job.ranks.world)
        optimiser = build_optimiser(recipe, net)
        varied = recipe.fit == "pad" or bool(recipe.multi_scale)
        average = get_ema_multi_avg_fn(recipe.ema)
        forward = job.ranks.parallel(net)
        return cls(
            net=net,
            # Sizes that vary must not decide by their order which kernels there are.
            forward=torch.compile(forward, dynamic=varied or None) if recipe.compile else forward,
            averaged=AveragedModel(net, multi_avg_fn=average, use_buffers=True)
            if recipe.ema
            else None,
            optimiser=optimiser,
            schedule=build_schedule(recipe, optimiser, job.order.total_steps, steps),
            scaler=grad_scaler(job.device, job.dtype),
            loss_sum=torch.zeros((), device=job.device),
        )

    @property
    def predicting(self) -> nn.Module:
        """The net that is scored and kept: with averaged weights where the recipe averages them."""
        return self.averaged.module if self.averaged else self.net

    def load_pretrained(self) -> None:
        """Begin with the encoder's pretrained weights; InputError where they cannot be had."""
        self.net.load_pretrained()  # type: ignore[operator]  # what takes `pretrained` has it

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only, as `checkpoint.load` allows nothing else.

        "net" are the weights to predict with.
        """
        averaged = (
            {"live": self.net.state_dict(), "averaged": self.averaged.n_averaged}
            if self.averaged
            else {}
        )
        here = self.loss_sum.device
        return {
            "net": self.predicting.state_dict(),
            **averaged,
            "optimiser": self.optimiser.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "loss_sum": self.loss_sum,
            "step": self.step,
            "random": torch.get_rng_state(),
            "random_cuda": [torch.cuda.get_rng_state(here)] if here.type == "cuda" else [],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to a saved state, torch's random state included."""
        self.predicting.load_state_dict(state["net"])
        if self.averaged:
            self.net.load_state_dict(state["live"])
            self.averaged.n_averaged.copy_(state["averaged"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # none where what saved it needed no scaling
            self.scaler.load_state_dict(state["scaler"])
        self.loss_sum.copy_(state["loss_sum"])
        self.step = state["step"]
        torch.set_rng_state(state["random"])
        if self.loss_sum.is_cuda and state["random_cuda"]:  # none where a CPU computed
            torch.cuda.set_rng_state(state["random_cuda"][0], self.loss_sum.device)
