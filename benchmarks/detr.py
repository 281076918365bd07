"""DETR on one photograph-sized picture: ours against Hugging Face's, equal weights, one run, interleaved.

    python benchmarks/detr.py                # time, memory, where the time goes, the training step of the mask branch
    python benchmarks/detr.py --gpu          # on a CUDA GPU: bf16 and torch.compile, and what they change

Every timing is a median over rounds in which the sides take turns. The equality of what they compute is checked first.
"""

import argparse
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from detr_plain import plain_masks
from thingstuff.coco_categories import COCO_PANOPTIC
from thingstuff.detr_weights import detr_from_hugging_face
from thingstuff.models import create
from thingstuff.models.detr import DETROutput, DETRPanoptic
from thingstuff.structures import Images
from thingstuff.weights import load_strictly

Size = tuple[int, int]
THRESHOLD = 0.85
PERSON = 1


@dataclass(frozen=True)
class Job:
    """What is run."""

    size: Size
    survivors: int
    rounds: int
    small: bool


def theirs(job: Job) -> Any:
    """Return Hugging Face's model with random weights in evaluation mode."""
    from transformers import DetrConfig, DetrForSegmentation
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.manual_seed(0)
    small = {"d_model": 128, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 12} if job.small else {}
    config = DetrConfig(
        use_timm_backbone=True, backbone="resnet50", use_pretrained_backbone=False, num_labels=250, **small
    )
    model = DetrForSegmentation(config).eval()
    for module in model.modules():  # at their first values norms hide what the layers before them do
        if isinstance(module, torch.nn.GroupNorm | torch.nn.LayerNorm):
            torch.nn.init.normal_(module.weight, 1.0, 0.1)
            torch.nn.init.normal_(module.bias, 0.0, 0.1)
    return model


def ours(model: Any, job: Job) -> DETRPanoptic:
    """Return our model with the weights of theirs, through the converter that users call."""
    small = {"hidden": 128, "encoder_layers": 1, "decoder_layers": 1, "queries": 12} if job.small else {}
    changes = {"outputs": 250, "threshold": THRESHOLD, "backbone.weights": "none", **small}
    mine = create("detr-panoptic-r50", COCO_PANOPTIC, **changes)
    load_strictly(mine, detr_from_hugging_face(model.state_dict()), "Hugging Face's model")
    assert isinstance(mine, DETRPanoptic)
    return mine.eval()


def images_of(job: Job, device: str = "cpu") -> Images:
    """Return one normalised picture of noise and broad structures."""
    torch.manual_seed(1)
    rough = torch.nn.functional.interpolate(torch.randn(1, 3, 12, 16), job.size, mode="bicubic")
    pixels = (rough + 0.2 * torch.randn(1, 3, *job.size)).to(device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)  # as our `pad` gives them
    return Images(pixels, (job.size,), (job.size,))


@torch.no_grad()
def let_survive(model: Any, pixels: torch.Tensor, count: int) -> None:
    """Shift the class bias of their model until that many queries pass the threshold."""
    head = model.detr.class_labels_classifier
    head.bias[PERSON] += 20  # a class and "no object" share all of the probability ...
    head.bias[-1] += 20
    logits = model.detr(pixels).logits[0]
    margins = (logits[:, PERSON] - logits[:, -1]).sort(descending=True).values
    edge = torch.tensor(THRESHOLD).logit()
    head.bias[PERSON] += edge - (margins[count - 1] + margins[count]) / 2  # ... and as many as wanted pass


def run_ours(model: DETRPanoptic, images: Images) -> Any:
    """Picture to panoptic map."""
    return model.merge(model.segments(model(images), images)[0])


def run_theirs(model: Any, processor: Any, images: Images) -> Any:
    """Picture to panoptic map, by their model and post-processing."""
    output = model(pixel_values=images.pixels.contiguous())
    return processor.post_process_panoptic_segmentation(
        output, threshold=THRESHOLD, label_ids_to_fuse=set(), target_sizes=[images.original[0]]
    )[0]


