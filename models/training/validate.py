"""Scores of a network on sets and captures that it never trained on, and a sheet of pictures to look at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

from geometry.cameras import crop_image, cropped
from models.drawing import normal_colours
from models.evaluation import mask_iou, normal_errors
from models.network import NormalNetwork
from models.rays import camera_inputs, stack_cameras
from models.training.config import TrainConfig
from models.training.dataset import ViewSet, camera_tensors, list_sets, load_set
from protocol.capture_folder import CaptureFolder


class Validation:
    """Knows the held-out sets and captures of a configuration."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self._captures = {path.name: load_capture(path, config.final_size) for path in config.captures}

    def score(self, network: NormalNetwork, sheet: Path) -> dict[str, float]:
        """Mean and median angle (degrees) and mask IoU of the held-out sets, mean angle and IoU of each capture."""
        config = self.config
        if config.validation is not None:
            paths = sorted(config.validation.glob("*.npz"))
        else:
            paths = list_sets(config.data, held_out=True)
        rows: list[np.ndarray] = []
        scores = {}
        sets = [load_set(path) for path in paths[: config.validation_sets]]
        if sets:
            results = [predict(network, views, self.device) for views in sets]
            truth = np.concatenate([views.normal for views in sets])
            mask = np.concatenate([views.mask for views in sets]) > 127
            normal, alpha = (np.concatenate([result[k] for result in results]) for k in (0, 2))
            errors = normal_errors(normal, truth, mask)
            scores = {"mean": errors.mean, "median": errors.median, "iou": mask_iou(alpha, mask)}
            for views, result in list(zip(sets, results, strict=True))[:4]:
                rows += [_row(views, result, i) for i in range(min(2, len(views.image)))]
        else:
            scores = {"mean": float("nan"), "median": float("nan"), "iou": float("nan")}
        for name, views in self._captures.items():
            result = predict(network, views, self.device)
            scores[f"{name} mean"] = normal_errors(result[0], views.normal, views.mask > 127).mean
            scores[f"{name} iou"] = mask_iou(result[2], views.mask > 127)
            rows += [_row(views, result, i) for i in range(min(4, len(views.image)))]
        if rows:
            half = (len(rows) + 1) // 2
            rows += [np.zeros_like(rows[0])] * (2 * half - len(rows))
            picture = np.concatenate([np.concatenate(rows[:half]), np.concatenate(rows[half:])], 1)
            cv2.imwrite(str(sheet), picture[..., ::-1])
        return scores


@torch.no_grad()
def predict(network: NormalNetwork, views: ViewSet, device: torch.device) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal (V, S, S, 3), confidence and mask probability (V, S, S) of one set, float32."""
    inputs = camera_tensors(camera_inputs(views.K, views.R, views.t, *views.image.shape[1:3]))
    output = network.infer(torch.from_numpy(views.image)[None].to(device), *(a.to(device) for a in inputs))
    normal, confidence, mask = (value[0].float().cpu().numpy() for value in output)
    return normal, confidence, mask


def load_capture(root: Path, size: int) -> ViewSet:
    """The first frame of a capture, its middle square scaled to ``size``; truth is zero where there is none."""
    capture = CaptureFolder.open(root)
    frame = capture.frames[0]
    images, normals, masks, cameras = [], [], [], []
    for camera in capture.calibration.cameras:
        side = min(camera.width, camera.height)
        x, y = (camera.width - side) / 2, (camera.height - side) / 2
        picture = cv2.imread(str(capture.jpeg(frame, camera.name)), cv2.IMREAD_COLOR)[..., ::-1]
        images.append(crop_image(np.ascontiguousarray(picture), x, y, side, size))
        normal, mask = np.zeros((size, size, 3)), np.zeros((size, size), np.uint8)
        if capture.normal(frame, camera.name).exists():
            with np.load(capture.normal(frame, camera.name)) as data:
                normal = crop_image(data["normal"].astype(np.float32), x, y, side, size)
        if capture.mask(frame, camera.name).exists():
            full = cv2.imread(str(capture.mask(frame, camera.name)), cv2.IMREAD_GRAYSCALE)
            mask = crop_image(full, x, y, side, size)
        length = np.linalg.norm(normal, axis=-1, keepdims=True)
        normals.append(np.where(length > 0.5, np.round(127 * normal / np.maximum(length, 1e-6)), 0).astype(np.int8))
        masks.append(mask)
        cameras.append(cropped(camera, x, y, side, size))
    return ViewSet(np.stack(images), np.stack(normals), np.stack(masks), *stack_cameras(cameras))


def _row(views: ViewSet, result: tuple[np.ndarray, np.ndarray, np.ndarray], i: int) -> np.ndarray:
    """Picture, true normals, predicted normals in the predicted mask, mask, confidence, side by side."""
    normal, confidence, mask = (values[i] for values in result)
    shown = normal_colours(normal, mask > 0.5)
    truth = normal_colours(views.normal[i] / 127, views.mask[i] > 127)
    grey = [
        np.repeat((value * 255).astype(np.uint8)[..., None], 3, -1) for value in (mask, confidence / (5 + confidence))
    ]
    return np.concatenate([views.image[i], truth, shown, *grey], 1).astype(np.uint8)
