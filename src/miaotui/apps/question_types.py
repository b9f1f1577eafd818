"""Type of answer that a question asks for, by its own words, in English and Chinese.

Owns the patterns and the form of a fitting span. Knows no passages. Invariant: every question has exactly one kind;
`Kind.THING` is the kind of those that no pattern matches.
"""

from __future__ import annotations

import re
from enum import Enum

_MONTH = (
    "January|February|March|April|May|June|July|August|September|October|November|December"
    "|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec"
)
_NUMBER_WORD = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen"
    "|sixteen|seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety"
    "|hundred|thousand|million|billion|trillion|dozen|half|third|quarter"
)
_ORDINAL = "first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last"
_HAN_DIGIT = "零〇一二两三四五六七八九十百千万亿几"
_UNIT = "years?|months?|weeks?|days?|hours?|minutes?|seconds?|decades?|centur(?:y|ies)"


class Kind(Enum):
    """Type of answer."""

    __hash__ = object.__hash__  # members are single; by name each of many look-ups would run Python

    NUMBER = "number"
    PERCENT = "percent"
    MONEY = "money"
    DURATION = "duration"
    DATE = "date"
    PERSON = "person"
    PLACE = "place"
    REASON = "reason"
    CONTACT = "contact"
    TIME = "time"
    THING = "thing"


class AnswerForm(Enum):
    """Length of answer that a question asks for."""

    PHRASE = "phrase"
    SENTENCE = "sentence"
    LIST = "list"
    YES_OR_NO = "yes or no"


_ASKED: tuple[tuple[Kind, str], ...] = (
    (
        Kind.CONTACT,
        r"\b(?:tele)?phone number|\b(?:what|which|your) (?:\w+ )?(?:e-?mail|(?:tele)?phone|hotline)\b|\bwhat number\b"
        r"|(?:电话|热线|手机号|邮箱|微信)(?:号码?)?是?(?:多少|什么|几号|$)|打(?:哪个|什么|几)",
    ),
    (Kind.TIME, r"\b(?:what|which) time\b|\bhow (?:late|early)\b|几点"),
    (
        Kind.PERCENT,
        r"what (?:percent|percentage|proportion|share)|how many percent|百分之|百分比"
        r"|(?:多[少大高]|什么)的?比例|比例(?:是|为|有)?(?:多[少大高]|几)",
    ),
    (
        Kind.MONEY,
        r"how much (?:money|did .* (?:cost|pay)|does .* cost)|(?:what|which) (?:price|cost)"
        r"|\bwhat(?:'s| does| do| would| will)\b.{0,20}\bcost\b|\bprice of\b"
        r"|多少(?:钱|美元|元|英镑|欧元|资金)|价格",
    ),
    (
        Kind.DURATION,
        r"how long\b|how many (?:years|months|weeks|days|hours|minutes)"
        r"|多久|多长时间|几年|多少(?:年|天|个月|小时)",
    ),
    (
        Kind.NUMBER,
        r"how (?:many|much|old|far|tall|high|large|big|deep|fast|often|wide|heavy)\b"
        r"|what (?:number|amount|quantity)"
        r"|what (?:is|was|were) [^?]{0,40}\b(?:population|score|number|temperature|speed|size|average|length|height"
        r"|weight|rate)\b"
        r"|人口是|比分|多少|几(?:个|次|位|座|所|名|种|条|支|场)"
        r"|多(?:大|高|远|深|快|重|宽|长)(?!时间)",
    ),
    (
        Kind.DATE,
        r"\bwhen\b|(?:what|which) (?:year|date|day|month|decade|century|time|season)"
        r"|什么时候|何时|哪(?:一)?年|哪(?:一)?天|几月|什么时间|哪(?:个)?(?:世纪|年代|时期)|哪些年",
    ),
    (
        Kind.PERSON,
        r"\bwho(?:m|se)?\b|\b(?:what|which) (?:\w+ ){0,2}"
        r"(?:person|man|woman|king|queen|president|author|player"
        r"|actor|actress|singer|leader|ruler|poet|scientist|physicist|chemist|architect|astronaut"
        r"|engineer|emperor|quarterback|coach|composer|philosopher|writer|mathematician)\b"
        r"|(?:name of|named?) the (?:person|man|woman)|谁|哪一?(?:位|个人)|哪些人|什么人",
    ),
    (
        Kind.PLACE,
        r"\bwhere\b|(?:what|which) (?:city|country|state|town|region|continent|county|place"
        r"|location|area|island|river|nation)|哪里|哪儿|何处|何地|哪(?:个|座|些)?"
        r"(?:城市|国家|地方|地区|州|省|岛|大陆)|什么地方|位于",
    ),
    (Kind.REASON, r"\bwhy\b|what (?:is |was )?(?:the )?(?:reason|cause)|为什么|为何|什么原因|原因是"),
)
_COMPILED = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _ASKED)

