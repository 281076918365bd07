"""Panoptic FCN on one photograph-sized picture: ours against the plain formula, on the same inputs, interleaved.

    python benchmarks/panoptic_fcn.py        # targets, everything after the network, memory, deformable conv, parts
    python benchmarks/panoptic_fcn.py --gpu  # the network on a CUDA GPU: bf16 and torch.compile, and what they change

Every timing is a median over rounds in which the sides take turns. The equality of what they compute is checked first.
"""

import argparse
import dataclasses
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torchvision.ops import deform_conv2d

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from panoptic_fcn_plain import (
    PlainMaps,
    PlainPicture,
    PlainRules,
    crafted_maps,
    crafted_picture,
    plain_kernels,
    plain_masks,
    plain_merge,
    plain_panoptic,
    plain_targets,
)
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.deformable import deform_conv
from thingstuff.models import create
from thingstuff.models.panoptic_fcn import PanopticFCN, PanopticFCNOutput
from thingstuff.models.panoptic_fcn_targets import TargetSettings, level_targets, mask_targets
from thingstuff.structures import Images, Size, Target

RULES = PlainRules()
PLAIN, OURS = "plain formula", "ours"


@dataclass(frozen=True)
class Job:
    """What is run."""

    size: Size
    original: Size
    things: int
    stuff: int
    rounds: int
    small: bool

    @property
    def canvas(self) -> Size:
        """The padded size."""
        return -(-self.size[0] // 32) * 32, -(-self.size[1] // 32) * 32

    @property
    def shapes(self) -> list[Size]:
        """The maps of P3..P7."""
        return [(-(-self.canvas[0] // s), -(-self.canvas[1] // s)) for s in (8, 16, 32, 64, 128)]


def maps_of(job: Job) -> PlainMaps:
    """Return what the network might give for one picture."""
    torch.manual_seed(0)
    return crafted_maps(job.canvas, job.things, job.stuff)


def images_of(job: Job, device: str = "cpu") -> Images:
    """Return one normalised picture of noise and broad structures."""
    torch.manual_seed(1)
    rough = torch.nn.functional.interpolate(torch.randn(1, 3, 12, 16), job.canvas, mode="bicubic")
    pixels = (rough + 0.2 * torch.randn(1, 3, *job.canvas)).to(device).contiguous(memory_format=torch.channels_last)
    return Images(pixels, (job.size,), (job.original,))


@torch.no_grad()
def model_of(maps: PlainMaps) -> PanopticFCN:
    """Return our R50 with random weights, which embeds kernels as the maps have it."""
    torch.manual_seed(0)
    changes = {"backbone.weights": "none", "stuff_area_relative": False}
    model = create("panoptic-fcn-r50", COCO_PANOPTIC, **changes).eval()
    assert isinstance(model, PanopticFCN)
    for layer, (weight, bias) in (
        (model.thing_embedding, maps.thing_embedding),
        (model.stuff_embedding, maps.stuff_embedding),
    ):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return model


def output_of(maps: PlainMaps) -> PanopticFCNOutput:
    """Return the maps as our model gives them."""
    levels = (tuple(t[None] for t in part) for part in (maps.centres, maps.regions, maps.kernels))
    return PanopticFCNOutput(*levels, maps.feature[None])


def after_network(model: PanopticFCN, output: PanopticFCNOutput, images: Images) -> Any:
    """Network output to panoptic map, by ours."""
    return model.merge(model.segments(output, images)[0])


def target_of(picture: PlainPicture) -> Target:
    """Return annotations as our data sets give them: things and stuff alike as masks."""
    present = [c for c in picture.regions.unique().tolist() if c not in (0, 255)]
    masks = torch.cat([picture.masks, torch.stack([picture.regions == c for c in present])])
    things = torch.tensor(COCO_PANOPTIC.thing_labels)[picture.classes]
    stuff = torch.tensor(COCO_PANOPTIC.stuff_labels)[torch.tensor(present) - 1]
    boxes = torch.cat([picture.boxes, torch.zeros(len(present), 4)])
    crowd = torch.zeros(len(masks), dtype=torch.bool)
    return Target(masks, torch.cat([things, stuff]), boxes, crowd, picture.regions == 255)


def interleaved(sides: dict[str, Callable[[], Any]], rounds: int, device: str = "cpu") -> dict[str, float]:
    """Return each side's median seconds; the sides take turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            if device == "cuda":
                torch.cuda.synchronize()
            if turn:  # the first is for warming up
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in times.items()}


def table_of(title: str, times: dict[str, float], reference: str, unit: str = "seconds") -> Table:
    """Return times or megabytes, and how many times less than the reference each is."""
    table = Table("", unit, "ratio", title=title, title_justify="left")
    for name, value in times.items():
        table.add_row(name, f"{value:.3g}", f"{times[reference] / value:.1f}x" if value else "")
    return table


# ---- equality and time of each subject


def targets(job: Job, console: Console) -> None:
    """Compare the making of targets of two pictures."""
    torch.manual_seed(2)
    pictures = [crafted_picture(job.size, 30, job.stuff) for _ in range(2)]
    annotations, settings = [target_of(p) for p in pictures], TargetSettings()

    def ours() -> Any:
        masks = mask_targets(annotations, COCO_PANOPTIC, job.canvas, settings)
        return masks, level_targets(masks, job.shapes, job.canvas, settings)

    def plain() -> Any:
        return plain_targets(pictures, job.canvas, job.shapes, 80, 54)

    masks, levels = ours()
    worst = 0.0
    for b, reference in enumerate(plain()):
        for level, expected in zip(levels, reference, strict=True):
            rows = level.instance[level.picture == b]
            assert level.label[level.picture == b].tolist() == expected.classes
            assert level.cell[level.picture == b].tolist() == [list(cell) for cell in expected.cells]
            pairs = [
                (level.centres[b], expected.centres),
                (level.regions[b], expected.regions),
                (masks.things[b][rows], expected.masks[: len(rows)]),
                (masks.regions[b][expected.present], expected.stuff_masks),
            ]
            worst = max(worst, *(float((a - b).abs().amax()) for a, b in pairs if a.numel()))
    instances = " and ".join(str(len(p.masks)) for p in pictures)
    console.print(f"largest difference of a target: {worst:.1e}")
    assert worst < 1e-5
    times = interleaved({PLAIN: plain, OURS: ours}, job.rounds)
    title = f"making of targets, two {job.size[1]} x {job.size[0]} pictures, {instances} instances"
    console.print(table_of(title, times, PLAIN))


def inference(job: Job, console: Console) -> None:
    """Compare everything after the network, as a whole and by part."""
    maps, images = maps_of(job), images_of(job)
    model, output = model_of(maps), output_of(maps)
    regions, frame = len(maps.regions[0]), (job.size, job.original)
    kernels = plain_kernels(maps, RULES)
    masks = plain_masks(*kernels, maps.feature, RULES)
    (segments,) = model.segments(output, images)
    result, (ids, rows) = model.merge(segments), plain_panoptic(maps, *frame, RULES)
    changed = float((torch.from_numpy(result.ids) != ids).float().mean())
    console.print(f"after the network: {100 * changed:.4f} % of the pixels in another segment")
    found = [(s.id, COCO_PANOPTIC.things[s.label]) for s in result.segments]
    assert found == [(number, thing) for number, thing, _ in rows]
    assert changed < 1e-3
    parts = {
        f"kernels, {PLAIN}": lambda: plain_kernels(maps, RULES),
        f"kernels, {OURS}": lambda: model.kernels(output, 0),
        f"kernels and masks, {PLAIN}": lambda: plain_masks(*plain_kernels(maps, RULES), maps.feature, RULES),
        f"kernels and masks, {OURS}": lambda: model.segments(output, images),
        f"merge, {PLAIN}": lambda: plain_merge(*masks, regions, *frame, RULES),
        f"merge, {OURS}": lambda: model.merge(segments),
        f"all, {PLAIN}": lambda: plain_panoptic(maps, *frame, RULES),
        f"all, {OURS}": lambda: after_network(model, output, images),
    }
    times = interleaved(parts, job.rounds)
    title = f"after the network, {len(kernels[0][0])} things and {len(kernels[1][0])} stuff, picture of "
    table = Table("", PLAIN, OURS, "ratio", title=title + f"{job.original[1]} x {job.original[0]}")
    for name in ("kernels", "kernels and masks", "merge", "all"):
        plain, ours = times[f"{name}, {PLAIN}"], times[f"{name}, {OURS}"]
        table.add_row(name, f"{plain:.3g} s", f"{ours:.3g} s", f"{plain / ours:.1f}x")
    console.print(table)


def network(job: Job, console: Console) -> None:
    """Time the network by part, and say what bf16 and torch.compile change."""
    images, model = images_of(job), model_of(maps_of(job))
    stages = model.backbone(images.pixels)
    pyramid = model.fpn(stages)
    feature = model.semantic_fpn(pyramid)
    levels = [pyramid[level] for level in model.levels]
    parts = {
        "ResNet": lambda: model.backbone(images.pixels),
        "FPN": lambda: model.fpn(stages),
        "semantic FPN": lambda: model.semantic_fpn(pyramid),
        "encoder": lambda: model.feature_encoder(feature),
        "position head (deformable)": lambda: [model.position_head(x) for x in levels],
        "kernel head": lambda: [model.kernel_head(x) for x in levels],
    }
    times = interleaved(parts, job.rounds)
    table = Table("network by part", "seconds", "share", title="fp32, one thread")
    for name, seconds in times.items():
        table.add_row(name, f"{seconds:.3g}", f"{100 * seconds / sum(times.values()):.0f} %")
    console.print(table)
    kinds = network_kinds(model, images, "cpu", compiled=shutil.which("c++") is not None)
    what_changes(kinds, console)
    console.print(table_of("network", interleaved(kinds, job.rounds), "fp32"))


def network_kinds(
    model: PanopticFCN, images: Images, device: str, compiled: bool
) -> dict[str, Callable[[], PanopticFCNOutput]]:
    """Return ways to run the network."""

    def in_bf16(net: Callable[[Images], Any]) -> PanopticFCNOutput:
        with torch.autocast(device, torch.bfloat16):
            output: PanopticFCNOutput = net(images)
        return output.float()

    kinds: dict[str, Callable[[], PanopticFCNOutput]] = {"fp32": lambda: model(images), "bf16": lambda: in_bf16(model)}
    if compiled:
        net = torch.compile(model)
        kinds |= {"fp32, compiled": lambda: net(images), "bf16, compiled": lambda: in_bf16(net)}
    return kinds


def what_changes(kinds: dict[str, Callable[[], PanopticFCNOutput]], console: Console) -> None:
    """Print how far the logits of positions are off, and in how many cells another region is best."""
    reference = kinds["fp32"]()
    for name, kind in kinds.items():
        output = kind()
        pairs = list(zip((*output.centres, *output.regions), (*reference.centres, *reference.regions), strict=True))
        off = max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)
        feature = float((output.feature - reference.feature).abs().max() / reference.feature.abs().max())
        best = [(a.argmax(1) != b.argmax(1)).flatten() for a, b in pairs[len(output.centres) :]]
        share = 100 * float(torch.cat(best).float().mean())
        console.print(f"{name}: logits off by {off:.1e}, feature by {feature:.1e} of the largest; ", end="")
        console.print(f"{share:.2f} % of the cells with another best region")


def deformable(job: Job, console: Console) -> None:
    """Compare the deformable convolution with torchvision's, forward and with gradients."""
    channels = 32 if job.small else 256
    H, W = job.shapes[0]
    torch.manual_seed(3)
    x, offset, mask = torch.randn(1, channels, H, W), torch.randn(1, 18, H, W), torch.rand(1, 9, H, W)
    weight, bias = torch.randn(channels, channels, 3, 3) / (3 * channels**0.5), torch.randn(channels)
    given = [x, offset, mask, weight, bias]

    def theirs(x: Any, offset: Any, mask: Any, weight: Any, bias: Any) -> Any:
        return deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)

    def step(function: Callable[..., Any]) -> Any:
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in given]
            return torch.autograd.grad(function(*leaves).square().sum(), leaves)

    off = [float((deform_conv(*given) - theirs(*given)).abs().max() / theirs(*given).abs().max())]
    off += [float((a - b).abs().max() / b.abs().max()) for a, b in zip(step(deform_conv), step(theirs), strict=True)]
    console.print(f"largest difference of a deformable conv and its gradients: {max(off):.1e} of the largest value")
    assert max(off) < 1e-4
    title = f"deformable conv, {channels} channels at {H} x {W}"
    sides = {"torchvision": lambda: theirs(*given), OURS: lambda: deform_conv(*given)}
    console.print(table_of(title, interleaved(sides, job.rounds), "torchvision"))
    steps = {"torchvision": lambda: step(theirs), OURS: lambda: step(deform_conv)}
    console.print(table_of(f"{title}, with gradients", interleaved(steps, job.rounds), "torchvision"))


# ---- memory, each side in a process of its own


def resident() -> tuple[float, float]:
    """Return this process's resident and highest resident memory in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    fields = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Vm")}
    return int(fields["VmRSS"]) / 1024, int(fields["VmHWM"]) / 1024


def print_peak(side: str, job: Job) -> None:
    """Print the MB that everything after the network takes beyond weights and network output."""
    tiny = dataclasses.replace(job, size=(128, 160), original=(64, 80))
    runs = []
    for each in (tiny, job):
        maps, images = maps_of(each), images_of(each)
        model, output = model_of(maps), output_of(maps)
        runs.append(
            (lambda m=model, o=output, i=images: after_network(m, o, i))
            if side == "ours"
            else (lambda m=maps, j=each: plain_panoptic(m, j.size, j.original, RULES))
        )
    runs[0]()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
    before, _ = resident()
    runs[1]()
    print(resident()[1] - before)


def peak(side: str, arguments: list[str]) -> float:
    """Return what `print_peak` prints in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--peak", side]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Read the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds after one to warm up")
    parser.add_argument("--gpu", action="store_true", help="bf16 and torch.compile on a CUDA GPU instead")
    parser.add_argument("--small", action="store_true", help="a small picture: shows that it runs")
    parser.add_argument("--peak", choices=("ours", "plain"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    job = Job((800, 1067), (480, 640), 42, 10, arguments.rounds, arguments.small)
    if arguments.small:
        job = Job((128, 150), (96, 113), 8, 4, arguments.rounds, arguments.small)
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    console = Console()
    if arguments.peak:
        print_peak(arguments.peak, job)
        return
    if arguments.gpu:
        model = model_of(maps_of(job)).to("cuda")
        kinds = network_kinds(model, images_of(job, "cuda"), "cuda", compiled=True)
        what_changes(kinds, console)
        console.print(table_of(torch.cuda.get_device_name(), interleaved(kinds, job.rounds, "cuda"), "fp32"))
        return
    targets(job, console)
    inference(job, console)
    small = ["--small"] if arguments.small else []
    peaks = {PLAIN: peak("plain", small), OURS: peak("ours", small)}
    console.print(table_of("highest memory after the network, beyond its output", peaks, PLAIN, "MB"))
    deformable(job, console)
    network(job, console)


if __name__ == "__main__":
    main()
