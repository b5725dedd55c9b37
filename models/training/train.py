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
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from models.network import NormalNetwork
from models.training.augment import augment
from models.training.batch import Batch, make_batch, stack
from models.training.config import TrainConfig, load_config
from models.training.dataset import list_sets, load_set
from models.training.grow import grown
from models.training.log import RunLog
from models.training.losses import total_loss
from models.training.parallel import Team, started
from models.training.pool import Pool
from models.training.pretrained import load_imagenet
from models.training.start import calibrate
from models.training.validate import Validation
from models.weights import load_network
from protocol.errors import HeadstreamError

LOG_STEPS = 20


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


@torch.no_grad()
def clip_gradients(network: nn.Module, longest: float) -> None:
    """Scale all gradients down to this norm; where one is not finite, all become zero: one bad batch must not spoil a
    night. Nothing waits for a GPU to say which."""
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    scale = torch.where(norm.isfinite(), (longest / (norm + 1e-6)).clamp(max=1), 0.0)
    for gradient in gradients:
        gradient.nan_to_num_(0.0, 0.0, 0.0)
    torch._foreach_mul_(gradients, scale)


class Recent:
    """Terms of the last steps, kept where they are until somebody asks."""

    def __init__(self) -> None:
        self._terms: list[dict[str, Tensor]] = []
        self._pictures, self._since = 0, time.monotonic()

    def add(self, terms: dict[str, Tensor], pictures: int) -> None:
        """Of one step that took so many pictures."""
        self._terms.append(terms)
        self._pictures += pictures

    def means(self) -> dict[str, float]:
        """Pictures a second and the mean of every term since the last call; waits for the last step's."""
        names = list(self._terms[0])
        table = torch.stack([torch.stack([terms[name] for name in names]) for terms in self._terms])
        means = dict(zip(names, table.double().mean(0).tolist(), strict=True))
        now = time.monotonic()
        rate = self._pictures / (now - self._since)
        self._terms, self._pictures, self._since = [], 0, now
        return {"pictures_per_second": rate, **means}


class Trainer:
    """One run in its folder: network, average, optimiser, and how much of the time has gone."""

    def __init__(self, config: TrainConfig, say: Callable[[str], None] = print, team: Team | None = None) -> None:
        self.config, self.say, self.team = config, say, team or Team()
        config.out.mkdir(parents=True, exist_ok=True)
        torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.backends.cudnn.benchmark = True  # pictures have two sizes in a run, so trying ways of convolving pays
        self.network = NormalNetwork(config.network)
        self.checkpoint = config.out / "checkpoint.pt"
        if not self.checkpoint.exists():
            self._begin()
        self.network.to(self.device, memory_format=torch.channels_last)
        self.average = Average(self.network, config.average)
        self.optimizer = torch.optim.AdamW(self._groups(), betas=(0.9, 0.99), fused=self.device.type == "cuda")
        self.step, self.minutes = 0, 0.0
        if self.checkpoint.exists():
            self._resume()
        self._seed = config.seed + 1000 * self.step + self.team.rank
        self._rng = np.random.default_rng(self._seed)
        self._generator = torch.Generator(self.device).manual_seed(self._seed)
        self.validation = Validation(config, self.device) if self.team.leads else None

    def run(self) -> None:
        """Train until the minutes are used up; ends with a validation and a checkpoint."""
        config = self.config
        if self.step == 0 and config.start is None:
            calibrate(self.network, self._first_batch())
            self.average = Average(self.network, config.average)
        pool = Pool(config.data, self.device, config.pool_gb, self._seed, config.readers)
        self.team.share_weights(self.network)
        saved, validated = self.minutes, self.minutes
        log = RunLog(config.out, self.step) if self.team.leads else None
        recent = Recent()
        try:
            clock = time.monotonic()
            while True:
                batch = self._draw(pool)
                terms = self._step(batch)
                if log is not None:
                    recent.add(terms, self.team.size * batch.image.shape[0] * batch.image.shape[1])
                    if self.step % LOG_STEPS == 0:  # the only place where the host waits for a GPU
                        values = {"rate": self._rate(), **recent.means(), "sets": len(pool)}
                        log.write("log", self.step, self.minutes, values)
                now = time.monotonic()
                self.minutes = self.team.leads_value(self.minutes + (now - clock) / 60)
                clock = now  # what follows counts with the next step: the budget is wall time
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
            pool.close()
            if log is not None:
                log.close()

    def _begin(self) -> None:
        """Weights to start from: those of another run as far as they have a place here, or ImageNet's.

        Raises HeadstreamError when the other network is neither of this one's sizes nor can grow to them.
        """
        config = self.config
        if config.start is not None:
            start = load_network(config.start)
            sizes = replace(config.network, points=start.config.points, pool=start.config.pool)  # free to differ
            grows = sizes != start.config
            if grows:
                try:
                    start = grown(start, sizes, torch.Generator().manual_seed(config.seed))
                except HeadstreamError as error:
                    raise HeadstreamError(f"{config.start}: {error}") from None
            theirs, ours = start.state_dict(), self.network.state_dict()
            fits = {name: value for name, value in theirs.items() if name in ours and ours[name].shape == value.shape}
            self.network.load_state_dict({**ours, **fits})
            if self.team.leads:
                self.say(f"starts from {config.start}{', grown' if grows else ''}: {len(fits)} of {len(ours)} arrays")
        elif config.imagenet:
            load_imagenet(self.network.encoder)

    def _first_batch(self) -> Batch:
        """The same batch in every process: the folders' first sets as they are, one view of each."""
        config = self.config
        paths = list_sets(config.data)[: config.pictures]
        if not paths:
            raise HeadstreamError(f"no training sets in {', '.join(map(str, config.data))}")
        sets = stack([load_set(path).first_view() for path in paths], self.device)
        return make_batch(sets, torch.Generator(self.device).manual_seed(config.seed))

    def _draw(self, pool: Pool) -> Batch:
        """The next step's batch: as many views of each set as chance says, pictures smaller until the last part."""
        config, rng = self.config, self._rng
        size = self._size()
        pictures = round(config.pictures * (config.size / size) ** 2 / self.team.size)
        views = int(rng.choice(config.views))
        sets = pool.draw(max(1, pictures // views), views, rng)
        return make_batch(augment(sets, size, rng, self._generator), self._generator)

    def _size(self) -> int:
        config = self.config
        return config.final_size if self.minutes > (1 - config.final_share) * config.minutes else config.size

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the optimiser; the loss and its terms, which a GPU may still have to compute."""
        config = self.config
        share = self._rate()
        for group in self.optimizer.param_groups:
            group["lr"] = group["full_rate"] * share
        with torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
            output, depths = self.network.with_depths(batch.image, *batch.cameras)
        loss, terms = total_loss(
            output, depths, batch.normal, batch.mask, batch.depth, batch.R, batch.pairs, config.loss
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.team.average_gradients(self.network)
        clip_gradients(self.network, 2.0)
        self.optimizer.step()
        self.average.update(self.network)
        self.step += 1
        return {"loss": loss.detach(), **terms}

    def _rate(self) -> float:
        """Share of the full learning rate now: warm-up, then half a cosine down to 1 %."""
        config = self.config
        warm = min(1.0, (self.minutes + 0.02) / max(config.warmup_minutes, 0.02))
        return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.minutes / config.minutes))))

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