_YEAR = r"\b(?:1\d{3}|20\d{2})s?\b"
_FITS = {
    Kind.PERCENT: rf"%|\bper ?cent|百分之|成$|\b(?:{_NUMBER_WORD})\b.*(?:per ?cent|of)",
    Kind.MONEY: r"[$€£¥]|\b(?:dollars?|euros?|pounds?|yen|yuan|cents?)\b|[元镑]|美金",
    Kind.DURATION: rf"(?:\d|\b(?:{_NUMBER_WORD}|a|few|several)\b).*\b(?:{_UNIT})\b"
    rf"|[\d{_HAN_DIGIT}].*(?:年|月|天|周|小时|分钟|秒|世纪|岁)|\bcentury\b",
    Kind.NUMBER: rf"\d|\b(?:{_NUMBER_WORD}|{_ORDINAL}|several|many|few|dozens)\b|[{_HAN_DIGIT}半数]",
    Kind.DATE: rf"{_YEAR}|\b(?:{_MONTH})\b|centur|\b(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day\b"
    r"|\d+ ?(?:BC|AD|BCE|CE)\b|[\d一二三四五六七八九十][\d一二三四五六七八九十]*\s*(?:年|月|日|世纪|年代)"
    r"|period|era\b|时期|\d\d?:\d\d",
    Kind.PERSON: r"^(?:[A-Z][\w.'’-]*)(?: (?:[A-Z][\w.'’-]*|de|von|van|of|the|[IVX]+))*$|[·・]",
    Kind.PLACE: r"^(?:(?:north|south|east|west)\w* )?[A-Z][\w.'’-]*(?:,? (?:[A-Z][\w.'’-]*|of|the|and))*$"
    r"|[省市县州国岛洲山河湖海区镇村城港]$",
    Kind.REASON: r"^(?:because|due to|to |by |因为|由于)",
    Kind.CONTACT: r"@|\d[\d -]{5,}",
    Kind.TIME: rf"\d\d?:\d\d|\b\d\d? ?(?:am|pm|o'clock)\b|\b(?:noon|midnight|hours?)\b"
    rf"|[\d{_HAN_DIGIT}]点|小时|零时|正午|午夜",
}
_FITTING = {kind: re.compile(pattern) for kind, pattern in _FITS.items()}
# The form that a sentence with the answer has; a price is often written without its currency.
_SENTENCE_FORM = {kind: kind for kind in (Kind.PERCENT, Kind.DURATION, Kind.NUMBER, Kind.CONTACT, Kind.TIME)}
_SENTENCE_FORM |= {Kind.MONEY: Kind.NUMBER}
TYPED = frozenset({Kind.PERCENT, Kind.MONEY, Kind.DURATION, Kind.NUMBER, Kind.DATE, Kind.PERSON, Kind.PLACE, Kind.TIME})
_COUNTED = {Kind.PERCENT, Kind.MONEY, Kind.DURATION, Kind.NUMBER, Kind.DATE, Kind.TIME}
_NOUNS = frozenset(("n", "nr", "nrt", "nrfg", "ns", "nt", "nz", "eng", "vn", "an", "i", "l", "j"))
_FOCUS = re.compile(
    r"\b(?:what|which)(?: (?:kind|type|sort|part|form|group|name)s? of| other| was the| is the| are the"
    r"| were the)? ((?:[a-z-]+ ){0,2}?[a-z-]+)\b|(?:哪|什么|何种)(?:个|种|些|位|样的|类|座|所|家|支|项)?(\w{1,4})"
)


_OFFER = re.compile(
    r"\b(?:do|does|did) (?:you|they|the)\b|\b(?:is|are) there\b|有没有|有(?![事人]).{0,12}[吗不][？?]?$|[卖招].*吗",
    re.IGNORECASE,
)
_MORE = re.compile(r"\b(?:what|how|when|where|which|who|why)\b|多少|几|怎么|什么|哪|谁|为什么", re.IGNORECASE)


def asks_offer(question: str) -> bool:
    """Return whether it asks if there is something at all ("do you have …"), which documents seldom deny in words."""
    return _OFFER.search(question) is not None and _MORE.search(question) is None


