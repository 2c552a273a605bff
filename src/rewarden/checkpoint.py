"""Getting a model, its tokenizer and its head from disk or the Hub, safely and with one clear error.

In: a folder or Hub id with options. Out: `Loaded` (module, tokenizer, how to build the read-out, provenance).
safetensors first, `.pt` only with weights_only, no remote code without a flag and a pinned revision.
Ignorant of scoring.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rewarden.errors import RewardenError, RewardenWarning
from rewarden.readout.options import build_requested, gated_from_tensors, value_head_from_tensors

HEADLESS = ("CausalLM", "LMHeadModel")
NAMED = ("sequence", "token", "judge", "gated", "implicit", "value")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
WEIGHT_FILES = ("model.safetensors.index.json", "model.safetensors", "pytorch_model.bin.index.json", "pytorch_model.bin")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Loaded:
    """A loaded checkpoint, before its structure is known."""

    model: nn.Module
    tokenizer: Any
    name: str
    readout: Any
    provenance: dict[str, str | int | float | bool] = field(default_factory=dict)


def load_checkpoint(path_or_id: str | None, *, revision: str | None, tokenizer: str | None, chat_template: str | None,
                    dtype: str, device: str, readout: Any, adapter: str | None, reference: Any,
                    attn_implementation: str | None, trust_remote_code: bool, readout_options: dict[str, Any],
                    config: Any = None) -> Loaded:
    """Load everything `rewarden.load` needs; see there for the arguments. `config` takes the place of the checkpoint's own."""
    path_or_id = None if path_or_id is None else str(path_or_id)
    path = resolve_name(path_or_id)
    if trust_remote_code:
        _check_pinned(path, revision)
    if reference is not None and readout != "implicit":
        raise RewardenError("a reference policy without readout='implicit'", where="reference=",
                            why="only DPO's implicit reward has a reference", fix="pass readout='implicit', or drop it")
    common = {"revision": revision, "trust_remote_code": trust_remote_code}
    config = read_config(path, **common) if config is None else config
    where = _device(device)
    number = _dtype(dtype, config, where)
    trained = {} if adapter is None else read_tensors(adapter, None, files=ADAPTER_FILES)
    model, head = _load_model(path, config, number, attn_implementation, readout, common, trained)
    if adapter is not None:
        model = _with_adapter(model, adapter)
    own = tokenizer is None or Path(tokenizer).is_dir()  # another repository's code is not pinned by this revision
    tokens = _load_tokenizer(tokenizer or path, {"revision": revision} if tokenizer is None else {},
                             trust_remote_code and own)
    if chat_template is not None:
        tokens.chat_template = _read_template(chat_template)
    about = {"readout_options": json.dumps({k: str(v) for k, v in readout_options.items()}, sort_keys=True),
             "reference": "", "reference_sha256": "", "attention": attn_implementation or ""}
    if readout == "implicit":
        if reference is None:
            raise RewardenError("readout='implicit' needs the reference policy", where="reference=",
                                why="DPO's reward is beta·log(policy/reference)", fix="pass reference=<folder, id or model>")
        if not isinstance(reference, nn.Module):
            about |= {"reference": str(reference), "reference_sha256": weights_hash(resolve_name(str(reference)), None)}
        readout_options = {**readout_options, "reference": _load_reference(reference, number, where)}
    wanted = head if head is not None and readout in (None, "value") else readout
    builder = build_requested(wanted, readout_options) if readout_options or readout == "implicit" else wanted
    name = path_or_id or "demo:reward_model"
    about |= {"revision": str(getattr(config, "_commit_hash", None) or revision or ""),
              "weights_sha256": weights_hash(path, revision), "adapter": adapter or "",
              "adapter_sha256": weights_hash(adapter, None, ADAPTER_FILES) if adapter else "",
              "tokenizer_sha256": _tokenizer_hash(tokens)}
    return Loaded(model.to(where).eval().requires_grad_(False), tokens, name, builder, about)


