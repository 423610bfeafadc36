# SPDX-License-Identifier: MIT
"""PyTorch on the shapes of gpu_kernels: bf16 linears as a model calls them, recorded in a CUDA graph.

Prints what gpu_cublas prints: shape,n,k,rows,us,gb_per_s,tflop_per_s. Ends with status 3 and a sentence
where there is no PyTorch or no device. Arguments: device, then name:n:k:gated for each shape, then rows.
"""
import math
import statistics
import sys

HEAD_OUTPUTS, MOST_HEAD_ROWS = 100_000, 64
# as in gpu_shapes.h, where they are explained
ROUNDS, LEAST_LAUNCHES, MOST_LAUNCHES, MOST_COPIES = 7, 24, 4096, 1024
TOUCHED, RECORD_S, WARM_S, MOST_READ, MOST_OPS = 192e6, 5e-3, 50e-3, 8e12, 5e15
MOST_WARM = 64


def refuse(why):
    print(f"gpu_torch: {why}", file=sys.stderr)
    sys.exit(3)


try:
    import torch
except ImportError:
    refuse("no PyTorch here")
if not torch.cuda.is_available():
    refuse("PyTorch sees no device")


def launches_of(size, ops, copies):
    """All copies, equally often, so that a recording takes long beside the host's launch of it."""
    wanted = RECORD_S / max(size / MOST_READ, ops / MOST_OPS)
    n = min(max(int(wanted), LEAST_LAUNCHES), MOST_LAUNCHES)
    n = -(-n // copies) * copies
    return n if n <= MOST_LAUNCHES else MOST_LAUNCHES // copies * copies


def record(copies, x, launches):
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.nn.functional.linear(x, copies[0])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            torch.nn.functional.linear(x, copies[i % len(copies)])
    return graph


def seconds(graph):
    """Of a recording, the median of rounds, behind some that bring clocks up."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def lap():
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e-3

    spent = 0.0
    for _ in range(MOST_WARM):
        spent += lap()
        if spent >= WARM_S:
            break
    return statistics.median(lap() for _ in range(ROUNDS))


def measure(name, n_part, k, gated, all_rows):
    n = n_part * (2 if gated else 1)
    size = n * k * 2
    n_copies = min(MOST_COPIES, math.ceil(TOUCHED / size))
    copies = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) / 128 for _ in range(n_copies)]
    for rows in all_rows:
        if n_part >= HEAD_OUTPUTS and rows > MOST_HEAD_ROWS:
            continue
        x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
        ops = 2 * n * k * rows
        launches = launches_of(size, ops, n_copies)
        s = seconds(record(copies, x, launches)) / launches
        print(f"{name},{n_part},{k},{rows},{s * 1e6:.3f},{size / s * 1e-9:.1f},{ops / s * 1e-12:.2f}", flush=True)


def main():
    torch.cuda.set_device(int(sys.argv[1]))
    shapes = [a.split(":") for a in sys.argv[2:] if ":" in a]
    rows = [int(a) for a in sys.argv[2:] if ":" not in a]
    with torch.inference_mode():
        for name, n, k, gated in shapes:
            measure(name, int(n), int(k), gated == "1", rows)


main()
