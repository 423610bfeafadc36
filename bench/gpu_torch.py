# SPDX-License-Identifier: MIT
"""PyTorch on the shapes of gpu_kernels: bf16 linears as a model calls them, recorded in a CUDA graph.

Prints what gpu_cublas prints: shape,n,k,rows,us,gb_per_s,tflop_per_s. Ends with status 3 and a sentence
where there is no PyTorch or no device. Arguments: device, then name:n:k:gated for each shape, then rows.
"""
import statistics
import sys

ROUNDS, LAUNCHES, MOST_COPIES, TO_FILL = 7, 24, 64, 192e6
HEAD_OUTPUTS, MOST_HEAD_ROWS = 100_000, 64


def refuse(why):
    print(f"gpu_torch: {why}", file=sys.stderr)
    sys.exit(3)


try:
    import torch
except ImportError:
    refuse("no PyTorch here")
if not torch.cuda.is_available():
    refuse("PyTorch sees no device")


def seconds(copies, x):
    """Of one product, the median of rounds."""
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.nn.functional.linear(x, copies[0])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(LAUNCHES):
            torch.nn.functional.linear(x, copies[i % len(copies)])
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    graph.replay()
    laps = []
    for _ in range(ROUNDS):
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        laps.append(begin.elapsed_time(end) * 1e-3 / LAUNCHES)
    return statistics.median(laps)


def measure(name, n_part, k, gated, all_rows):
    n = n_part * (2 if gated else 1)
    size = n * k * 2
    n_copies = min(MOST_COPIES, 1 + int(TO_FILL / size))
    copies = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) / 128 for _ in range(n_copies)]
    for rows in all_rows:
        if n_part >= HEAD_OUTPUTS and rows > MOST_HEAD_ROWS:
            continue
        x = torch.randn(rows, k, device="cuda", dtype=torch.bfloat16)
        s = seconds(copies, x)
        print(f"{name},{n_part},{k},{rows},{s * 1e6:.3f},{size / s * 1e-9:.1f},{2 * n * k * rows / s * 1e-12:.2f}")


def main():
    torch.cuda.set_device(int(sys.argv[1]))
    shapes = [a.split(":") for a in sys.argv[2:] if ":" in a]
    rows = [int(a) for a in sys.argv[2:] if ":" not in a]
    with torch.inference_mode():
        for name, n, k, gated in shapes:
            measure(name, int(n), int(k), gated == "1", rows)


main()
