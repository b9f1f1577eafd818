"""Tasks: one call for one text or thousands, with typed results that say how sure they are.

`classify`, `sentiment` and `decide` load the model that they need, or use the one that they are given; `Classifier`,
`SentimentClassifier` and `Decider` keep it. Knows no files of data (the command line does) and no HTTP.
"""

from __future__ import annotations

from miaotui.tasks.calibration import CalibrationReport, expected_calibration_error, fit_temperature
from miaotui.tasks.calls import classify, decide, fit, sentiment
from miaotui.tasks.classification import Classifier
from miaotui.tasks.correction.calls import correct
from miaotui.tasks.correction.result import CorrectedText, TextEdit
from miaotui.tasks.decisions.decider import Decider
from miaotui.tasks.decisions.decision import Decision
from miaotui.tasks.decisions.likeness import OptionEncoder
from miaotui.tasks.decisions.questions import ChoiceQuestion, ScoreQuestion, YesNoQuestion
from miaotui.tasks.extraction.calls import extract
from miaotui.tasks.extraction.dates import DateReading
from miaotui.tasks.extraction.extractor import ExtractedValue, Extraction, ExtractionOptions
from miaotui.tasks.generation.calls import continue_text, generate, rewrite
from miaotui.tasks.generation.generator import GeneratedText, GenerationOptions
from miaotui.tasks.generation.requirements import Bound, TextRequirements
from miaotui.tasks.groups.calls import duplicates, group, similar
from miaotui.tasks.groups.results import GroupedText, Grouping, SimilarText, SimilarTexts, TextGroup
from miaotui.tasks.result import LabelledText, RowError, Sentiment, TaskResult, WordEffect
from miaotui.tasks.sentiments import SentimentClassifier
from miaotui.tasks.summaries.calls import summarize
from miaotui.tasks.summaries.result import SummaryLength, SummaryPart, TextSummary
from miaotui.tasks.translation.calls import translate
from miaotui.translation.result import Translation, TranslationOptions

__all__ = [
    "Bound",
    "CalibrationReport",
    "ChoiceQuestion",
    "Classifier",
    "CorrectedText",
    "DateReading",
    "Decider",
    "Decision",
    "ExtractedValue",
    "Extraction",
    "ExtractionOptions",
    "GeneratedText",
    "GenerationOptions",
    "GroupedText",
    "Grouping",
    "LabelledText",
    "OptionEncoder",
    "RowError",
    "ScoreQuestion",
    "Sentiment",
    "SentimentClassifier",
    "SimilarText",
    "SimilarTexts",
    "SummaryLength",
    "SummaryPart",
    "TaskResult",
    "TextEdit",
    "TextGroup",
    "TextRequirements",
    "TextSummary",
    "Translation",
    "TranslationOptions",
    "WordEffect",
    "YesNoQuestion",
    "classify",
    "continue_text",
    "correct",
    "decide",
    "duplicates",
    "expected_calibration_error",
    "extract",
    "fit",
    "fit_temperature",
    "generate",
    "group",
    "rewrite",
    "sentiment",
    "similar",
    "summarize",
    "translate",
]
