"""InternVL's vision side as a plain PyTorch module, written from the descriptions in arXiv 2312.14238 and 2404.16821 and the
names in published checkpoints of the authors' layout: pre-norm blocks with layer scale, norms of q and k over the whole
width, a class token, 2x2 pixel shuffle in both versions, a normed two-layer projector; on top of internlm2.py."""
import dataclasses

import torch
from torch import nn

import internlm2


@dataclasses.dataclass
class Config:
    hidden: int
    layers: int
    heads: int
    inter: int
    image: int
    patch: int
    eps: float
    transposed: bool  # ps_version v1


class Attention(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.heads = k.heads
        self.qkv, self.proj = nn.Linear(k.hidden, 3 * k.hidden, bias=False), nn.Linear(k.hidden, k.hidden)
        self.q_norm, self.k_norm = internlm2.Norm(k.hidden, k.eps), internlm2.Norm(k.hidden, k.eps)

    def forward(self, x):
        n, t, width = x.shape
        q, key, v = self.qkv(x).chunk(3, -1)
        split = lambda y: y.view(n, t, self.heads, -1).transpose(1, 2)
        q, key, v = split(self.q_norm(q)), split(self.k_norm(key)), split(v)
        w = (q @ key.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        return self.proj((w @ v).transpose(1, 2).reshape(n, t, width))


class Mlp(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(k.hidden, k.inter), nn.Linear(k.inter, k.hidden)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Layer(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.attn, self.mlp = Attention(k), Mlp(k)
        self.norm1, self.norm2 = internlm2.Norm(k.hidden, k.eps), internlm2.Norm(k.hidden, k.eps)
        self.ls1, self.ls2 = nn.Parameter(torch.ones(k.hidden)), nn.Parameter(torch.ones(k.hidden))

    def forward(self, x):
        x = x + self.ls1 * self.attn(self.norm1(x))
        return x + self.ls2 * self.mlp(self.norm2(x))


class Embeddings(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.patch_embedding = nn.Conv2d(3, k.hidden, k.patch, k.patch)
        self.class_embedding = nn.Parameter(torch.zeros(1, 1, k.hidden))
        self.position_embedding = nn.Parameter(torch.zeros(1, 1 + (k.image // k.patch) ** 2, k.hidden))

    def forward(self, pixels):
        x = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        return torch.cat([self.class_embedding.expand(len(x), -1, -1), x], 1) + self.position_embedding


class Encoder(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.layers = nn.ModuleList(Layer(k) for _ in range(k.layers))


class Vision(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.embeddings, self.encoder = Embeddings(k), Encoder(k)

    def forward(self, pixels):
        x = self.embeddings(pixels)
        for layer in self.encoder.layers:
            x = layer(x)
        return x[:, 1:]


def shuffle(x, side, transposed):
    """[n, side^2, c] -> [n, (side/2)^2, 4c]: channels (row, column, c) of each 2x2 block."""
    n, _, c = x.shape
    h = side // 2
    x = x.view(n, h, 2, h, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, h, 4 * c)
    return (x.transpose(1, 2) if transposed else x).reshape(n, h * h, 4 * c)


class Chat(nn.Module):
    """ids hold `context` at the places of image features."""

    def __init__(self, k, text, context):
        super().__init__()
        self.k, self.context = k, context
        self.vision_model, self.language_model = Vision(k), internlm2.CausalLM(text)
        self.mlp1 = nn.Sequential(nn.LayerNorm(4 * k.hidden), nn.Linear(4 * k.hidden, text.hidden), nn.GELU(),
                                  nn.Linear(text.hidden, text.hidden))

    def features(self, pixels):
        return self.mlp1(shuffle(self.vision_model(pixels), self.k.image // self.k.patch, self.k.transposed))

    def forward(self, ids, pixel_values=None):
        x = self.language_model.model.tok_embeddings(ids)
        if pixel_values is not None:
            x = x.clone()
            x[ids == self.context] = self.features(pixel_values).flatten(0, 1)
        return self.language_model(embeds=x)
