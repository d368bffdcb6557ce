"""Our path against the naive limit, one float32 XᵀX and one float64 eigvalsh, over sizes."""

from __future__ import annotations

from benchmarks.peers import features, naive, ours, streamed
from benchmarks.results import arguments, write
from benchmarks.timing import interleaved

SIZES = [(n, d) for d in (128, 512, 2048, 8192) for n in (512, 10_000, 50_000)]

REPEATS = (3, 7)
"""Of large and of small sizes."""


def main() -> None:
    options = arguments(__doc__)
    rows = []
    for n, d in [(300, 32), (40, 64)] if options.smoke else SIZES:
        x = features(n, d)
        repeats = 1 if options.smoke or d > 2048 else REPEATS[n * d < 5e7]
        functions = {"ours": ours, "streamed": streamed, "naive": naive}
        if d > 2048 and n < d:
            del functions["streamed"]  # its state is d × d, and its solve that of the naive limit
        times = interleaved(
            {name: lambda f=f, x=x: f(x) for name, f in functions.items()},
            repeats,
            warmup=0 if d > 2048 else 1,
        )
        rows.append({"n": n, "d": d, "ms": times})
    write(options, "limit", rows)


if __name__ == "__main__":
    main()
