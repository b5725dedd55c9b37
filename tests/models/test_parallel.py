from __future__ import annotations

import torch
from model_doubles import lacks_second_gradient
from torch import nn

from models.training.parallel import started


def test_gradients_that_one_process_lacks_count_as_zero():
    with started(2, lacks_second_gradient) as team:
        layers = nn.ModuleList([nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)])
        (layers[0](torch.full((1, 2), 3.0)) + layers[1](torch.full((1, 2), 4.0))).sum().backward()
        team.average_gradients(layers)
        assert layers[0].weight.grad.tolist() == [[2.0, 2.0]]
        assert layers[1].weight.grad.tolist() == [[2.0, 2.0]]
