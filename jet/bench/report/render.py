"""Render a report as blocks, section by section, from the data in report.json only."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jet.bench.format import byte_size, median, number, quantity, quartiles
from jet.bench.report import published
from jet.bench.report.blocks import Block, Heading, Paragraph, Picture, Table
from jet.bench.report.data import Report
from jet.bench.report.efficiency import int8_speedup, time_breakdown
from jet.bench.report.gpu_specs import find_gpu_spec
from jet.bench.report.sweeps import BATCH_CONTEXT
from jet.modeling.quantization import SCHEMES

NOISY_SPREAD = 0.1  # of the median, between the quartiles
BUSY = 0.5  # processes that wait for a processor, over processors, before the run


def blocks(report: Report, pictures: dict[str, str]) -> list[Block]:
    """Render all sections. `pictures`: file name → caption."""
    return [
        *_summary(report),
        *_machine(report),
        *_loading(report),
        *_efficiency(report),
        *_variants(report),
        *_context_sweep(report),
        *_batch_sweep(report),
        *_published(),
        *_projections(report),
        *_plots(pictures),
    ]


def _missing(report: Report, name: str) -> Paragraph:
    return Paragraph(f"Not measured: {report.reason(name)}.")


def _summary(report: Report) -> Iterator[Block]:
    options, machine = report.document["options"], report.document["machine"]
    yield Heading("Performance report", 1)
    weights = ", random weights" if options["config"] else ""
    how = "full" if options["full"] else "quick"
    name = options["model"] or options["config"]
    yield Paragraph(
        f"{name}{weights} on {machine['device_name']} ({machine['device']}), {how} run of "
        f"{report.document['created']}. Medians, quartiles beside them; every figure can be recomputed from "
        "report.json."
    )
    if report.document["stopped"]:
        yield Paragraph(f"The run was {report.document['stopped']}: this is what it got to.", strong=True)
    yield from _noise(report)


def noisy_metrics(report: Report) -> list[str]:
    """Return the names of the figures whose quartiles are more than 10 % of the median apart."""
    return [
        path
        for path, figure in report.metrics()
        if figure["median"] and (figure["q3"] - figure["q1"]) / figure["median"] > NOISY_SPREAD
    ]


def _noise(report: Report) -> Iterator[Block]:
    machine = report.document["machine"]
    load, processors = machine["load"], machine["processors"]
    if load is not None and processors and load > BUSY * processors:
        yield Paragraph(
            f"This machine was busy when the run began (load {load} on {processors} processors): "
            "the figures are those of a machine that did other things too.",
            strong=True,
        )
    found, every = noisy_metrics(report), len(list(report.metrics()))
    if found:
        yield Paragraph(
            f"Noisy: of {every} figures, {len(found)} have quartiles more than {NOISY_SPREAD:.0%} of the "
            f"median apart: {', '.join(found)}."
        )
    elif every:
        yield Paragraph(f"Steady: no quartiles of {every} figures lie more than {NOISY_SPREAD:.0%} apart.")


def _machine(report: Report) -> Iterator[Block]:
    machine = report.document["machine"]
    yield Heading("1. Hardware and software")
    accelerators = ", ".join(f"{name} {version}" for name, version in machine["accelerators"].items())
    efficiency = report.data("standing")
    kernels = efficiency["network"]["kernels"] if efficiency else {}
    rows = [
        ("device", f"{machine['device_name']} ({machine['device']})"),
        ("compute capability", machine["capability"] or "not measured: no CUDA device"),
        ("driver, CUDA", f"{machine['driver']}, {machine['cuda']}" if machine["driver"] else "–"),
        ("memory", byte_size(machine["memory"])),
        ("device memory", byte_size(machine["device_memory"])),
        ("system", f"{machine['system']}, {machine['processors']} processors, load {machine['load']}"),
        ("python, torch, transformers", ", ".join(map(str, (machine[n] for n in _VERSIONS)))),
        ("optional packages found", accelerators or "none"),
        ("what computes a token", "; ".join(f"{k}: {v}" for k, v in kernels.items()) or "–"),
    ]
    yield Table(("", ""), rows)
    data = report.data("bandwidth")
    if data is None:
        yield _missing(report, "bandwidth")
        return
    spec = find_gpu_spec(machine["device_name"])
    yield Table(
        ("measured", "median", "quartiles", "data sheet"),
        [
            (figure["label"], median(figure), quartiles(figure), _sheet(spec, name))
            for name, figure in data["figures"].items()
        ],
    )


_VERSIONS = ("python", "torch", "transformers")


def _sheet(spec: Any, name: str) -> str:
    if spec is None:
        return "not known"
    if name == "copy":
        return quantity(spec.bandwidth, "B/s")
    return "–" if name == "product_float32" else quantity(spec.throughput, "FLOP/s")


def _loading(report: Report) -> Iterator[Block]:
    yield Heading("2. From loading to the last token")
    data = report.data("loading")
    if data is None:
        yield _missing(report, "loading")
        return
    rows = [
        (figure["label"], median(figure), quartiles(figure), published.BASELINE_REPORT[name])
        for name, figure in data["figures"].items()
    ]
    rows.append(("memory of the process", byte_size(data["process_bytes"]), "–", "–"))
    device = byte_size(data["device_bytes"]) if data["device_bytes"] else "not measured: no CUDA device"
    rows.append(("most memory on the device", device, "–", published.BASELINE_REPORT["memory"]))
    yield Table(("", "median", "quartiles", f"original report: {published.BASELINE_REPORT_HARDWARE}"), rows)
    once, reload = data["once"]["total"], data["reload"]["total"]
    yield Paragraph(
        f"{data['requests']} requests of {data['tokens']} tokens take {quantity(once, 's')} with one load, "
        f"{quantity(reload, 's')} with a load for each, {reload / once:.2f} times as long. Imports are not "
        "counted. The original report's figures are of another machine and of the network in its heading."
    )
    if report.document["options"]["config"]:
        yield Paragraph("Random weights are drawn where they are used, which is quicker than reading them.")


def verdict(report: Report) -> str:
    """Return one sentence about the reached bandwidth utilization; "" if it was not measured."""
    efficiency = report.data("standing")
    if efficiency is None:
        return ""
    share = efficiency["shares"]["engine"]
    summary = f"{share:.0%} of what this {'spec' if _on_gpu(report) else 'machine'} can do at these bytes"
    speedup, measured = int8_speedup(efficiency), _measured_int8(report)
    if speedup is None:
        return f"{summary}."
    if measured is None:
        return f"{summary}; one byte a weight would give about {speedup:.1f}× at the same share."
    return (
        f"{summary}; int8 writes {measured:.1f}× as fast, of the {speedup:.1f}× that its bytes would allow."
    )


def _measured_int8(report: Report) -> float | None:
    """Return the speedup of int8 weights over the network's own dtype; None if not measured."""
    efficiency = report.data("standing")
    names = ("int8", efficiency["network"]["dtype"]) if efficiency else ()
    found = [report.data(f"variant.{name}.ours") for name in names]
    speeds = [data["figures"]["decode"]["median"] for data in found if data is not None]
    return speeds[0] / speeds[1] if len(speeds) == 2 else None


