"""Openings of questions, and forms in which passages are quoted, for a model that writes its own questions.

Owns the words. Knows no model. Invariant: one sequence of random numbers gives one question.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

OPENINGS = (
    "What is",
    "What are",
    "What does",
    "What would happen if",
    "What was the",
    "How do I",
    "How can I",
    "How does",
    "How many",
    "How much",
    "Why do",
    "Why is",
    "When did",
    "Where is",
    "Who was",
    "Which of the following",
    "Can you explain",
    "Can you help me",
    "Could you",
    "Explain",
    "Explain the difference between",
    "Describe",
    "Write a",
    "Write an email",
    "Write a short story about",
    "Write a Python function",
    "Write a poem about",
    "Compose a",
    "Draft a",
    "Create a",
    "Give me",
    "Give three",
    "List five",
    "List the",
    "Suggest",
    "Summarize the following text:",
    "Summarize:",
    "Summarize this article:\n\n",
    "Read the passage and answer the question.\n\n",
    "Context:",
    "Answer from the following documents:",
    "Answer from the passages below.\n\n1.",
    "Translate the following sentence into English:",
    "Translate German to English:",
    "Translate this to French:",
    "Rewrite the following",
    "Correct the grammar:",
    "Solve the problem:",
    "A farmer has",
    "A train travels",
    "There are",
    "If a",
    "John has",
    "Mary bought",
    "Calculate",
    "Find the",
    "Let x be",
    "Compare",
    "Pretend you are",
    "Imagine you are",
    "Act as",
    "I want to",
    "I am",
    "I'm",
    "My",
    "Tell me about",
    "Is it true that",
    "Do you think",
    "Please",
    "Identify",
    "Classify the",
    "Extract the",
    "Analyze",
    "Design a",
    "Plan a",
    "Implement",
    "Given the",
    "In which",
    "The following",
    "Hello",
    "Hi,",
    "As a",
    "You are",
    "Generate",
    "Provide",
    "Discuss",
    "Recommend",
    "Name",
    "Define",
    "Outline",
    "Evaluate",
    "Paraphrase",
    "Continue the story:",
    "Fix this code:",
    "Question:",
)
EVERYDAY = (
    "What is the main idea?",
    "Who is mentioned?",
    "When did this happen?",
    "Where does it take place?",
    "Why is this important?",
    "What are the numbers given?",
    "How does it work?",
    "What can it be used for?",
)
SUMMARIES = (
    "Summarize: {texts}",
    "Summarize the following article in a few sentences.\n\n{texts}",
    "{texts}\n\nGive a short summary of the text above.",
    "What are the main points?\n\n{texts}",
    "Write a headline and a summary:\n{texts}",
    "Extract all names and places from this text: {texts}",
    "Rewrite this in simple words: {texts}",
)
QUESTIONS = (
    "{texts}\n\nAnswer the question using the passages above.\n\nQuestion: {question}",
    "Context: {texts}\n\nQuestion: {question}",
    "{texts}\n\nBased on the documents above: {question}",
    "Answer the question based on the given documents.\n\n{texts}\n\nQuestion: {question}\nAnswer:",
)
NUMBERS = ("[{n}] ", "Document {n}: ", "{n}. ", "- ", "Passage {n}:\n")
MOST_TEXTS, SHORTEST, LONGEST = 4, 400, 900  # passages; characters of each


def quoting(chance: random.Random, texts: Sequence[str], questions: Sequence[str]) -> str:
    """Make a question about some of ``texts``, or a request for a summary of them."""
    some = chance.sample(texts, min(chance.randint(1, MOST_TEXTS), len(texts)))
    some = [text[: chance.randint(SHORTEST, LONGEST)].strip() for text in some]
    if chance.random() < 0.5:
        return chance.choice(SUMMARIES).format(texts=" ".join(some))
    form = chance.choice(NUMBERS)
    numbered = "\n\n".join(form.format(n=number) + text for number, text in enumerate(some, 1))
    return chance.choice(QUESTIONS).format(texts=numbered, question=chance.choice(questions))
