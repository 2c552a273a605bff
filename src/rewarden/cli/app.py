"""From argv to an exit code: which verb, its settings, and what is said when it fails.

In: argv. Out: 0 done, 1 error, 2 wrong usage, 3 done with quarantined rows, 130 interrupted.
Ignorant of the verbs: each is imported by name when it is called.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout

from cyclopts import App
from cyclopts.config import Dict

from rewarden import __version__
from rewarden.cli import flags, terminal
from rewarden.errors import RewardenError, RewardenWarning

VERBS = {
    "demo": "Score the bundled pairs with the bundled model and write a report; offline, under a minute.",
    "score": "Score preference pairs: accuracy per subset with intervals, rows in a run folder that resumes.",
    "lens": "At which depth does the preference form?",
    "attribute": "Which parts of the model add up to the reward?",
    "patch": "What does each activation do to the reward?",
    "paths": "Which part of the model acts on which?",
    "agreement": "Does attribution predict causal effects?",
    "flip": "How few edits turn a preference?",
    "tokens": "What does it love and hate? Every token of the vocabulary scored as the response.",
    "search": "Which responses of a few tokens does it love or hate most?",
    "compare": "Two or more reward models side by side: where they agree, where they part, what they share inside.",
    "compare-tokens": "Do reward models love and hate the same words?",
    "features": "Which dictionary features is the reward made of, and what would it be without each?",
    "bestof": "What happens to responses that are selected by this reward? Best-of-n curves, and what they raise.",
    "concepts": "Which concepts does the model know, which does its reward follow, and which move it?",
    "repair": "Take a concept out of the reward: effect and accuracy before and after, a plain checkpoint.",
    "bias": "Does the reward follow how something is said: length, hedging, markdown, flattery, identity?",
    "audit": "Everything that can be asked of a reward model, in one offline HTML report.",
    "report": "Write the report of finished runs again.",
    "export": "Write the rows of a run in the format of another tool.",
    "env": "Versions and devices, for a bug report.",
}
GROUPS = {
    "models": ("Look at reward models.", {
        "inspect": "What rewarden found in a model: structure, read-out, template, self-check, noise floor.",
    }),
    "runs": ("Look after run folders.", {
        "list": "The run folders under a folder.",
        "show": "What one run is, and how far it got.",
        "resume": "Continue a run that was interrupted.",
        "verify": "Check every file of a run against its recorded hash.",
    }),
    "sae": ("Dictionaries (sparse autoencoders) of a model's activations.", {
        "harvest": "Keep activations of texts or pairs, with what is needed to show their contexts.",
        "train": "Train a dictionary on a harvest.",
        "adapt": "Train a dictionary further where the reward is read.",
        "sweep": "Train and measure several sizes and sparsities at once.",
        "import": "Read a dictionary of another library's format.",
        "export": "Write a dictionary for another library.",
        "eval": "Measure a dictionary: reconstruction, sparsity, reward and accuracy kept.",
        "label": "Name features, and score the names on texts held out.",
        "card": "One feature to read: examples, histogram, label, effect.",
    }),
    "sarm": ("Reward models made of sparse features.", {
        "build": "A model cut at a dictionary's layer, its score a weighted sum of features.",
        "train": "Train one on preference pairs.",
        "steer": "Change weights of features, and see what it does.",
        "explain": "The features behind a score, or behind the margin of two answers.",
    }),
    "hacking": ("What a policy could exploit, beyond single biases.", {
        "distortion": "What moves the reward that your evaluation pairs hardly vary?",
        "divergence": "Do patched activations leave the range of clean ones, and what are effects without those that do?",
        "cascade": "Does a preference for one kind of misaligned response come with the others?",
        "conflict": "Do the objectives of a model, or terms of yours, contradict each other?",
        "triggers": "Does a single token move the reward out of all proportion?",
    }),
    "organisms": ("Reward models whose rule is planted, to grade instruments on.", {
        "list": "The organisms and the instruments there are.",
        "make": "Write one to a folder that transformers loads.",
        "grade": "Does an instrument find what is planted, and keep silent on random weights?",
    }),
}
PLACES = {"organisms list": "organisms.listing:list_",
          "models inspect": "models:inspect_", **{f"runs {verb}": f"runs:{verb}_" for verb in GROUPS["runs"][1]},
          "sae import": "sae.files:import_", "sae export": "sae.files:export", "sae eval": "sae.evaluate:eval_"}
"""Where a verb of a group stands, if not in a module of its own name in the group's package."""