def read_config(path: str, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The transformers config of a folder or Hub id."""
    from transformers import AutoConfig

    with _clear_errors(path):
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)


def _check_pinned(path: str, revision: str | None) -> None:
    """Remote code runs only at a commit, or from a local folder that does not point elsewhere."""
    folder = Path(path)
    if folder.is_dir():
        config = folder / "config.json"
        text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
        if "auto_map" in text and "--" in text.split("auto_map", 1)[1].split("}", 1)[0]:
            raise RewardenError(f"the code of {path!r} lies in another repository", where="config.json, auto_map",
                                why="it would be fetched at no fixed revision", fix="copy that code into the folder")
    elif revision is None or not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise RewardenError(f"trust_remote_code for {path!r} without a pinned revision", where="trust_remote_code=",
                            why="the code that runs must be the code that was read; a branch or tag can move",
                            fix="pass revision=<the 40 hex digits of a commit>")


def _tokenizer_hash(tokenizer: Any) -> str:
    """SHA-256 of what turns text into ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(text.encode()).hexdigest()


def resolve_name(path_or_id: str | None) -> str:
    """The folder of a demo model, or the name as it is.

    Raises:
        RewardenError: a path that is not there; of a name that may be a Hub id, the Hub is asked.
    """
    if path_or_id is None or path_or_id.startswith("demo:"):
        from rewarden.demo import model_path

        return str(model_path((path_or_id or "demo:reward_model").removeprefix("demo:")))
    name = str(path_or_id)
    if (name.startswith((".", "/", "~")) or name.count("/") > 1) and not Path(name).exists():
        raise RewardenError(f"there is no folder {name!r}", where="model", why="a Hub id is a name or owner/name",
                            fix="check the path")
    return name


def _device(device: str) -> torch.device:
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # unknown to torch, or not there on this machine
        raise RewardenError(f"no device {device!r} here", where="device=", why=str(error).splitlines()[0],
                            fix="use auto, cpu, cuda, cuda:1 or mps") from None


def _dtype(dtype: str, config: Any, device: torch.device) -> torch.dtype:
    if dtype == "auto":
        # half precision costs 2-7 % of an SD in scores; on a CPU it does not even save time
        stored = getattr(config, "dtype", None) or torch.float32
        return torch.float32 if device.type == "cpu" else stored
    if dtype not in DTYPES:
        raise RewardenError(f"unknown dtype {dtype!r}", where="dtype=", fix=f"use auto or one of {list(DTYPES)}")
    return DTYPES[dtype]


@contextmanager
def _clear_errors(path: str) -> Iterator[None]:
    """The many exceptions of loading as one that says what to do."""
    import safetensors
    from huggingface_hub.errors import StrictDataclassError

    try:
        yield
    except RewardenError:
        raise
    except (safetensors.SafetensorError, torch.serialization.pickle.UnpicklingError, EOFError) as error:
        raise RewardenError(f"the weights of {path} cannot be read", where=_weight_file(path),
                            why=(str(error) or "the file is empty")[:600],
                            fix="the file is truncated or damaged, or holds more than tensors: download it again, "
                            "as safetensors where there is a choice") from error
    except OSError as error:
        raise RewardenError(f"cannot load {path!r}", where="model", why=str(error).splitlines()[0],
                            fix="check the folder or Hub id; offline, pass a local folder") from error
    except (ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError, ArithmeticError,
            StrictDataclassError) as error:
        text = str(error)
        if "remote code" in text or "trust_remote_code" in text:
            fix = "read the code, then pass trust_remote_code=True with revision=<commit>"
        elif "archive" in text:
            fix = "the weight file is truncated or damaged: download it again"
        elif "mismatch" in text:
            fix = "config.json and the weights disagree: check num_labels and hidden_size, or use the model's own config"
        else:
            fix = "check that the folder holds a transformers model; for a custom head see CONTRIBUTING.md"
        raise RewardenError(f"cannot load {path!r}", where="model", why=text[:600], fix=fix) from error


def _load_model(path: str, config: Any, dtype: torch.dtype, attn: str | None, readout: Any, common: dict[str, Any],
                trained: dict[str, torch.Tensor]) -> tuple[nn.Module, Callable | None]:
    """The module, and a builder for heads that transformers does not load itself.

    `trained` are tensors an adapter brings: its whole head takes the place of one that the base model lacks.
    """
    import transformers

    names = list(getattr(config, "architectures", None) or [])
    first = names[0] if names else ""
    if readout is None and getattr(config, "sarm_param", None):
        raise RewardenError(f"{path} is a sparse reward model", where="config.json, sarm_param",
                            why="its head reads features and not the hidden state", fix="load it with rewarden.sarm.load")
    options = {**common, "dtype": dtype, "output_loading_info": True}
    if attn:
        options["attn_implementation"] = attn
    head: Callable | None = None
    auto: Any
    brought = next((head for name, head in trained.items() if re.search(r"\.(score|classifier)\.weight$", name)), None)
    custom = readout is not None and readout not in NAMED
    if readout in ("judge", "implicit") or (custom and any(word in first for word in HEADLESS)):
        auto = transformers.AutoModelForCausalLM
    elif custom and "Classification" not in first:
        auto = transformers.AutoModel
    elif "RewardModelWithGating" in first and not common["trust_remote_code"]:
        auto, head = transformers.AutoModel, gated_from_tensors(config, read_tensors(path, common["revision"]))
    elif brought is not None:
        auto, config.num_labels = transformers.AutoModelForSequenceClassification, len(brought)
    elif any(word in first for word in HEADLESS) and (readout is None or readout == "value"):
        head = value_head_from_tensors(read_tensors(path, common["revision"], ("v_head", "value_head")))
        if head is None:
            raise RewardenError(f"{path} is a language model without a reward head", where="model",
                                why=f"config.json says {first}, and the weights hold no value head",
                                fix="pass readout='judge', or readout='implicit' with reference=, or load the reward model")
        auto = transformers.AutoModel
    elif "TokenClassification" in first or readout == "token":
        auto = transformers.AutoModelForTokenClassification
    elif first and "SequenceClassification" not in first and common["trust_remote_code"]:
        auto = transformers.AutoModel
    else:
        auto = transformers.AutoModelForSequenceClassification
    with _clear_errors(path), quiet_bars(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers warns of a fresh head; below it is an error
        model, info = auto.from_pretrained(path, config=config, **options)
    missing = [key for key in _keys(info, "missing_keys") if not any(name.endswith(f".{key}") for name in trained)]
    unused = [key for key in _keys(info, "unexpected_keys") if re.search(r"(layers|layer|h|blocks)\.\d+\.", key)
              and "gating." not in key]
    if unused:
        warnings.warn(f"{len(unused)} weights of {path} are not used: {', '.join(unused[:3])}; config.json describes a "
                      "smaller model than the weights", RewardenWarning, stacklevel=4)
    if missing:
        raise RewardenError(f"{path} lacks {len(missing)} weights: {', '.join(missing[:5])}", where=_weight_file(path),
                            why="transformers would fill them with random numbers: such a reward means nothing",
                            fix="load the reward model's own checkpoint; for a custom head pass readout= (CONTRIBUTING.md)")
    if custom:
        # what the checkpoint holds beside the trunk, for the custom read-out's builder
        model.head_tensors = read_tensors(path, common["revision"])
    return model, head


@contextmanager
def quiet_bars() -> Iterator[None]:
    """No bar for copying weights into memory; the Hub's download bars stay."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _keys(info: Any, kind: str) -> list[str]:
    keys = info.get(kind, []) if isinstance(info, dict) else getattr(info, kind, [])
    return sorted(str(key) for key in keys)


def _with_adapter(model: nn.Module, adapter: str) -> nn.Module:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise RewardenError("an adapter needs the package peft", where="adapter=", why=str(error),
                            fix="pip install peft") from error
    with _clear_errors(adapter):
        # merged, so that every later part sees one plain module
        return PeftModel.from_pretrained(model, adapter).merge_and_unload()  # type: ignore[arg-type]


def _load_tokenizer(path: str, options: dict[str, Any], trust_remote_code: bool) -> Any:
    from transformers import AutoTokenizer

    try:
        with _clear_errors(path):
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, **options)
    except RewardenError as error:
        raise RewardenError(f"no tokenizer in {path!r}", where="tokenizer", why=error.why,
                            fix="copy the tokenizer files beside the weights, or pass tokenizer=<folder or id>") from error
    if not tokenizer.get_vocab():
        raise RewardenError(f"no tokenizer in {path!r}", where="tokenizer", why="its vocabulary is empty",
                            fix="copy the tokenizer files beside the weights, or pass tokenizer=<folder or id>")
    return tokenizer


def _read_template(template: str) -> str:
    if "{" in template:
        return template
    path = Path(template)
    if not path.is_file():
        raise RewardenError(f"chat_template {template!r} is neither a template nor a file", where="chat_template=",
                            fix="pass Jinja text such as \"{% for m in messages %}...{% endfor %}\" or a file that holds it")
    return path.read_text(encoding="utf-8")


def _load_reference(reference: Any, dtype: torch.dtype, device: torch.device) -> nn.Module:
    if isinstance(reference, nn.Module):
        return reference.eval()
    from transformers import AutoModelForCausalLM

    path = resolve_name(str(reference))
    with _clear_errors(path), quiet_bars():
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device).eval()


def read_tensors(path: str, revision: str | None, prefixes: tuple[str, ...] = (),
                 files: tuple[str, ...] = WEIGHT_FILES) -> dict[str, torch.Tensor]:
    """Tensors with one of `prefixes` in their name (all outside the trunk when none), from the checkpoint's files."""
    from safetensors import safe_open

    def wanted(name: str) -> bool:
        return any(prefix in name for prefix in prefixes) if prefixes else not name.startswith(("model.", "transformer."))

    found: dict[str, torch.Tensor] = {}
    with _clear_errors(path):
        for file in _weight_files(path, revision, files):
            if file.suffix == ".safetensors":
                with safe_open(str(file), framework="pt") as tensors:
                    found.update({name: tensors.get_tensor(name) for name in tensors.keys() if wanted(name)})  # noqa: SIM118 (not a dict)
            else:
                state = torch.load(file, map_location="cpu", weights_only=True)
                found.update({name: value for name, value in state.items() if wanted(name)})
    return found


def tensor_shapes(path: str, revision: str | None) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint; of safetensors only the header is read."""
    from safetensors import safe_open

    found: dict[str, tuple[int, ...]] = {}
    with _clear_errors(path):
        for file in _weight_files(path, revision):
            if file.suffix == ".safetensors":
                with safe_open(str(file), framework="pt") as tensors:
                    found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118 (not a dict)
            else:
                state = torch.load(file, map_location="cpu", weights_only=True)
                found |= {name: tuple(value.shape) for name, value in state.items()}
    return found


def _weight_files(path: str, revision: str | None, names: tuple[str, ...] = WEIGHT_FILES) -> list[Path]:
    from transformers.utils.hub import cached_file

    for name in names:
        found = cached_file(path, name, revision=revision, _raise_exceptions_for_missing_entries=False)
        if found is None:
            continue
        if not name.endswith(".index.json"):
            return [Path(found)]
        shards = sorted(set(json.loads(Path(found).read_text())["weight_map"].values()))
        return [Path(str(cached_file(path, shard, revision=revision))) for shard in shards]
    return []


def _weight_file(path: str) -> str:
    present = [str(Path(path) / name) for name in (*WEIGHT_FILES, *ADAPTER_FILES) if (Path(path) / name).exists()]
    return present[0] if present else str(path)


def weights_hash(path: str, revision: str | None, names: tuple[str, ...] = WEIGHT_FILES) -> str:
    """SHA-256 over the weight files (the Hub cache already names large files by theirs)."""
    digest = hashlib.sha256()
    with _clear_errors(path):
        for file in _weight_files(path, revision, names):
            blob = file.resolve().name
            if len(blob) == 64 and all(c in "0123456789abcdef" for c in blob):
                digest.update(bytes.fromhex(blob))
                continue
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
