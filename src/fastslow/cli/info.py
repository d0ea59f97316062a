"""`fastslow info`: describe this installation, a preset, a run or a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.table import Table

from fastslow.cli.common import (
    RUNS,
    Device,
    Flag,
    check_path,
    find_device,
    output,
    plural,
    print_json,
    weights_text,
)
from fastslow.data.alphabet import Alphabet
from fastslow.data.corpora import CORPORA
from fastslow.lm import files
from fastslow.lm.config import LMConfig, ModelOptions
from fastslow.lm.packaged import CARD_FILE, is_packaged, packaged, packaged_models
from fastslow.training.config import TrainConfig
from fastslow.training.folder import RESULT_FILE, RUN_FILE, read_record, read_result
from fastslow.training.presets import PRESETS, Preset, find_preset

PRESET_NAMES = (
    "CORPUS-NETWORK is a network of the paper, or a baseline of equal size, by the paper's recipe; ending in -cpu,\n"
    "by our recipe for CPUs. ptb-cpu and ptb-cpu-* are small networks; study-* belong to the study of the dynamics."
)

if TYPE_CHECKING:
    import torch

    from fastslow.backends.base import Problem
    from fastslow.lm import CharLM


def info(
    name: Annotated[
        str | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PRESET|RUN|MODEL]", help_behavior_hint="")
    ] = None,
    *,
    device: Device = None,
    json: Flag = False,
) -> None:
    """Describe a preset, a run or a model: its weights, sizes, wiring, memory, and the engine that would run it.

    Without a name: versions, devices, engines (and why some cannot run), presets, bundled models and runs.

    Args:
        name: a preset, the folder of a run or model, or english for the bundled model
        device: the device to describe, such as cpu or cuda:1
        json: print it as JSON
    """
    where = find_device(device)
    if name is None:
        facts = _installation(where)
        print_json(facts) if json else _print_installation(facts)
        return
    if name not in PRESETS and (os.sep in name or Path(name).exists() or packaged(name) is not None):
        config, recipe, about = _of_run(name)
    else:
        preset = find_preset(name)
        config, recipe, about = preset_config(preset), preset.train, {"preset": name, "summary": preset.summary}
    facts = {**about, **describe_model(config, recipe, where)}
    print_json(facts) if json else _print_model(facts)


def preset_config(preset: Preset) -> LMConfig:
    """A preset's model with an alphabet of its corpus's size."""
    size = 256 if preset.alphabet == "bytes" or preset.corpus not in CORPORA else CORPORA[preset.corpus].alphabet_size
    return preset.model.with_alphabet(Alphabet(bytes(range(size))))


def _of_run(name: str) -> tuple[LMConfig, TrainConfig | None, dict[str, Any]]:
    check_path(name)
    folder = files.find_folder(name)
    config = files.read_config(folder)
    if is_packaged(folder):
        return config, None, {"model": folder.name, "bundled": _bundled(folder)}
    if not (folder / RUN_FILE).is_file():
        return config, None, {"model": name}
    record = read_record(folder)
    about: dict[str, Any] = {"run": name, "data": dict(record.data), "started": None, "result": None}
    if record.sessions:
        about["started"] = record.sessions[0].get("started")
        about["command"] = record.sessions[0].get("command")
    if (folder / RESULT_FILE).is_file():
        about["result"] = read_result(folder)
    return config, record.train, about


def _bundled(folder: Path) -> dict[str, Any]:
    """A bundled model's size on the disk, its identifier in archives, and its card."""
    from fastslow.codec.models import exact_model
    from fastslow.lm import CharLM

    return {
        "folder": str(folder),
        "bytes": sum((folder / name).stat().st_size for name in (files.CONFIG_FILE, files.WEIGHTS_FILE)),
        "archive_id": exact_model(CharLM.from_pretrained(folder, device="cpu")).id.hex(),
        "card": str(folder / CARD_FILE),
    }


