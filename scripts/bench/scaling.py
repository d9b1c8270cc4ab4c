#!/usr/bin/env python3
"""A model of training on many GPUs: prints the tables of docs/scaling.md. Nothing here is measured.

A step of W ranks is forward, backward, what backward does not hide of adding up the gradients, and the update, which each
rank does alike. Gradients travel in buckets, one after the other, each as soon as backward has filled it; a bucket takes
2 (W-1)/W x bytes / bandwidth + 2 (W-1) x latency, as in a ring. Behind the last comes the loss, which is latency alone.
"""

from dataclasses import dataclass

# Parameters and operations of the forward pass for one image, as `ddpm bench --what sample --json` says: gflops x ms.
# Images a GPU: what the weak table computes on each.


@dataclass
class Network:
    name: str
    parameters: float
    forward_gflop: float
    pixels: int
    images: int

    def bytes(self, value: int) -> float:
        return self.parameters * value


NETWORKS = [
    Network("celebahq128", 25_275_648, 29.61, 128, 64),
    Network("keras-ddpm2", 92_460_800, 108.89, 128, 16),
    Network("ddpm256", 113_673_219, 497.03, 256, 8),
]

# A GPU like an RTX 3090: products in bf16 with sums in f32, and its memory.
PEAK_TFLOPS, UTILISATION = 71.0, 0.35
MEMORY_GB_S, MEMORY_EFFICIENCY = 936.0, 0.8
# With b images of 128 x 128 pixels a GPU reaches b / (b + HALF_FULL) of that utilisation; larger images fill it sooner.
HALF_FULL = 2.0
# Values that norm, Adam and EMA read and write for a parameter, of 4 bytes.
UPDATE_VALUES = 11
# Backward has twice the operations of forward.
BACKWARD = 2 / 3

MIB = 2**20
FIRST_BUCKET, BUCKET, LAST_BUCKET = 1 * MIB, 25 * MIB, 4 * MIB
GPUS_A_HOST = 8


@dataclass
class Link:
    """Nominal bandwidth in one direction, the part of it that is assumed, and the latency of a message."""

    name: str
    nominal_gb_s: float
    efficiency: float
    latency_us: float

    @property
    def gb_s(self) -> float:
        return self.nominal_gb_s * self.efficiency


PCIE = Link("PCIe 4.0 x16", 31.5, 0.40, 8)
NVLINK = Link("NVLink 3 with a switch", 300.0, 0.77, 5)
ETHERNET = Link("100 Gb/s Ethernet", 12.5, 0.70, 30)


@dataclass
class Cluster:
    """Hosts of eight GPUs, with one link in a host and one network card for each host."""

    gpus: int
    inside: Link

    @property
    def name(self) -> str:
        words = {PCIE.name: "PCIe", NVLINK.name: "NVLink"}[self.inside.name]
        return words if self.gpus <= GPUS_A_HOST else f"{words}, Ethernet"

    @property
    def gb_s(self) -> float:
        """A ring is as fast as its narrowest link; it enters and leaves each host once."""
        return self.inside.gb_s if self.gpus <= GPUS_A_HOST else min(self.inside.gb_s, ETHERNET.gb_s)

    @property
    def latency(self) -> float:
        """Seconds of the 2 (W-1) messages one after the other."""
        outside = 0.0 if self.gpus <= GPUS_A_HOST else 1 / GPUS_A_HOST
        mean = (1 - outside) * self.inside.latency_us + outside * ETHERNET.latency_us
        return 2 * (self.gpus - 1) * mean * 1e-6

    def all_reduce(self, size: float) -> float:
        return 2 * (self.gpus - 1) / self.gpus * size / self.gb_s / 1e9 + self.latency


CLUSTERS = [Cluster(gpus, inside) for gpus in (8, 64, 512) for inside in (PCIE, NVLINK)]


def half_full(net: Network) -> float:
    return HALF_FULL * (128 / net.pixels) ** 2


def compute(net: Network, images: float) -> float:
    """Seconds of forward and backward of this many images on one GPU."""
    return 3 * net.forward_gflop * (images + half_full(net)) / (PEAK_TFLOPS * UTILISATION * 1e3)


def update(net: Network) -> float:
    return UPDATE_VALUES * 4 * net.parameters / (MEMORY_GB_S * MEMORY_EFFICIENCY * 1e9)


def buckets(net: Network) -> list[float]:
    """Parts of the gradient, in the order of backward, as shares of it."""
    left, sizes = net.bytes(4) - FIRST_BUCKET - LAST_BUCKET, [FIRST_BUCKET]
    while left > 0:
        sizes.append(min(BUCKET, left))
        left -= sizes[-1]
    sizes.append(LAST_BUCKET)
    return [size / net.bytes(4) for size in sizes]


def exchange(net: Network, cluster: Cluster, images: float, value: int) -> tuple[float, float]:
    """Seconds that gradients are on their way, and those of them that backward does not hide."""
    backward = BACKWARD * compute(net, images)
    filled = sent = busy = 0.0
    for share in buckets(net):
        filled += share * backward
        takes = cluster.all_reduce(share * net.bytes(value))
        sent = max(sent, filled) + takes
        busy += takes
    sent += cluster.latency
    return busy + cluster.latency, sent - backward