def command_of(verb: str) -> str:
    """What is typed for the verb in a run's record: the name of its group comes first, if it stands in one.

    Example:
        >>> command_of("divergence"), command_of("lens"), command_of("style")
        ('hacking divergence', 'lens', 'bias --natural')
    """
    found = {name: f"{group} {name}" for group, (_, verbs) in GROUPS.items() for name in verbs if name not in VERBS}
    return {**found, "style": "bias --natural"}.get(verb, verb)


SWITCHES = ("json", "quiet", "debug")

EPILOGUE = ("Dashes and underscores are the same. Flags of RewardBench and lm-evaluation-harness paste as they are "
            "(--torch_dtype, --load_json, --ref_model, --output_path, ...). Exit codes: 0 done, 1 error, 2 wrong "
            "usage, 3 done but some pairs were set apart, 130 interrupted.")


def build() -> App:
    """The command tree, with no verb imported."""
    app = App(name="rewarden", version=__version__, help="Open a reward model: what it rewards, where, and how sure.",
              help_format="plaintext", help_epilogue=EPILOGUE, suppress_keyboard_interrupt=False)
    for verb, text in VERBS.items():
        module = verb.replace("-", "_")
        app.command(f"rewarden.cli.{module}:{module}", name=verb, help=text, sort_key=list(VERBS).index(verb))
    for group, (text, verbs) in GROUPS.items():
        sub = App(name=group, help=text, help_format="plaintext", sort_key=len(VERBS))
        for verb, verb_text in verbs.items():
            place = PLACES.get(f"{group} {verb}", f"{group}.{verb}:{verb}")
            sub.command(f"rewarden.cli.{place}", name=verb, help=verb_text)
        app.command(sub)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments after the program's name; those of the process by default.

    Returns:
        The exit code.
    """
    tokens = flags.canonical(sys.argv[1:] if argv is None else argv)
    as_json, quiet, debug = (f"--{switch}" in tokens for switch in SWITCHES)
    stdout = sys.stdout
    try:
        app, settings = configured(tokens)
        as_json, quiet, debug = (f"--{switch}" in tokens or bool(settings.get(switch)) for switch in SWITCHES)
        # With --json, whatever a library prints goes to stderr: stdout is for the one object.
        with redirect_stdout(sys.stderr) if as_json else nullcontext(), warnings.catch_warnings():
            _route_warnings(everything=debug)
            outcome = app(tokens, result_action="return_value")
        if not isinstance(outcome, terminal.Outcome):  # --help and --version print by themselves
            return terminal.OK
        terminal.show(outcome, as_json=as_json, quiet=quiet, stream=stdout)
        return outcome.code
    except RewardenError as error:
        if debug:
            traceback.print_exc()
        terminal.show_error(error, as_json=as_json, stream=stdout)
        return terminal.FAILED
    except KeyboardInterrupt as stop:
        terminal.say("interrupted", "bold")
        for note in getattr(stop, "__notes__", ()):
            terminal.say(note, "")
        return terminal.INTERRUPTED
    except SystemExit as stop:  # cyclopts, after it has explained wrong usage on stderr
        return terminal.USAGE if stop.code else terminal.OK


def configured(tokens: Sequence[str]) -> tuple[App, dict[str, object]]:
    """The command tree with the settings of `--config`, which flags override; and those settings."""
    app = build()
    path = flags.value_of(tokens, "--config")
    settings = {} if path is None else flags.read_settings(path)
    if settings:
        app.config = (Dict(settings, use_commands_as_keys=False, source=path),)
    return app, settings


def _route_warnings(*, everything: bool) -> None:
    """Our warnings as one line on stderr; other libraries' only with --debug."""
    if everything:
        return
    warnings.simplefilter("ignore")
    warnings.simplefilter("default", RewardenWarning)
    warnings.showwarning = lambda message, *_, **__: terminal.say(f"warning: {message}", "yellow")