def differences(model: Any, mine: DETRPanoptic, images: Images) -> dict[str, float]:
    """Return the largest differences of logits, boxes and surviving masks, as a share of the largest value."""
    reference = model(pixel_values=images.pixels)
    output = mine(images)
    (segments,) = mine.segments(output, images)
    scores, labels = reference.logits[0].softmax(-1).max(-1)
    kept = ((labels < 250) & (scores > THRESHOLD)).nonzero()[:, 0]
    pairs = {
        "class logits": (output.logits[-1, 0], reference.logits[0]),
        "boxes": (output.boxes[-1, 0], reference.pred_boxes[0]),
        "surviving masks": (segments.masks, reference.pred_masks[0, kept]),
    }
    assert len(segments) == len(kept)
    return {name: float((a - b).abs().max() / b.abs().max()) for name, (a, b) in pairs.items()}


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


# ---- memory, each side in a process of its own


def resident() -> tuple[float, float]:
    """Return this process's resident and highest resident memory in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    fields = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if line.startswith("Vm")}
    return int(fields["VmRSS"]) / 1024, int(fields["VmHWM"]) / 1024


def print_peak(side: str, job: Job) -> None:
    """Print the MB that a picture takes beyond what the process has with its weights loaded."""
    from transformers import DetrImageProcessor

    model = theirs(job)
    images = images_of(job)
    tiny = Images(images.pixels[..., :64, :64], ((64, 64),), ((64, 64),))
    with torch.no_grad():
        let_survive(model, images.pixels[..., :64, :64], job.survivors)
        mine, processor = ours(model, job), DetrImageProcessor()
        run = (lambda i: run_ours(mine, i)) if side == "ours" else (lambda i: run_theirs(model, processor, i))
        run(tiny)
        let_survive(model, images.pixels, job.survivors)
        if side == "ours":
            load_strictly(mine, detr_from_hugging_face(model.state_dict()), "Hugging Face's model")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
        before, _ = resident()
        run(images)
        print(resident()[1] - before)


def peak(side: str, arguments: list[str]) -> float:
    """Return what `print_peak` prints in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--peak", side]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


# ---- the training step of the mask branch


def mask_step(
    model: DETRPanoptic, output: DETROutput, chosen: torch.Tensor, masks: Callable[[], torch.Tensor]
) -> list[torch.Tensor]:
    """Return the gradients of a plain loss on the chosen queries' masks, of the mask branch and what it reads."""
    leaves = [output.states, output.memory, output.projected, *output.stages.values()]
    parameters = [*model.attention_maps.parameters(), *model.mask_head.parameters()]
    logits = masks()
    wanted = (torch.linspace(0, 20, logits.shape[-1]) + torch.arange(len(chosen))[:, None, None]).sin() > 0
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted.float().expand_as(logits))
    return list(torch.autograd.grad(loss, [*parameters, *leaves]))


