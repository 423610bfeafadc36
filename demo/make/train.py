"""Trains the demo model from scratch (or goes on) for a given number of minutes on the CPU."""
import argparse
import os
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import nn
from transformers import AutoTokenizer

import model as M
from batches import CHARS, SLOTS, WEIGHT, EasyVqa, Vocabulary, training_batch, watch_batches
from paths import test_data
from scenes import COLORS, KINDS, POSITIONS, SIZES, WORDS


SEEN = ("kind", "color", "char", "word", "digit", "place")  # what the log tells about the patch labels
SEEN_AT = (0, 1, 3, 6, 7, 10)


def seen_loss(score, label):
    # most patches are empty: they would otherwise drown the few that show something
    weight = torch.ones(score.shape[-1])
    weight[0] = 0.2
    return F.cross_entropy(score.flatten(0, -2), label.flatten(), weight=weight)


class PatchHeads(nn.Module):
    """Linear read-outs of the projected features; they are thrown away after training.

    Kind, colour, size and word are read out a second time with the embeddings of their tokens as the classes. So a
    feature points where the token that names it points, and the language model need only learn to copy.
    """

    def __init__(self, width, vocab):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classes = [len(KINDS) + 1, len(COLORS) + 1, len(SIZES) + 1] + [len(CHARS) + 1] * SLOTS
        self.classes += [len(WORDS) + 1] + [12] * 3 + [len(POSITIONS) + 1]
        self.out = nn.Linear(width, sum(self.classes))
        self.hits = [0.0] * len(self.classes)
        # an answer starts with "red", a description goes on with " red"; words stand after a quotation mark
        tokens = lambda names, forms: torch.tensor([[vocab.encode(f + n)[0] for f in forms] for n in names])
        self.named = {0: tokens(KINDS, ("", " ")), 1: tokens(list(COLORS), ("", " ")), 2: tokens(SIZES, ("", " ")),
                      6: tokens(WORDS, ("",))}

    def forward(self, features, labels, embeddings):
        normed = self.norm(features)
        scores = self.out(normed).split(self.classes, dim=-1)
        losses, self.hits = [], []
        for i, (score, label) in enumerate(zip(scores, labels.unbind(-1))):
            shown = label > 0
            self.hits.append((score.argmax(-1) == label)[shown].float().mean().nan_to_num().item())
            losses.append(seen_loss(score, label))
            if i in self.named and shown.any():
                names = embeddings[self.named[i]].mean(1)
                losses.append(0.5 * F.cross_entropy(normed[shown] @ names.T, label[shown] - 1))
        return sum(losses) / 6


def answer_scores(model, batch, features):
    """Scores at the positions that predict answer tokens, with targets and weights."""
    tokens = M.pack(model, features, batch.lay)
    hidden = M.hidden_states(model, batch.ids, batch.segment, batch.position, tokens, batch.first)
    wanted = batch.weight[:, 1:] > 0
    scores = model.lm_head(hidden[:, :-1][wanted])
    return scores, batch.ids[:, 1:][wanted], batch.weight[:, 1:][wanted]


def losses(model, heads, batch, vision_only, frozen=False):
    with torch.set_grad_enabled(not frozen):
        features = M.view_features(model, batch.views)
    seen = torch.zeros(())
    if batch.labels is not None:
        seen = heads(features, batch.labels, model.get_input_embeddings().weight)
    if vision_only:
        return torch.zeros(()), seen
    scores, target, weight = answer_scores(model, batch, features)
    each = F.cross_entropy(scores, target, reduction="none")
    return (each * weight).sum() / weight.sum(), seen


@torch.no_grad()
def settle(model, batch, norm=0.8):
    """Shifts and scales the projector's output to mean zero and about the length of a token embedding.

    Trained alone, the features grow a hundred times longer than the embeddings. The first attention layer would then
    write so much of them over every word of the question that the language model never learns to look for something.
    """
    features = M.view_features(model, batch.views).flatten(0, 2)
    mean = features.mean(0)
    scale = norm / (features - mean).norm(dim=1).mean()
    last = model.model.multi_modal_projector.linear_2
    last.weight.mul_(scale)
    last.bias.sub_(mean).mul_(scale)


