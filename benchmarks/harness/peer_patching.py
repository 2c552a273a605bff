"""The same patching sweep by TransformerLens, nnsight or pyvene, run by its own Python: one JSON line per line read.

In: argv[1] the tool, argv[2] a JSON file with the model folder and the runs' token ids and sites; then `{"run", "way"}` per
line on stdin. Out: seconds and rewards of all sites. It imports nothing of rewarden.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import plain
import torch
from transformers import AutoTokenizer, LlamaForCausalLM
from transformers.utils import logging

Way = Callable[[torch.Tensor, torch.Tensor, plain.Record, list[plain.Site]], torch.Tensor]
"""Base ids [1, T], source ids [1, T], what the source run left, sites → reward of every site."""


def transformer_lens(folder: str) -> dict[str, Way]:
    """`run_with_hooks` of the bridge, once per site; a causal model whose logit 0 is the reward stands for the classifier."""
    from transformer_lens.model_bridge import TransformerBridge

    classifier = plain.load(folder)
    twin = LlamaForCausalLM._from_config(classifier.config, attn_implementation="eager").eval().requires_grad_(False)
    twin.model.load_state_dict(classifier.model.state_dict())
    twin.lm_head.weight.zero_()
    twin.lm_head.weight[0] = classifier.score.weight[0]
    twin.config.architectures = ["LlamaForCausalLM"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as scratch:  # the bridge reads a configuration from a folder
        twin.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        bridge = TransformerBridge.boot_transformers(scratch, hf_model=twin, tokenizer=tokenizer, device="cpu")
    bridge.eval()

    def run(base: torch.Tensor, _: torch.Tensor, source: plain.Record, sites: list[plain.Site]) -> torch.Tensor:
        found = []
        for kind, layer, position, _head in sites:
            def put(hidden, hook, position=position, value=source[kind][layer][position]):
                hidden[:, position] = value
                return hidden

            with torch.inference_mode():
                found.append(bridge.run_with_hooks(base, fwd_hooks=[(f"blocks.{layer}.hook_{kind}", put)])[0, -1, 0])
        return torch.stack(found)

    return {"run_with_hooks": run}


def nnsight(folder: str) -> dict[str, Way]:
    """One trace per site, or one trace of eight invokes."""
    from nnsight.modeling.transformers import TransformersModel

    model = TransformersModel(plain.load(folder), tokenizer=AutoTokenizer.from_pretrained(folder))

    def run(base: torch.Tensor, source: plain.Record, sites: list[plain.Site], together: int) -> torch.Tensor:
        ids, found = base[0].tolist(), []
        for start in range(0, len(sites), together):
            saved = []
            with torch.no_grad(), model.trace() as tracer:
                for kind, layer, position, _head in sites[start:start + together]:
                    value = source[kind][layer][position]
                    with tracer.invoke(ids):
                        if kind == "resid_pre":
                            hidden = model.model.layers[layer].input.clone()
                            hidden[:, position] = value
                            model.model.layers[layer].input = hidden
                        elif kind == "attn_out":
                            out = model.model.layers[layer].self_attn.output
                            hidden = out[0].clone()
                            hidden[:, position] = value
                            model.model.layers[layer].self_attn.output = (hidden, out[1])
                        else:
                            hidden = model.model.layers[layer].mlp.output.clone()
                            hidden[:, position] = value
                            model.model.layers[layer].mlp.output = hidden
                        logit = model.output.logits[:, 0].save()
                        saved.append(logit)
            found += saved
        return torch.cat(found)

    return {"one trace per site": lambda base, _, source, sites: run(base, source, sites, 1),
            "8 invokes per trace": lambda base, _, source, sites: run(base, source, sites, 8)}


def pyvene(folder: str) -> dict[str, Way]:
    """One IntervenableModel per site, which runs the source itself each time, or is given what the source run left."""
    from pyvene import IntervenableConfig, IntervenableModel, VanillaIntervention

    model = plain.load(folder)
    component = {"resid_pre": "block_input", "attn_out": "attention_output", "mlp_out": "mlp_output"}

    def run(base: torch.Tensor, other: torch.Tensor, source: plain.Record, sites: list[plain.Site], given: bool
            ) -> torch.Tensor:
        found = []
        for kind, layer, position, _head in sites:
            wanted = [{"layer": layer, "component": component[kind], "intervention_type": VanillaIntervention}]
            tool = IntervenableModel(IntervenableConfig(wanted), model)
            where = {"sources->base": position}
            with torch.no_grad():
                if given:
                    (key,) = tool.interventions
                    out = tool({"input_ids": base}, unit_locations=where,
                               source_representations={key: source[kind][layer][position][None]})
                else:
                    out = tool({"input_ids": base}, [{"input_ids": other}], where)
            found.append(out[1].logits[0, 0])
        return torch.stack(found)

    return {"source run each time": lambda base, other, source, sites: run(base, other, source, sites, False),
            "source activations given": lambda base, other, source, sites: run(base, other, source, sites, True)}


TOOLS = {"transformer-lens": transformer_lens, "nnsight": nnsight, "pyvene": pyvene}


def brief(problem: Exception) -> str:
    """An exception in one line."""
    lines = str(problem).splitlines() or [""]
    return f"{type(problem).__name__}: {lines[0]}"[:160]


def main() -> None:
    """Serve until stdin ends."""
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    out, sys.stdout = sys.stdout, sys.stderr  # peers print; the reply channel stays clean

    def reply(answer: dict[str, object]) -> None:
        print(json.dumps(answer), file=out, flush=True)

    tool, job = sys.argv[1], json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    try:
        ways = TOOLS[tool](job["model"])
    except Exception as problem:  # noqa: BLE001  # a peer may fail in any way; the asker is told, and goes on
        reply({"error": brief(problem)})
        return
    model = plain.load(job["model"])
    runs = [[torch.tensor([run[side]]) for side in ("base", "source")] for run in job["runs"]]
    sources = [plain.record(model, source) for _, source in runs]
    sites = [[tuple(site) for site in run["sites"]] for run in job["runs"]]
    reply({"versions": {package: version(package) for package in (tool, "torch", "transformers")}, "ways": list(ways)})
    for line in sys.stdin:
        asked = json.loads(line)
        number = asked["run"]
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            rewards = ways[asked["way"]](*runs[number], sources[number], sites[number])
            seconds = (time.perf_counter() - wall, time.process_time() - cpu)
            reply({"seconds": seconds, "rewards": [float(value) for value in rewards]})
        except Exception as problem:  # noqa: BLE001  # as above
            reply({"error": brief(problem)})


if __name__ == "__main__":
    main()