def _on_gpu(report: Report) -> bool:
    return str(report.document["machine"]["device"]).startswith("cuda")


def _efficiency(report: Report) -> Iterator[Block]:
    yield Heading("3. Where we stand")
    efficiency = report.data("standing")
    if efficiency is None:
        yield _missing(report, "standing")
        yield from _kernels(report)
        return
    yield Paragraph(verdict(report), strong=True)
    settings, floor, engine = efficiency["settings"], efficiency["floor"], efficiency["figures"]["engine"]
    parts = ", ".join(
        f"{name} {byte_size(floor[name])}"
        for name in ("weights", "recurrent", "conv", "window_kv", "full_kv")
    )
    held = efficiency["network"].get("quantization")
    weights = f" with {held} weights" if held else ""
    cache = " That copy is partly a cache's: the network fits." if efficiency["bandwidth"]["in_cache"] else ""
    yield Paragraph(
        f"{efficiency['network']['dtype']}{weights}, batch {settings['batch']}, "
        f"{settings['context']:,} tokens of context: one token moves {byte_size(floor['total'])} ({parts}). "
        f"The best copy here runs at {quantity(efficiency['bandwidth']['best'], 'B/s')}, so a token takes "
        f"{quantity(floor['seconds'], 's')} or more: the ceiling is {number(1 / floor['seconds'])} tok/s."
        f"{cache}"
    )
    yield Table(
        ("", "median", "quartiles", "share of the ceiling"),
        [
            (efficiency["figures"][n]["label"], median(efficiency["figures"][n]),
             quartiles(efficiency["figures"][n]), f"{efficiency['shares'][n]:.1%}")
            for n in ("engine", "bare")
        ],
    )  # fmt: skip
    token = 1 / engine["median"]
    yield Table(
        ("where the time of a token goes", "time", "share"),
        [
            (name, quantity(seconds, "s"), f"{seconds / token:.1%}")
            for name, seconds in time_breakdown(efficiency, report.data("kernels")).items()
        ],
    )
    yield from _kernels(report)