def step(net: Network, cluster: Cluster, images: float, value: int) -> float:
    return compute(net, images) + exchange(net, cluster, images, value)[1] + update(net)


def alone(net: Network, images: float) -> float:
    return compute(net, images) + update(net)


def table(head: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(head) + " |")
    print("| --- | --- |" + " ---: |" * (len(head) - 2))
    for row in rows:
        print("| " + " | ".join(row) + " |")
    print()


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.3g}" if seconds < 1 else f"{seconds * 1e3:.0f}"


def assumptions() -> None:
    print("Assumptions\n")
    links = [
        [link.name, f"{link.nominal_gb_s:g} GB/s", f"{link.efficiency:.0%}", f"{link.gb_s:.3g} GB/s", f"{link.latency_us:g} µs"]
        for link in (PCIE, NVLINK, ETHERNET)
    ]
    table(["link", "a direction, nominal", "assumed of it", "bandwidth", "latency of a message"], links)
    print(f"GPU: {PEAK_TFLOPS:g} TFLOP/s x {UTILISATION:.0%} = {PEAK_TFLOPS * UTILISATION:.3g} TFLOP/s; ", end="")
    print(f"memory {MEMORY_GB_S:g} GB/s x {MEMORY_EFFICIENCY:.0%} = {MEMORY_GB_S * MEMORY_EFFICIENCY:.0f} GB/s\n")
    rows = [
        [
            net.name,
            f"{net.pixels} px",
            f"{net.parameters / 1e6:.1f} M",
            f"{3 * net.forward_gflop:.0f}",
            f"{net.bytes(4) / 1e6:.0f}",
            f"{net.bytes(2) / 1e6:.0f}",
            f"{len(buckets(net))}",
            ms(alone(net, 1)),
            f"{ms(alone(net, net.images))} ({net.images})",
            ms(update(net)),
        ]
        for net in NETWORKS
    ]
    head = ["network", "size", "parameters", "GFLOP an image", "gradient f32, MB", "bf16, MB", "buckets"]
    table([*head, "step of 1 image, ms", "step of a GPU's batch, ms", "of it update, ms"], rows)


def weak() -> None:
    print("The same images on each GPU: the batch grows with the ranks\n")
    rows = []
    for net in NETWORKS:
        for cluster in CLUSTERS:
            cells = []
            for value in (4, 2):
                busy, exposed = exchange(net, cluster, net.images, value)
                kept = alone(net, net.images) / step(net, cluster, net.images, value)
                cells += [ms(busy), ms(exposed), f"{kept:.1%}"]
            batch = net.images * cluster.gpus
            rows.append([f"{net.name}, {net.images} a GPU", cluster.name, str(cluster.gpus), str(batch), *cells])
    head = ["network", "links", "GPUs", "batch", "f32: on the way, ms", "exposed, ms", "kept"]
    table([*head, "bf16: on the way, ms", "exposed, ms", "kept"], rows)


def strong(batch: int) -> None:
    print(f"A batch of {batch} in all, f32: the images of a GPU shrink\n")
    rows = []
    for net in NETWORKS:
        one = alone(net, batch)
        for cluster in CLUSTERS:
            if batch % cluster.gpus:
                continue
            images = batch // cluster.gpus
            took = step(net, cluster, images, 4)
            filled = one / (alone(net, images) * cluster.gpus)
            linked = alone(net, images) / took
            halved = one / step(net, cluster, images, 2)
            row = [net.name, cluster.name, str(cluster.gpus), str(images), ms(took), f"{one / took:.1f}", f"{halved:.1f}"]
            rows.append([*row, f"{filled:.0%}", f"{linked:.0%}"])
    head = ["network", "links", "GPUs", "images a GPU", "step, ms", "times faster than one GPU", "with bf16"]
    table([*head, "kept by small batches", "kept by the links"], rows)


def limits(kept: float) -> None:
    print(f"Fewest images a GPU with which a step keeps {kept:.0%}\n")

    def fewest(keeps) -> str:
        return next((str(images) for images in range(1, 1025) if keeps(images) >= kept), "more than 1024")

    rows = []
    for net in NETWORKS:
        most = (alone(net, 4096) / 4096)
        for cluster in CLUSTERS:
            linked = [
                fewest(lambda images: alone(net, images) / step(net, cluster, images, value)) for value in (4, 2)
            ]
            filled = fewest(lambda images: most / (alone(net, images) / images))
            rows.append([net.name, cluster.name, str(cluster.gpus), *linked, filled])
    head = ["network", "links", "GPUs", "against the links, f32", "bf16", "against a GPU that is not full, or only updates"]
    table(head, rows)


def main() -> None:
    assumptions()
    weak()
    strong(64)
    limits(0.9)


if __name__ == "__main__":
    main()