def describe_model(config: LMConfig, recipe: TrainConfig | None, device: torch.device) -> dict[str, Any]:
    """Parameters, sizes, wiring, memory and engines of a model, as a JSON object, without allocating weights."""
    from fastslow.lm import CharLM

    lm = CharLM(config, device="meta")
    sizes = {name: tuple(value.shape) for name, value in lm.named_parameters()}
    facts: dict[str, Any] = {
        "parameters": lm.num_parameters,
        "bytes_fp32": 4 * lm.num_parameters,
        "network": config.options_json(),
        "alphabet": config.alphabet.size,
        "tensors": {name: list(shape) for name, shape in sizes.items()},
        "wiring": _wiring(lm),
        "streaming_engine": _engine(lm, device, 1, 1, training=False),
    }
    if recipe is not None:
        facts["recipe"] = recipe.to_json()
        facts["training_engine"] = _engine(lm, device, recipe.window, recipe.batch, training=True)
        facts["training_bytes"] = _training_bytes(lm, recipe)
    return facts


def _wiring(lm: CharLM) -> list[dict[str, Any]]:
    layer = lm.layer
    return [
        {
            "cell": node.cell_name,
            "state": node.slot,
            "size": layer.hidden_sizes[node.slot],
            "reads": node.input,
            "parameters": sum(p.numel() for p in cell.parameters()),
        }
        for node, cell in zip(layer.wiring.nodes, layer.node_cells(), strict=True)
    ]


def _training_bytes(lm: CharLM, recipe: TrainConfig) -> dict[str, int]:
    """Memory that training needs, in fp32: four values per weight, and what a window saves for backward."""
    symbols = recipe.batch * recipe.window
    # A cell saves its four gates, h and c; the gradient of the logits is as large as the logits.
    kept = sum(6 * weights.hidden_size for weights in lm.layer.weights())
    kept += lm.config.embedding_size + lm.config.hidden_size + 2 * lm.config.alphabet.size
    return {"weights_gradients_adam": 16 * lm.num_parameters, "window": 4 * symbols * kept}


def _engine(lm: CharLM, device: torch.device, steps: int, rows: int, *, training: bool) -> dict[str, Any]:
    """The engine that would run such a window, and why no faster one can."""
    from fastslow.backends import choose

    choice = choose(_problem(lm, device, steps, rows, training=training))
    return {"engine": choice.name, "device": str(device), "refused": choice.refused}


def _problem(lm: CharLM, device: torch.device, steps: int, rows: int, *, training: bool) -> Problem:
    import torch

    from fastslow.backends.base import Problem

    return Problem(
        device=device,
        dtype=torch.float32,
        steps=steps,
        rows=rows,
        wiring=lm.layer.wiring,
        hidden_sizes=tuple(weights.hidden_size for weights in lm.layer.weights()),
        needs_grad=training,
        training=training,
        layer_norm=lm.config.layer_norm,
        autocast=None,
        traced=False,
    )


# ---------------------------------------------------------------------- this installation


def _installation(device: torch.device) -> dict[str, Any]:
    import torch

    from fastslow.backends import ENGINES, objection
    from fastslow.lm import CharLM, parameter_count
    from fastslow.training.folder import machine, versions

    preset = PRESETS["demo"]
    lm = CharLM(preset_config(preset), device="meta")
    problem = _problem(lm, device, preset.train.window, preset.train.batch, training=True)
    refusals = {name: objection(name, problem) for name in ENGINES}
    engines = {name: "runs" if reason is None else f"no: {reason}" for name, reason in refusals.items()}
    presets = {
        name: {
            "parameters": parameter_count(preset_config(p)),
            "network": _sizes(p.model),
            "corpus": p.corpus,
            "summary": p.summary,
        }
        for name, p in PRESETS.items()
    }
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "versions": versions(),
        "machine": machine(str(device)),
        "gpus": gpus,
        "device": str(device),
        "engines": engines,
        "presets": presets,
        "bundled": list(packaged_models()),
        "runs": sorted(str(path.parent) for path in RUNS.glob(f"*/{files.CONFIG_FILE}")),
    }


def _sizes(model: ModelOptions) -> str:
    if model.architecture == "fs-lstm":
        return f"fs-lstm-{model.depth}, fast {model.hidden_size}, slow {model.slow_size}"
    return f"{model.architecture}-{model.depth}, {model.hidden_size}"