def _kernels(report: Report) -> Iterator[Block]:
    data = report.data("kernels")
    if data is None:
        yield Paragraph(f"The operations of a step were not measured: {report.reason('kernels')}.")
        return
    rows = [
        (figure["label"], median(figure), quartiles(figure),
         median(data["ratios"][name]) if name in data["ratios"] else "–")
        for name, figure in data["figures"].items()
    ]  # fmt: skip
    yield Table(("operations of one step", "median", "quartiles", "bytes moved at"), rows)


def _variants(report: Report) -> Iterator[Block]:
    yield Heading("4. Attention and data types")
    rows = []
    for name, part in report.under("variant.").items():
        dtype, how = name.split(".")
        if part["data"] is None:
            rows.append((dtype, how, f"not measured: {part['reason']}", "–", "–", "–", "–"))
            continue
        figure, far = part["data"]["figures"]["decode"], part["data"]["deviation"]
        relative = "–" if far["relative"] is None else f"{far['relative']:.2g}"
        agreement = f"{far['agreement']:.1%} of {far['positions']}"
        rows.append(
            (dtype, how, median(figure), quartiles(figure), relative, f"{far['logprob']:.2g}", agreement)
        )
    head = ("type", "attention", "decode", "quartiles", "logits off by", "log-probability", "same best token")
    yield Table(head, rows)
    yield Paragraph(
        "Deviation is from the same network in float64 on a fixed text: the distance of all logits over "
        "their length, the largest difference in the log-probability of a token (nats), and how often the "
        "likeliest token is the same. “ours” is the path that stories take, compared over what it writes "
        "after that text; the others are generate() with that attention."
    )
    if report.document["options"]["config"]:
        yield Paragraph("Random weights amplify rounding: what was trained is off by less.")
    if any(row[0] in SCHEMES for row in rows):
        yield Paragraph(
            "In the rows int8 and int4 nothing but the weights is held so; their speed is that of stories, "
            "their deviation that of all logits."
        )


def _context_sweep(report: Report) -> Iterator[Block]:
    yield Heading("5. Context and batch")
    yield Paragraph(
        "Full attention is a network of the same depth, width and parameter count with full attention in "
        "every layer, the shape of Qwen2.5, and random weights. It runs through the same runner and kernels "
        "as ours, measured in turn with it, both in the bare loop. Over the batch every story reads "
        f"{BATCH_CONTEXT} tokens at most, one after the other, and then all write together. Memory is what "
        "is kept of the text, weights not counted."
    )
    yield Paragraph(
        "The prefill of full attention is that of this engine and this version, and no measure of what "
        "prompts are read with elsewhere: on one H200, plain transformers read them 3 to 4.5 times as fast "
        "as full attention here did before the kernels of whole chunks. `python -m jet.bench prefill "
        "--baseline transformers` compares ours with plain transformers in one run."
    )
    yield _sweep(report, "context.", "context")


