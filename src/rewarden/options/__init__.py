"""Every choice a user can make, one frozen dataclass a verb; Python, command line and help text come from here.

In: keyword arguments or flags. Out: checked options, or one error that names all that is wrong.
Ignorant of models and data: nothing here imports a heavy library or touches a file's content.
"""

from rewarden.options.causal import AgreementOptions, EstimateOptions, FlipOptions, PatchOptions, PathOptions
from rewarden.options.checks import alias, resolve
from rewarden.options.tokens import SearchOptions
from rewarden.options.verbs import AttributeOptions, AuditOptions, DataOptions, LensOptions, LoadOptions, ScoreOptions
from rewarden.options.vocabulary import GREATEST, WORST, ScanOptions

__all__ = ["GREATEST", "WORST", "AgreementOptions", "AttributeOptions", "AuditOptions", "DataOptions", "EstimateOptions",
           "FlipOptions", "LensOptions", "LoadOptions", "PatchOptions", "PathOptions", "ScanOptions", "ScoreOptions",
           "SearchOptions", "alias", "resolve"]
