"""The network of `tabular_network`, in PyTorch. `tabular_network_served` has the same forward pass in NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

_MOST_DIMENSIONS = 16


class TabularModule(nn.Module):
    """A logit for each row of the matrix that `encoding.encode` makes.

    :param sizes: for each feature, the number of codes of a category, with one code for unknown values; 0 for a number
    """

    def __init__(self, sizes: Sequence[int], hidden_units: int, hidden_layers: int) -> None:
        super().__init__()
        self.number_places = [place for place, size in enumerate(sizes) if not size]
        self.category_places = [place for place, size in enumerate(sizes) if size]
        kept = [(sizes[place], min(_MOST_DIMENSIONS, 1 + sizes[place] // 2)) for place in self.category_places]
        self.embeddings = nn.ModuleList(nn.Embedding(size, dimensions) for size, dimensions in kept)
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.1)
            nn.init.zeros_(embedding.weight[0])  # unknown values have no effect until training sees one
        self.register_buffer("mean", torch.zeros(len(self.number_places)))
        self.register_buffer("deviation", torch.ones(len(self.number_places)))
        wide = 2 * len(self.number_places) + sum(dimensions for _, dimensions in kept)
        widths = [wide, *[hidden_units] * hidden_layers, 1]
        self.layers = nn.ModuleList(nn.Linear(one, two) for one, two in pairwise(widths))

    def standardise(self, mean: Any, deviation: Any) -> None:
        """Set the mean and the standard deviation of the numbers, shape [numbers]."""
        self.mean.copy_(torch.as_tensor(mean))
        self.deviation.copy_(torch.as_tensor(deviation))

    def forward(self, x: Any) -> Any:
        """Return logits [rows] for ``x`` [rows, features]. A null counts as the mean, and a second input marks it."""
        numbers = (x[:, self.number_places] - self.mean) / self.deviation
        unknown = torch.isnan(numbers)
        parts = [torch.where(unknown, 0.0, numbers), unknown.to(x.dtype)]
        for place, embedding in zip(self.category_places, self.embeddings, strict=True):
            parts.append(embedding(torch.nan_to_num(x[:, place] + 1).long()))
        hidden = torch.cat(parts, dim=1)
        for layer in self.layers[:-1]:
            hidden = torch.relu(layer(hidden))
        return self.layers[-1](hidden).squeeze(1)

    def weights(self) -> dict[str, Any]:
        """Return what serving needs, as NumPy arrays."""
        return {name: tensor.detach().cpu().numpy() for name, tensor in self.state_dict().items()}