def orthogonal(m, steps=5):
    """The nearest matrix with equal singular values, about 1: Newton-Schulz steps with Muon's coefficients (Jordan, 2024)."""
    x = m.T if m.shape[0] > m.shape[1] else m
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.T if m.shape[0] > m.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Muon, with the update scaled to AdamW's usual size (Liu et al. 2025, section 2.2), so that both share one rate.

    Each process makes the updates of its share of the matrices.
    """

    def __init__(self, params, lr, rank, workers, momentum=0.95, weight_decay=0.05):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.rank, self.workers = rank, workers

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        used = [p for p in group["params"] if p.grad is not None]
        moves = [torch.zeros_like(p) for p in used]
        for i, (p, move) in enumerate(zip(used, moves)):
            memory = self.state[p].setdefault("momentum", torch.zeros_like(p))
            memory.lerp_(p.grad, 1 - group["momentum"])
            if i % self.workers == self.rank:
                move.copy_(orthogonal(p.grad.lerp(memory, group["momentum"]))).mul_(0.2 * max(p.shape) ** 0.5)
        flat = torch.cat([m.flatten() for m in moves])
        dist.all_reduce(flat)
        for p, move in zip(used, flat.split([p.numel() for p in used])):
            p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(move.view_as(p), alpha=group["lr"])


TYPES = sorted(WEIGHT) + ["describe", "easy_vqa"]


@torch.no_grad()
def watch(model, batches):
    """[type, (right, total)] of fully right answers: teacher-forced, which for a right answer is the same as greedy."""
    counts = torch.zeros(len(TYPES), 2)
    for b in batches:
        scores, target, _ = answer_scores(model, b, M.view_features(model, b.views))
        hit = torch.zeros(b.ids.shape, dtype=torch.bool)
        wanted = b.weight > 0
        hit[wanted] = scores.argmax(-1) == target
        for row, spans in zip(hit, b.spans):
            for start, end, kind in spans:
                counts[TYPES.index(kind)] += torch.tensor([float(row[start:end].all()), 1.0])
    return counts


def learning_rate(args, minutes, step):
    """Warm-up by steps, then down to nothing over the time that is left, so that the run ends well when it must end."""
    return args.lr * min(1.0, (step + 1) / args.warmup) * max(0.0, 1 - minutes / args.minutes)


def most_shapes(args, minutes):
    """Pictures of one or two shapes first: with little to confuse, the model finds out sooner where to look."""
    return 2 if minutes < args.few_minutes else 3


def first_model(args, tokenizer):
    if not args.init_from:
        return M.new_model(tokenizer)
    saved = M.LlavaOnevisionForConditionalGeneration.from_pretrained(args.init_from, dtype=torch.float32)
    if not args.fresh_language:
        return saved
    model = M.new_model(tokenizer)
    model.model.vision_tower.load_state_dict(saved.model.vision_tower.state_dict())
    model.model.multi_modal_projector.load_state_dict(saved.model.multi_modal_projector.state_dict())
    model.get_input_embeddings().load_state_dict(saved.get_input_embeddings().state_dict())
    return model


class Trainer:
    """One of several equal processes, each with one thread, which meet once per step to add up their gradients.

    On a machine that others use too, this loses far less than threads that meet in every operation.
    """

    def __init__(self, args, rank):
        self.args, self.rank = args, rank
        tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
        self.processor = M.new_processor(tokenizer)
        self.vocab = Vocabulary(tokenizer)
        self.easy = EasyVqa(args.data)
        torch.manual_seed(args.seed)
        self.model = first_model(args, tokenizer)
        self.heads = PatchHeads(self.model.config.text_config.hidden_size, self.vocab)
        self.params = list(self.model.parameters()) + list(self.heads.parameters())
        self.optimizers = self.new_optimizers()
        self.step, self.minutes, self.settled = 0, 0.0, bool(args.init_from) and not args.fresh_language
        self.file = args.state / "state.pt"
        if self.file.exists():
            self.resume()

    def new_optimizers(self):
        """Muon for the matrices of the blocks, AdamW for everything else."""
        named = list(self.model.named_parameters())
        matrix = [p for n, p in named if p.ndim == 2 and ".layers." in n]
        chosen = {id(p) for p in matrix}
        rest = [p for p in self.params if id(p) not in chosen]
        groups = [{"params": [p for p in rest if p.ndim >= 2], "weight_decay": 0.05},
                  {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0}]
        a = self.args
        return [Muon(matrix, a.lr, self.rank, a.workers), torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.97), fused=True)]

    def log(self, text):
        if self.rank == 0:
            line = f"{time.strftime('%H:%M:%S', time.gmtime())} {self.minutes:6.1f} min step {self.step:6d} {text}"
            print(line, flush=True)
            with open(self.args.state / "log.txt", "a") as f:
                f.write(line + "\n")

    def resume(self):
        s = torch.load(self.file, weights_only=True)
        self.model.load_state_dict(s["model"])
        self.heads.load_state_dict(s["heads"])
        for optimizer, state in zip(self.optimizers, s["optimizers"]):
            optimizer.load_state_dict(state)
        torch.set_rng_state(s["rng"])
        self.step, self.minutes, self.settled = s["step"], s["minutes"], s.get("settled", True)
        self.log("resumed")

    def save(self):
        if self.rank:
            return
        partial = self.file.with_suffix(".partial")
        torch.save({"model": self.model.state_dict(), "heads": self.heads.state_dict(), "step": self.step,
                    "optimizers": [o.state_dict() for o in self.optimizers], "rng": torch.get_rng_state(), "minutes": self.minutes,
                    "settled": self.settled}, partial)
        os.replace(partial, self.file)

    def export(self):
        if self.rank == 0 and self.args.export:
            M.save(self.model, self.processor, self.args.export)

    def watch(self, batches, name):
        self.model.eval()
        counts = watch(self.model, batches[self.rank::self.args.workers])
        self.model.train()
        dist.all_reduce(counts)
        self.log(name + " ".join(f"{t} {r / n:.3f}" for t, (r, n) in zip(TYPES, counts.tolist())))

    def share_gradients(self, minutes, values):
        """Mean of the gradients and of the values over the processes; the time is that of the first one."""
        used = [p for p in self.params if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in used] + [torch.tensor(values)])
        dist.all_reduce(flat)
        flat /= self.args.workers
        for p, g in zip(used, flat[:-len(values)].split([p.numel() for p in used])):
            p.grad.copy_(g.view_as(p))
        clock = torch.tensor([minutes], dtype=torch.float64)
        dist.broadcast(clock, 0)
        return clock.item(), flat[-len(values):].tolist()

    def one_step(self, begun):
        a = self.args
        vision_only = self.minutes < a.vision_minutes
        batch = training_batch(self.vocab, self.easy, a.seed, self.step, a.pictures // a.workers * (2 if vision_only else 1),
                               self.rank, vision_only, a.easy_share, 1.0 if self.minutes < a.describe_minutes else 0.3, most_shapes(a, self.minutes))
        for group in [g for o in self.optimizers for g in o.param_groups]:
            group["lr"] = learning_rate(a, self.minutes, self.step)
        frozen = a.vision_minutes <= self.minutes < a.vision_minutes + a.still_minutes
        answer, seen = losses(self.model, self.heads, batch, vision_only, frozen)
        if not vision_only and not frozen:
            # seeing goes on being taught from crowded pictures: it costs a tenth of a step with questions
            extra = training_batch(self.vocab, self.easy, a.seed, self.step, a.pictures // a.workers, self.rank, True, 0, 0)
            seen = seen + losses(self.model, self.heads, extra, True)[1]
        share = 1.0 if vision_only else max(a.patch_loss * (1 - self.minutes / a.minutes), 0.1)
        (answer + share * seen).backward()
        self.minutes, values = self.share_gradients(begun(), [answer.item(), seen.item()] + [self.heads.hits[i] for i in SEEN_AT])
        nn.utils.clip_grad_norm_(self.params, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.step += 1
        return batch, values

    def run(self):
        a = self.args
        held_out = watch_batches(self.vocab, self.easy)
        start, before = time.monotonic(), self.minutes
        elapsed = lambda: before + (time.monotonic() - start) / 60
        watched = saved = exported = before
        sums, pictures, mark = defaultdict(float), 0, time.monotonic()
        while self.minutes < a.minutes:
            if not self.settled and self.minutes >= a.vision_minutes:
                settle(self.model, held_out[0])
                self.settled = True
            batch, (answer, seen, *hits) = self.one_step(elapsed)
            pictures += len(batch.spans) * a.workers
            named = {"easy": answer} if batch.labels is None else {"scene": answer, "patch": seen}
            if batch.labels is not None:
                named.update(zip(SEEN, hits))
            for name, value in named.items():
                sums[name] += value
                sums["n " + name] += 1
            if self.step % 50 == 0:
                text = " ".join(f"{k} {sums[k] / sums['n ' + k]:.4f}" for k in ("scene", "easy", "patch") + SEEN if sums["n " + k])
                self.log(f"{text} {pictures / (time.monotonic() - mark):.1f} pictures/s")
                sums.clear()
                pictures, mark = 0, time.monotonic()
            if self.minutes - saved > 4:
                self.save()
                saved = self.minutes
            if self.minutes > a.vision_minutes and self.minutes - watched > a.watch_minutes:
                self.watch(held_out, "")
                watched = self.minutes
            if self.minutes > a.vision_minutes and self.minutes - exported > a.export_minutes:
                self.export()
                exported = self.minutes
        self.save()
        self.export()
        self.watch(held_out, "end: ")


def work(rank, args):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{args.state.resolve()}/meet", rank=rank, world_size=args.workers)
    trainer = Trainer(args, rank)
    trainer.log(f"{sum(p.numel() for p in trainer.model.parameters()) / 1e6:.2f} M parameters, {vars(args)}")
    trainer.run()
    dist.destroy_process_group()


def main():
    ap = argparse.ArgumentParser(description=__doc__)
    ap.add_argument("--minutes", type=float, default=100)
    ap.add_argument("--vision-minutes", type=float, default=25, help="first minutes, on patch labels only")
    ap.add_argument("--watch-minutes", type=float, default=6)
    ap.add_argument("--export-minutes", type=float, default=10)
    ap.add_argument("--describe-minutes", type=float, default=50,
                    help="first minutes with a description of every picture: it teaches the most per token")
    ap.add_argument("--still-minutes", type=float, default=4,
                    help="of the language model on still ground, before its gradients reach the vision tower")
    ap.add_argument("--few-minutes", type=float, default=40, help="first minutes with few shapes")
    ap.add_argument("--easy-share", type=float, default=0.25, help="of the steps")
    ap.add_argument("--pictures", type=int, default=16, help="per step")
    ap.add_argument("--lr", type=float, default=2e-3)
    ap.add_argument("--warmup", type=int, default=150)
    ap.add_argument("--patch-loss", type=float, default=0.5)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    ap.add_argument("--data", type=Path, default=test_data(), help="folder that holds easy_vqa/")
    ap.add_argument("--tokenizer", type=Path, required=True)
    ap.add_argument("--state", type=Path, required=True)
    ap.add_argument("--init-from", type=Path)
    ap.add_argument("--fresh-language", action="store_true", help="of --init-from, keep what sees and the embeddings")
    ap.add_argument("--export", type=Path)
    args = ap.parse_args()
    args.state.mkdir(parents=True, exist_ok=True)
    (args.state / "meet").unlink(missing_ok=True)
    mp.spawn(work, (args,), nprocs=args.workers)


if __name__ == "__main__":
    main()