def _batch_sweep(report: Report) -> Iterator[Block]:
    yield _sweep(report, "batch.", "batch")


_SWEPT = ("ours.decode", "full.decode", "ours.prefill", "full.prefill")


def _sweep(report: Report, prefix: str, title: str) -> Table:
    rows = []
    for point, part in report.under(prefix).items():
        data = part["data"]
        if data is None:
            rows.append((f"{int(point):,}", f"not measured: {part['reason']}", *["–"] * 7))
            continue
        f = data["figures"]
        found = {key: median(f[key]) if key in f else "out of memory" for key in _SWEPT}
        ratio = "–"
        if not data["failed"]:
            ratio = f"{f['ours.decode']['median'] / f['full.decode']['median']:.2f}"
        samples = quartiles(f["ours.decode"]) if "ours.decode" in f else "–"
        rows.append((
            f"{data[title]:,}", found["ours.decode"], samples, found["full.decode"], ratio,
            found["ours.prefill"], found["full.prefill"],
            byte_size(data["memory"]["ours"]), byte_size(data["memory"]["full"]),
        ))  # fmt: skip
    head = (title, "decode, ours", "quartiles", "full attention", "ours / full", "prefill, ours",
            "full attention", "memory, ours", "full attention")  # fmt: skip
    return Table(head, rows)


def _published() -> Iterator[Block]:
    yield Paragraph(f"Published, not measured here ({published.PAPER}):")
    yield Table(
        ("context", "prefill, Jet-Nemotron-2B over Qwen3-1.7B", "decode, the same"),
        [(f"{n:,}", f"{pre}×", f"{dec}×") for n, (pre, dec) in published.PAPER_SPEED_UP.items()],
    )
    yield Table(
        ("network at 64K", "tok/s", "batch"),
        [
            (n, f"{speed:,}", "not given" if b is None else str(b))
            for n, (speed, b) in published.PAPER_64K.items()
        ],
    )
    yield Paragraph(
        "What carries over: memory that hardly grows with the text, and so larger batches and a decode speed "
        "that hardly falls. What does not: the factors. The paper's compare networks of unlike size, each at "
        "the largest batch that one H100 holds; with one sequence and a short text both read their weights "
        "once a token, and the networks allow about the same speed, as the two columns above show. The "
        "original report's 10.7 tok/s "
        f"({published.BASELINE_REPORT_HARDWARE}) was 12 % of what that card's bandwidth allows."
    )


def _projections(report: Report) -> Iterator[Block]:
    yield Heading("6. Projections for other cards")
    data = report.data("projections")
    if data is None:
        yield Paragraph(f"Not projected: {report.reason('projections')}.")
        return
    share = data["share"]
    reached = "What share of that would be reached, a run on a CPU cannot say."
    if share is not None:
        reached = f"Beside it stands {share:.1%} of that, the share reached here."
    yield Paragraph(
        "Arithmetic, not measured: the data sheet's bandwidth over the bytes of a token, batch 1. "
        f"{reached} A network of some megabytes is limited by launches and not by bytes: its ceilings are "
        "out of reach."
    )
    networks = data["networks"]
    titles = [f"{name} ({byte_size(network['bytes'])})" for name, network in networks.items()]
    rows = [
        [row[0]["card"], quantity(row[0]["bandwidth"], "B/s"), *map(_projected, row)]
        for row in zip(*(network["rows"] for network in networks.values()), strict=True)
    ]
    yield Table(("card", "bandwidth", *titles), rows)


def _projected(row: dict[str, Any]) -> str:
    if not row["fits"]:
        return "does not fit"
    if row["projected"] is None:
        return f"ceiling {number(row['ceiling'])} tok/s"
    return f"{number(row['projected'])} of {number(row['ceiling'])} tok/s"


def _plots(pictures: dict[str, str]) -> Iterator[Block]:
    yield Heading("7. Plots")
    if not pictures:
        yield Paragraph("None: matplotlib is not installed, or nothing was measured that could be drawn.")
    for file, caption in pictures.items():
        yield Picture(file, caption)
