"""InternLM2 (Cai et al. 2024, arXiv 2403.17297) as a plain PyTorch module, written from the paper's description and the names
in published checkpoints: Llama's block with wqkv packed per group of query heads, [q ... q, k, v] for each key head."""
import dataclasses

import torch
from torch import nn


@dataclasses.dataclass
class Config:
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    inter: int
    theta: float
    eps: float


class Norm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(n)), eps

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight


def rotate(x, positions, theta):
    """x [batch, heads, n, dim]; pairs (i, i + dim / 2)."""
    half = x.shape[-1] // 2
    freq = theta ** (-torch.arange(half, dtype=torch.float32) / half)
    angle = positions[:, None].float() * freq
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., :half], x[..., half:]
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.k, self.dim = k, k.hidden // k.heads
        self.wqkv = nn.Linear(k.hidden, (k.heads + 2 * k.kv_heads) * self.dim, bias=False)
        self.wo = nn.Linear(k.heads * self.dim, k.hidden, bias=False)

    def forward(self, x):
        k, (batch, n, _) = self.k, x.shape
        shared = k.heads // k.kv_heads
        packed = self.wqkv(x).view(batch, n, k.kv_heads, shared + 2, self.dim)
        q = packed[..., :shared, :].reshape(batch, n, k.heads, self.dim).transpose(1, 2)
        key, value = (packed[..., shared + i, :].transpose(1, 2) for i in range(2))
        at = torch.arange(n)
        q, key = rotate(q, at, k.theta), rotate(key, at, k.theta)
        key, value = (t.repeat_interleave(shared, 1) for t in (key, value))
        score = q @ key.transpose(-1, -2) / self.dim ** 0.5
        score = score.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), float("-inf"))
        return self.wo((score.softmax(-1) @ value).transpose(1, 2).reshape(batch, n, -1))


class FeedForward(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.w1, self.w3 = (nn.Linear(k.hidden, k.inter, bias=False) for _ in range(2))
        self.w2 = nn.Linear(k.inter, k.hidden, bias=False)

    def forward(self, x):
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


class Layer(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.attention, self.feed_forward = Attention(k), FeedForward(k)
        self.attention_norm, self.ffn_norm = Norm(k.hidden, k.eps), Norm(k.hidden, k.eps)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Model(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.tok_embeddings = nn.Embedding(k.vocab, k.hidden)
        self.layers = nn.ModuleList(Layer(k) for _ in range(k.layers))
        self.norm = Norm(k.hidden, k.eps)

    def forward(self, ids=None, embeds=None):
        x = self.tok_embeddings(ids) if embeds is None else embeds
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class CausalLM(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.model, self.output = Model(k), nn.Linear(k.hidden, k.vocab, bias=False)

    def forward(self, ids=None, embeds=None):
        return self.output(self.model(ids, embeds))
