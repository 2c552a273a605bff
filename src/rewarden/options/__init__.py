"""Every choice a user can make, one frozen dataclass a verb; Python, command line and help text come from here.

In: keyword arguments or flags. Out: checked options, or one error that names all that is wrong.
Ignorant of models and data: nothing here imports a heavy library or touches a file's content.
"""

from rewarden.options.best_of_n import BestOfNOptions, SampleOptions
from rewarden.options.bias import BiasOptions
from rewarden.options.causal import AgreementOptions, EstimateOptions, FlipOptions, PatchOptions, PathOptions
from rewarden.options.checks import alias, resolve
from rewarden.options.compare import CompareOptions
from rewarden.options.concepts import ConceptOptions, DoseOptions, EditOptions, EraseOptions, SurveyOptions
from rewarden.options.contrast import ContrastOptions, DirectionOptions, FormatOptions, LabelAuditOptions, RepairOptions
from rewarden.options.dictionary_files import DictionaryFileOptions
from rewarden.options.dictionary_training import AdaptDictionaryOptions, TrainDictionaryOptions
from rewarden.options.divergence import DistortionOptions, DivergenceOptions
from rewarden.options.features import EvaluateOptions, FeatureEffectOptions
from rewarden.options.grading import GradeOptions
from rewarden.options.harvest import HarvestOptions
from rewarden.options.labels import CardOptions, EndpointOptions, LabelOptions
from rewarden.options.objectives import CascadeOptions, ConflictOptions
from rewarden.options.sarm import SteeringOptions, TrainSarmOptions
from rewarden.options.serving import ServeOptions
from rewarden.options.style import StyleOptions
from rewarden.options.tokens import SearchOptions
from rewarden.options.training import DiscoveryOptions, EvasionOptions, GateOptions, OutcomeAuditOptions, ProbeOptions
from rewarden.options.triggers import TriggerOptions
from rewarden.options.verbs import AttributeOptions, AuditOptions, DataOptions, LensOptions, LoadOptions, ScoreOptions
from rewarden.options.vocabulary import GREATEST, WORST, ScanOptions

__all__ = ["GREATEST", "WORST", "AdaptDictionaryOptions", "AgreementOptions", "AttributeOptions", "AuditOptions",
           "BestOfNOptions", "BiasOptions", "CardOptions", "CascadeOptions", "CompareOptions", "ConceptOptions",
           "ConflictOptions", "ContrastOptions", "DataOptions", "DictionaryFileOptions", "DirectionOptions",
           "DiscoveryOptions", "DistortionOptions", "DivergenceOptions", "DoseOptions", "EditOptions", "EndpointOptions",
           "EraseOptions", "EstimateOptions", "EvaluateOptions", "EvasionOptions", "FeatureEffectOptions", "FlipOptions",
           "FormatOptions", "GateOptions", "GradeOptions", "HarvestOptions", "LabelAuditOptions", "LabelOptions",
           "LensOptions", "LoadOptions", "OutcomeAuditOptions", "PatchOptions", "PathOptions", "ProbeOptions",
           "RepairOptions", "SampleOptions", "ScanOptions", "ScoreOptions", "SearchOptions", "ServeOptions",
           "SteeringOptions", "StyleOptions", "SurveyOptions", "TrainDictionaryOptions", "TrainSarmOptions", "TriggerOptions",
           "alias", "resolve"]
