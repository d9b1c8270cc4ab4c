"""Step-keyed randomness: a draw is a function of (seed, stream, step), never of a generator's history.

Each draw reseeds torch's default generator with `key(seed, stream, index)`, so that a resumed run, a
run with another thread count or the Rust program draw the same numbers.
"""

INIT, ORDER, FLIP, TIMESTEP, NOISE, DROPOUT, SAMPLE, DATA, ENTRY, LABEL_DROPOUT = range(1, 11)

_MASK = 2**64 - 1


def mix(z: int) -> int:
    """One step of SplitMix64, u64 -> u64. Source: Steele, Lea, Flood 2014, and <https://prng.di.unimi.it/splitmix64.c>."""
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def key(seed: int, stream: int, index: int) -> int:
    """The seed for `torch.manual_seed`: 63 bits, so that it is a non-negative i64."""
    return mix(mix(mix(seed) ^ stream) ^ index) >> 1


def part_key(seed: int, stream: int, index: int, part: int) -> int:
    """The seed for one part of a draw: an image of a batch, or a micro-batch. No stream has the number 0."""
    return key(key(seed, stream, index), 0, part)
