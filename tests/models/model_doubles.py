"""Cameras, sets and a tiny network for the tests of the models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.network import NetworkConfig, NormalNetwork
from models.training.parallel import Team
from protocol.calibration import Camera

TINY = NetworkConfig(dim=48, heads=4, blocks=2, decoder=(16, 8, 8))


def ring(views: int, size: int, distance: float = 1.0, center: tuple[float, float, float] = (0, 0, 0)) -> list[Camera]:
    """Cameras on a circle that look at a point."""
    cameras = []
    for i in range(views):
        angle = 2 * np.pi * i / views
        eye = distance * np.array([np.sin(angle), 0.2 * np.cos(2 * angle), np.cos(angle)])
        z = -eye / np.linalg.norm(eye)
        x = np.cross([0.0, -1.0, 0.0], z)
        x /= np.linalg.norm(x)
        R = np.stack([x, np.cross(z, x), z])
        focal = 1.6 * size + 3 * i
        K = np.array([[focal, 0, size / 2 - 0.5 + i], [0, focal, size / 2 - 0.5 - i], [0, 0, 1.0]])
        t = -R @ (eye + np.array(center))
        cameras.append(Camera(f"c{i}", size, size, K, np.zeros(5), R, t))
    return cameras


def ball(cameras: list[Camera], radius: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A lit grey ball at the origin: image (V,S,S,3) uint8, camera-frame normal (V,S,S,3) float, mask (V,S,S) bool."""
    images, normals, masks = [], [], []
    light = rng.normal(size=3)
    light /= np.linalg.norm(light)
    for camera in cameras:
        x, y = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(camera.K).T @ camera.R
        eye = camera.center
        a, b, c = (rays**2).sum(-1), rays @ eye, eye @ eye - radius**2
        inside = b * b - a * c
        mask = inside > 0
        distance = (-b - np.sqrt(np.maximum(inside, 0))) / a
        normal = (eye + distance[..., None] * rays) / radius
        shade = np.where(mask, 60 + 150 * np.maximum(normal @ light, 0), 20)
        images.append(np.repeat(shade[..., None], 3, -1).astype(np.uint8))
        normals.append(np.where(mask[..., None], normal @ camera.R.T, 0))
        masks.append(mask)
    return np.stack(images), np.stack(normals), np.stack(masks)


def ball_depth(cameras: list[Camera], radius: float) -> np.ndarray:
    """Depth along the axes (V, S, S) of a ball at the origin, 0 beside it."""
    depths = []
    for camera in cameras:
        x, y = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(camera.K).T @ camera.R  # axial length 1
        eye = camera.center
        a, b, c = (rays**2).sum(-1), rays @ eye, eye @ eye - radius**2
        inside = b * b - a * c
        depths.append(np.where(inside > 0, (-b - np.sqrt(np.maximum(inside, 0))) / a, 0))
    return np.stack(depths)


def write_sets(folder: Path, count: int, views: int = 3, size: int = 64) -> None:
    """Training sets of balls, as the generator writes sets."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        cameras = ring(views, size, rng.uniform(0.8, 1.2))
        radius = rng.uniform(0.15, 0.25)
        image, normal, mask = ball(cameras, radius, rng)
        np.savez(
            folder / f"{n:06d}.npz",
            image=image,
            normal=np.round(127 * normal).astype(np.int8),
            mask=(mask * 255).astype(np.uint8),
            depth=ball_depth(cameras, radius).astype(np.float16),
            **{key: np.stack([getattr(c, key) for c in cameras]).astype(np.float32) for key in ("K", "R", "t")},
        )


def tiny_network(seed: int = 0, config: NetworkConfig = TINY) -> NormalNetwork:
    """A small network with random weights that still look at the pictures and at the other views."""
    torch.manual_seed(seed)
    network = NormalNetwork(config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("out.weight", "mlp.2.weight", "head.weight")):
                parameter.mul_(2.0)
            if name.endswith(("offset.weight", "depths.0.weight", "depths.1.weight")):
                parameter.normal_(std=0.3)
    return network.eval().requires_grad_(False)


def lacks_second_gradient(team: Team) -> None:
    """One process of a team whose batch gives the second layer no gradient. Here, where a new process can import it."""
    layers = nn.ModuleList([nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)])
    layers[0](torch.ones(1, 2)).sum().backward()
    team.average_gradients(layers)
