"""Question sets and media files -> batches."""

from moka.data.check import MediaFailure, check_media
from moka.data.collate import QuestionCollator
from moka.data.media import MediaError, Windowing
from moka.data.presentation import Presentation
from moka.data.prompts import PromptTemplate, RenderedPrompt
from moka.data.questions import Question, load_questions
from moka.data.store import MediaStore

__all__ = [
    "MediaError",
    "MediaFailure",
    "MediaStore",
    "Presentation",
    "PromptTemplate",
    "Question",
    "QuestionCollator",
    "RenderedPrompt",
    "Windowing",
    "check_media",
    "load_questions",
]
