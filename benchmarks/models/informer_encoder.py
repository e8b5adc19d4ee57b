"""Informer's encoder as its authors published it: materialised sampled keys, torch's own dropout.

Deliberately plain: it is the reference of our encoder. Sources: arXiv 2012.07436, sections 3.2 and 3.3.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.networks.informer import InformerConfig

# B batch, N steps, H heads, U sampled keys, S selected queries, D width, E = D / H


class PublishedAttention(nn.Module):
    """ProbSparse self-attention, [B, N, D] in and out; every query draws its own keys, with replacement."""

    def __init__(self, width: int, heads: int, factor: int) -> None:
        super().__init__()
        self.heads = heads
        self.factor = factor
        self.query, self.key, self.value, self.merge = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        """Attend from the selected queries to every key."""
        steps = tokens.shape[1]
        query, key, value = (
            part(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )  # [B, H, N, E]
        count = min(self.factor * math.ceil(math.log(steps)), steps)
        drawn = torch.randint(steps, (steps, count))
        every = key.unsqueeze(2).expand(-1, -1, steps, -1, -1)  # [B, H, N, N, E], a view
        sampled = every[:, :, torch.arange(steps)[:, None], drawn]  # [B, H, N, U, E], in memory
        scores = (query.unsqueeze(3) @ sampled.transpose(3, 4)).squeeze(3)  # [B, H, N, U]
        top = (scores.amax(3) - scores.sum(3) / steps).topk(count, sorted=False).indices  # [B, H, S]
        rows = top[..., None].expand(-1, -1, -1, key.shape[3])  # [B, H, S, E]
        weights = (query.gather(2, rows) @ key.transpose(2, 3) / math.sqrt(key.shape[3])).softmax(-1)  # [B, H, S, N]
        mixed = value.mean(2, keepdim=True).expand_as(query).scatter(2, rows, weights @ value)  # [B, H, N, E]
        merged: Tensor = self.merge(mixed.transpose(1, 2).flatten(2))
        return merged  # [B, N, D]


class PublishedLayer(nn.Module):
    """Attention, then a perceptron as two convolutions of one step, with normalisation after each residual sum."""

    def __init__(self, config: InformerConfig) -> None:
        super().__init__()
        self.attention = PublishedAttention(config.width, config.heads, config.factor)
        self.widen = nn.Conv1d(config.width, config.feed_forward, 1)
        self.narrow = nn.Conv1d(config.feed_forward, config.width, 1)
        self.norm_attention = nn.LayerNorm(config.width)
        self.norm_feed_forward = nn.LayerNorm(config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [B, N, D] to [B, N, D]."""
        tokens = self.norm_attention(tokens + self.dropout(self.attention(tokens)))
        hidden = self.dropout(functional.gelu(self.widen(tokens.transpose(1, 2))))
        output: Tensor = self.norm_feed_forward(tokens + self.dropout(self.narrow(hidden)).transpose(1, 2))
        return output


class PublishedDistilling(nn.Sequential):
    """Halve a sequence, [B, D, N] in and [B, D, N / 2] out."""

    def __init__(self, width: int) -> None:
        super().__init__(
            nn.Conv1d(width, width, 3, padding=1, padding_mode="circular"),
            nn.BatchNorm1d(width),
            nn.ELU(),
            nn.MaxPool1d(3, stride=2, padding=1),
        )


class PublishedEncoder(nn.Module):
    """Layers with distilling between them; [B, N, D] in, about [B, N / 2^(layers - 1), D] out."""

    def __init__(self, config: InformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PublishedLayer(config) for _ in range(config.encoder_layers))
        self.distil = nn.ModuleList(PublishedDistilling(config.width) for _ in range(config.encoder_layers - 1))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode."""
        for layer, distil in zip(self.layers[:-1], self.distil, strict=True):
            tokens = distil(layer(tokens).transpose(1, 2)).transpose(1, 2)
        encoded: Tensor = self.norm(self.layers[-1](tokens))
        return encoded