def training_sides(job: Job, model: DETRPanoptic) -> dict[str, Callable[[], list[torch.Tensor]]]:
    """Return a training step of the mask branch by the plain formula for all queries, and ours for those matched."""
    size = (128, 160) if job.small else (512, 640)
    images = images_of(Job(size, job.survivors, job.rounds, job.small))
    with torch.no_grad():
        output = model(images)
    for leaf in (output.states, output.memory, output.projected, *output.stages.values()):
        leaf.requires_grad_(True)
    everything = torch.arange(model.config.queries)
    chosen = everything[:: max(1, len(everything) // 8)][:8]
    return {
        "plain formula, all queries": lambda: mask_step(
            model, output, chosen, lambda: plain_masks(model, output, 0, everything)[chosen]
        ),
        "ours, the 8 matched": lambda: mask_step(model, output, chosen, lambda: model.masks(output, 0, chosen)),
    }


# ---- tables


def table_of(title: str, times: dict[str, float], reference: str, unit: str = "seconds") -> Table:
    """Return times or megabytes, and how many times less than the reference each is."""
    table = Table("", unit, "ratio", title=title, title_justify="left")
    for name, value in times.items():
        table.add_row(name, f"{value:.3g}", f"{times[reference] / value:.1f}x")
    return table


def where_time_goes(model: DETRPanoptic, images: Images, rounds: int) -> dict[str, float]:
    """Return the seconds of each part of a prediction."""
    output = model(images)
    (segments,) = model.segments(output, images)
    whole = interleaved(
        {
            "backbone": lambda: model.backbone(images.pixels),
            "forward": lambda: model(images),
            "masks of the survivors": lambda: model.segments(output, images),
            "merging": lambda: model.merge(segments),
        },
        rounds,
    )
    whole["transformer and heads"] = whole.pop("forward") - whole["backbone"]
    return whole


def on_cpu(job: Job, arguments: list[str], console: Console) -> None:
    """Print the comparison on one core."""
    from transformers import DetrImageProcessor

    torch.set_num_threads(1)
    model, images, processor = theirs(job), images_of(job), DetrImageProcessor()
    with torch.no_grad():
        let_survive(model, images.pixels, job.survivors)
        mine = ours(model, job)
        for name, value in differences(model, mine, images).items():
            console.print(f"largest difference of {name}: {value:.1e} of the largest value")
            assert value < 1e-3, name
        sides = {
            "Hugging Face": lambda: run_theirs(model, processor, images),
            "ours": lambda: run_ours(mine, images),
        }
        times = interleaved(sides, job.rounds)
        title = f"one {job.size[1]} x {job.size[0]} picture, {job.survivors} survivors, fp32, one thread"
        console.print(table_of(title, times, "Hugging Face"))
        parts = where_time_goes(mine, images, job.rounds)
        whole = sum(parts.values())
        table = Table("ours: where the time goes", "seconds", "share")
        for name, seconds in sorted(parts.items(), key=lambda part: -part[1]):
            table.add_row(name, f"{seconds:.3g}", f"{100 * seconds / whole:.0f} %")
        console.print(table)
    peaks = {"Hugging Face": peak("theirs", arguments), "ours": peak("ours", arguments)}
    console.print(table_of("highest memory beyond the weights", peaks, "Hugging Face", "MB"))
    steps = training_sides(job, mine)
    plain, matched = (side() for side in steps.values())
    largest = max(float(gradient.abs().max()) for gradient in plain)
    worst = max(float((a - b).abs().max()) for a, b in zip(plain, matched, strict=True)) / largest
    console.print(f"largest difference of a gradient: {worst:.1e} of the largest gradient")
    assert worst < 1e-3
    times = interleaved(dict(steps), job.rounds)
    console.print(table_of("training step of the mask branch", times, "plain formula, all queries"))


def on_gpu(job: Job, console: Console) -> None:
    """Print what bf16 and torch.compile gain on a CUDA GPU and what they change."""
    model = theirs(job)
    with torch.no_grad():
        let_survive(model, images_of(job).pixels, job.survivors)
    mine, images = ours(model, job).to("cuda"), images_of(job, "cuda")
    compiled = torch.compile(mine)

    def in_bf16(net: Any) -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            output = net(images)
        return mine.segments(output, images)[0]

    with torch.no_grad():
        kinds: dict[str, Callable[[], Any]] = {
            "fp32": lambda: mine.segments(mine(images), images)[0],
            "fp32, compiled": lambda: mine.segments(compiled(images), images)[0],
            "bf16": lambda: in_bf16(mine),
            "bf16, compiled": lambda: in_bf16(compiled),
        }
        reference = mine.merge(kinds["fp32"]())
        for name, kind in kinds.items():
            changed = (mine.merge(kind()).ids != reference.ids).mean()
            console.print(f"{name}: {100 * changed:.3f} % of the pixels in another segment than in fp32")
        console.print(table_of(torch.cuda.get_device_name(), interleaved(kinds, job.rounds, "cuda"), "fp32"))


def main() -> None:
    """Read the arguments and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds after one to warm up")
    parser.add_argument("--gpu", action="store_true", help="bf16 and torch.compile on a CUDA GPU instead")
    parser.add_argument("--small", action="store_true", help="a narrow model and a small picture: shows that it runs")
    parser.add_argument("--peak", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    job = Job(
        (96, 128) if arguments.small else (800, 1067), 5 if arguments.small else 15, arguments.rounds, arguments.small
    )
    if arguments.peak:
        torch.set_num_threads(1)
        print_peak(arguments.peak, job)
    elif arguments.gpu:
        on_gpu(job, Console())
    else:
        on_cpu(job, ["--small"] if arguments.small else [], Console())


if __name__ == "__main__":
    main()
