"""The training loop: ``python -m models.training.train CONFIG.toml``; the same command resumes.

Time, not steps, is the budget: the learning rate follows a cosine over the configured minutes, however fast the
machine turns out to be. A checkpoint is written every few minutes and holds everything that a resumed run needs.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.network import NormalNetwork
from models.training.config import TrainConfig, load_config
from models.training.dataset import Batch, BatchPlan, Loader
from models.training.log import RunLog
from models.training.losses import total_loss
from models.training.parallel import Team, started
from models.training.pretrained import load_imagenet
from models.training.start import calibrate
from models.training.validate import Validation
from models.weights import load_network
from protocol.errors import HeadstreamError


class Average:
    """An exponential average of a network's weights, with a short memory at the start."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take one step's weights in."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(list(self.network.parameters()), list(network.parameters()), 1 - decay)


class Trainer:
    """One run in its folder: network, average, optimiser, and how much of the time has gone."""

    def __init__(self, config: TrainConfig, say: Callable[[str], None] = print, team: Team | None = None) -> None:
        self.config, self.say, self.team = config, say, team or Team()
        config.out.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = NormalNetwork(config.network)
        self.checkpoint = config.out / "checkpoint.pt"
        if not self.checkpoint.exists():
            self._begin()
        self.network.to(self.device, memory_format=torch.channels_last)
        self.average = Average(self.network, config.average)
        self.optimizer = torch.optim.AdamW(self._groups(), betas=(0.9, 0.99))
        self.step, self.minutes = 0, 0.0
        if self.checkpoint.exists():
            self._resume()
        self.validation = Validation(config, self.device) if self.team.leads else None

    def run(self) -> None:
        """Train until the minutes are used up; ends with a validation and a checkpoint."""
        config = self.config
        if self.step == 0 and config.start is None:
            calibrate(self.network, self._first_batch())
            self.average = Average(self.network, config.average)
        loader = Loader(config.data, self._plan(), seed=config.seed + 1000 * self.step + self.team.rank)
        self.team.share_weights(self.network)
        saved, validated = self.minutes, self.minutes
        log = RunLog(config.out) if self.team.leads else None
        recent: list[dict[str, float]] = []
        try:
            clock = time.monotonic()
            for batch in loader:
                recent.append(self._step(batch))
                now = time.monotonic()
                self.minutes = self.team.leads_value(self.minutes + (now - clock) / 60)
                if self.step % 20 == 0 and log is not None:
                    rate = self.team.size * batch.image.shape[0] * batch.image.shape[1] / (now - clock)
                    means = {name: float(np.mean([terms[name] for terms in recent])) for name in recent[0]}
                    log.write(
                        "log", self.step, self.minutes, {"rate": self._rate(), "pictures_per_second": rate, **means}
                    )
                    recent.clear()
                clock = now  # what follows counts with the next step: the budget is wall time
                loader.plan = self._plan()
                done = self.minutes >= config.minutes
                if log is None:
                    if done:
                        return
                    continue
                if done or self.minutes - saved > config.checkpoint_minutes:
                    saved = self.minutes
                    self._save()
                if done or self.minutes - validated > config.validation_minutes:
                    validated = self.minutes
                    self.say(f"step {self.step}, {self.minutes:.1f} min: {self._validate(log)}")
                if done:
                    return
        finally:
            loader.close()
            if log is not None:
                log.close()

    def _begin(self) -> None:
        """Weights to start from: those of another run as far as they have a place here, or ImageNet's."""
        config = self.config
        if config.start is not None:
            theirs = load_network(config.start).state_dict()
            ours = self.network.state_dict()
            fits = {name: value for name, value in theirs.items() if name in ours and ours[name].shape == value.shape}
            self.network.load_state_dict({**ours, **fits})
            if self.team.leads:
                self.say(f"starts from {config.start}: {len(fits)} of {len(ours)} arrays")
        elif config.imagenet:
            load_imagenet(self.network.encoder)

    def _first_batch(self) -> Batch:
        """The same batch in every process."""
        config = self.config
        plan = BatchPlan(config.pictures, config.size, (min(config.views),))
        loader = Loader(config.data, plan, config.seed, depth=1)
        try:
            return next(iter(loader))
        finally:
            loader.close()

    def _step(self, batch: Batch) -> dict[str, float]:
        config = self.config
        share = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_rate"] * share
        move = self.device
        with torch.autocast(move.type, torch.bfloat16, enabled=config.bf16):
            output, depths = self.network.with_depths(
                batch.image.to(move), *(array.to(move) for array in batch.cameras)
            )
        normal, mask, depth = (array.to(move) for array in (batch.normal, batch.mask, batch.depth))
        R, matches = batch.R.to(move), batch.matches.to(move)
        loss, terms = total_loss(output, depths, normal, mask, depth, R, matches, config.loss)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.team.average_gradients(self.network)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
        if math.isfinite(float(norm)):  # one bad batch must not spoil a night
            self.optimizer.step()
            self.average.update(self.network)
        self.step += 1
        return {"loss": float(loss.detach()), **{name: float(value) for name, value in terms.items()}}

    def _rate(self) -> float:
        """Share of the full learning rate now: warm-up, then half a cosine down to 1 %."""
        config = self.config
        warm = min(1.0, (self.minutes + 0.02) / max(config.warmup_minutes, 0.02))
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.minutes / config.minutes))))

    def _plan(self) -> BatchPlan:
        config = self.config
        late = self.minutes > (1 - config.final_share) * config.minutes
        size = config.final_size if late else config.size
        pictures = round(config.pictures * (config.size / size) ** 2 / self.team.size)
        return BatchPlan(pictures=max(pictures, 1), size=size, views=config.views)

    def _groups(self) -> list[dict[str, object]]:
        """Encoder and new parts learn at their own rates; gains, biases and norms do not decay."""
        config = self.config
        groups: dict[tuple[str, bool], list[nn.Parameter]] = {}
        for name, parameter in self.network.named_parameters():
            groups.setdefault((name.split(".")[0], parameter.ndim > 1), []).append(parameter)
        rates = {"encoder": config.encoder_rate if config.imagenet else config.rate, "decoder": config.decoder_rate}
        return [
            {
                "params": parameters,
                "full_rate": rates.get(part, config.rate),
                "weight_decay": config.weight_decay if decays else 0.0,
            }
            for (part, decays), parameters in groups.items()
        ]

    def _save(self) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "minutes": self.minutes,
            "config": self.config.network.to_dict(),
        }
        scratch = self.checkpoint.with_suffix(".part")
        torch.save(state, scratch)
        scratch.replace(self.checkpoint)

    def _resume(self) -> None:
        state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        if state["config"] != {**self.config.network.to_dict()}:
            raise HeadstreamError(f"{self.checkpoint}: is of a network with other sizes; choose another `out`")
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        rates = [group["full_rate"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["full_rate"] = rate  # the configuration's, which may have been changed
        self.step, self.minutes = state["step"], state["minutes"]
        if self.team.leads:
            self.say(f"resumed at step {self.step}, {self.minutes:.1f} of {self.config.minutes:g} minutes")

    def _validate(self, log: RunLog) -> str:
        assert self.validation is not None  # only the leading process validates
        scores = self.validation.score(self.average.network, self.config.out / f"sheet_{self.step:06d}.png")
        log.write("validation", self.step, self.minutes, scores)
        return ", ".join(f"{name} {value:.3f}" for name, value in scores.items())


def train(path: str | Path, say: Callable[[str], None] = print) -> Path:
    """Train, or go on training, what the configuration says; returns the checkpoint.

    Raises HeadstreamError for a configuration or data that cannot be used.
    """
    config = load_config(path)
    with started(config.processes, _follow, config) as team:
        trainer = Trainer(config, say, team)
        trainer.run()
    return trainer.checkpoint


def _follow(team: Team, config: TrainConfig) -> None:
    """What the processes beside the first do."""
    Trainer(config, team=team).run()


def main() -> None:
    """Entry of ``python -m models.training.train``."""
    parser = argparse.ArgumentParser(description="Train the normal network; the same command resumes.")
    parser.add_argument("config", type=Path)
    try:
        train(parser.parse_args().config, lambda text: print(text, flush=True))
    except HeadstreamError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    main()