def _print_installation(facts: dict[str, Any]) -> None:
    console = output()
    machine = facts["machine"]
    print(", ".join(f"{name} {version}" for name, version in facts["versions"].items()))
    cores, threads = plural(machine["cores"] or 1, "core"), plural(machine["threads"], "thread")
    print(f"{machine['processor']}, {cores}, {threads}; {machine['system']}")
    print(f"GPUs: {', '.join(facts['gpus']) or 'none'}; default device {facts['device']}")
    print(f"\nengines, fastest first, for training the demo preset on {facts['device']}:")
    for name, state in facts["engines"].items():
        print(f"  {name:<10} {state}")
    print()
    table = Table("preset", "parameters", "network", "corpus", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, preset in facts["presets"].items():
        table.add_row(name, f"{preset['parameters']:,}", preset["network"], preset["corpus"])
    console.print(table)
    print(f"\n{PRESET_NAMES}")
    boxed = [f"{name} ({weights_text(folder)})" for name, folder in packaged_models().items()]
    print(f"\nbundled models: {', '.join(boxed) or 'none'}")
    print(f"runs: {', '.join(facts['runs']) or 'none in runs/ yet'}")


def _print_model(facts: dict[str, Any]) -> None:
    if "summary" in facts:
        print(f"{facts['preset']}: {facts['summary']}")
    else:
        print(facts.get("run") or facts.get("model"))
    if "bundled" in facts:
        box = facts["bundled"]
        print(
            f"bundled, {_megabytes(box['bytes'])} as 16-bit integers; archives identify it as {box['archive_id'][:16]}"
        )
        print(f"model card: {box['card']}")
    _print_run(facts)
    print(
        f"\n{facts['parameters']:,} parameters, {_megabytes(facts['bytes_fp32'])} in fp32; {facts['alphabet']} symbols"
    )
    rates = {name: facts["network"][name] for name in ("dropout", "zoneout_h", "zoneout_c")}
    shown = [f"{name} {value:g}" for name, value in rates.items() if value]
    print(f"embedding {facts['network']['embedding_size']}" + "".join(f", {rate}" for rate in shown))
    print("\none step, in order:")
    table = Table("cell", "state", "size", "reads", "parameters", box=None, pad_edge=False)
    for column in (2, 4):
        table.columns[column].justify = "right"
    for node in facts["wiring"]:
        table.add_row(
            node["cell"], node["state"], str(node["size"]), node["reads"] or "nothing", f"{node['parameters']:,}"
        )
    output().print(table)
    if "recipe" in facts:
        _print_recipe(facts)
    _print_engine("one step at a time", facts["streaming_engine"])


def _print_run(facts: dict[str, Any]) -> None:
    if "data" not in facts:
        return
    if facts.get("started"):
        print(f"started {facts['started']}" + (f" by `{facts['command']}`" if facts.get("command") else ""))
    for part, text in facts["data"].items():
        if text:
            print(f"  {part:<6} {text['bytes']:,} bytes of {text['name']}")
    result = facts["result"]
    if result is None:
        print("not finished: `fastslow train --resume --out DIR` continues it")
        return
    test = result.get("test")
    best = f", best validation {result['best_bpc']:.4f} BPC" if result.get("best_bpc") is not None else ""
    print(
        f"finished after {result['updates']:,} training steps in {result['seconds']:,.0f} s{best}"
        + (f", test {test['bpc']:.4f} BPC" if test else "")
    )


def _print_recipe(facts: dict[str, Any]) -> None:
    recipe, memory = facts["recipe"], facts["training_bytes"]
    ends = [plural(recipe["epochs"], "epoch")]
    if recipe["max_updates"] is not None:
        ends.append(plural(recipe["max_updates"], "training step"))
    if recipe["max_time"] is not None:
        ends.append(f"{recipe['max_time']:g} s")
    print(
        f"\ntraining: {recipe['batch']} streams x {recipe['window']} steps, Adam at {recipe['rate']:g} "
        f"({recipe['schedule']}), clip {recipe['clip']:g}; at most {', '.join(ends)}"
    )
    print(
        f"memory: {_megabytes(memory['weights_gradients_adam'])} for weights, gradients and optimizer state, "
        f"at least {_megabytes(memory['window'])} for a window"
    )
    _print_engine("training", facts["training_engine"])


def _print_engine(what: str, facts: dict[str, Any]) -> None:
    print(f"engine, {what} on {facts['device']}: {facts['engine']}")
    for name, reason in facts["refused"].items():
        print(f"  not {name}: {reason}")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count < 1e9 else f"{count / 1e9:,.2f} GB"