_LISTED = re.compile(
    r"\bhow (?:do|does|did|can|could|should|would|to)\b|\bwhat (?:\w+ ){0,2}steps?\b|\bwhat (?:\w+ )?are the\b"
    r"|\b(?:which|what) (?:\w+ ){0,2}(?:are|were) (?:there|available|used)\b|^\s*(?:list|name)\b"
    r"|哪些|哪几|有几种|步骤|怎么|如何|怎样|列出",
    re.IGNORECASE,
)
_EXPLAINED = re.compile(
    r"\b(?:why|how)\b|^\s*(?:what|who)(?:'s|’s| is| are| was| were) (?:an? |the )?(?:[\w-]+ ?){1,3}\??\s*$"
    r"|\bwhat (?:does|do|did) .{1,40} mean\b|^\s*(?:explain|describe|define)\b"
    r"|(?<![因称名变视作认化改分成译定])为什么|为何|原因|意思|区别|^\s*什么是[^的]*$"
    r"|^[^，,的]{1,12}(?:是什么|(?<![者人家席长王帝官师员星手练])是谁|指什么)[？?]?\s*$",
    re.IGNORECASE,
)


_DECIDED = re.compile(
    r"^\s*(?:can|could|do|does|did|is|are|was|were|may|will|would|has|have|must|should)\b(?!.*\bor\b)"
    r"|(?:吗|(?<!什)(?<!怎)么|嘛|不|没有?)[？?。！]?\s*$|能不能|可不可以|是不是|有没有|要不要|行不行|会不会",
    re.IGNORECASE,
)
_HOW = re.compile(r"\bhow\b|\bsteps?\b|步骤|怎么|如何|怎样", re.IGNORECASE)
_FOLLOWS = re.compile(
    r"\bwhat (?:happens|follows)\b|会怎[样么]|怎么样[？?]?$|有(?:什么|何)(?:影响|后果)", re.IGNORECASE
)
_NAMED = re.compile(r"^\s*who (?!is |are |was |were )|\bcalled\W*$|^谁|叫(?:什么|做什么)|什么名字", re.IGNORECASE)


def form_of(question: str) -> AnswerForm:
    """Return whether the question asks for a phrase, or for a sentence or a list that explains.

    "Who", "when", "where", "how many", "which" and "what" with a noun ask for a phrase; definitions and
    reasons for a sentence; "how to" and plurals of "which" for a list.
    """
    if _DECIDED.search(question) and not _MORE.search(question.replace("这几", "")):
        return AnswerForm.YES_OR_NO
    if kind_of(question) in _COUNTED | {Kind.CONTACT} or _NAMED.search(question):
        return AnswerForm.PHRASE
    if _FOLLOWS.search(question):
        return AnswerForm.SENTENCE
    if _LISTED.search(question):
        return AnswerForm.LIST
    return AnswerForm.SENTENCE if _EXPLAINED.search(question) else AnswerForm.PHRASE


def names_answer(question: str) -> bool:
    """Return whether words of the text name the answer: a phrase is asked for, or several ("which are")."""
    form = form_of(question)
    return form is AnswerForm.PHRASE or (form is AnswerForm.LIST and _HOW.search(question) is None)


def kind_of(question: str) -> Kind:
    """Return the type of answer that the question asks for."""
    for kind, pattern in _COMPILED:
        if pattern.search(question):
            return kind
    return Kind.THING


def fit(kind: Kind, span: str, tags: frozenset[str]) -> float:
    """Return how well a span's form suits the kind: 1 well, 0 unknown, -1 badly.

    ``tags`` are jieba's parts of speech in the span, empty for other languages.
    """
    if kind is Kind.THING:
        counted = any(map(str.isdigit, span))
        return -0.3 if counted else 0.0 if not tags or tags & _NOUNS else -0.5
    if kind is Kind.PERSON and tags:
        return 1.0 if tags & {"nr", "nrt", "nrfg", "nt"} else -0.2
    if kind is Kind.PLACE and tags & {"ns"}:
        return 1.0
    if _FITTING[kind].search(span):
        if kind is Kind.NUMBER and _FITTING[Kind.DATE].search(span):
            return 0.2
        return 1.0
    return -1.0 if kind in _COUNTED else -0.2


def lacks_form(kind: Kind, sentence: str) -> bool:
    """Return whether a sentence has nothing of the form that is asked for: no number, time or address.

    False for kinds whose answers have no form of their own.
    """
    form = _SENTENCE_FORM.get(kind)
    return form is not None and _FITTING[form].search(sentence) is None


def focus_of(question: str) -> str:
    """Return the noun that the question asks about ("which *university* …"), or an empty text."""
    match = _FOCUS.search(question.lower())
    return "" if match is None else (match[1] or match[2] or "").split(" ")[-1]
