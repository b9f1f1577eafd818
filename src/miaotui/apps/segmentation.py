"""Words of a text, with their offsets: English by letters, Chinese by jieba.

Owns splitting, the lists of function words, and which words of a passage a question mentions. Knows no question types
and no scores. Invariant: offsets are characters of the given text, so that every span can be cut out of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from miaotui.libraries import need
from miaotui.retrieval.meaning.languages import is_chinese
from miaotui.retrieval.query.analysis import Analyzer

HAN = "\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(
    r"[$€£¥]?\d+(?:[.,:]\d+)*(?:[½¼¾])?(?:st|nd|rd|th|s|%)?(?![A-Za-z])"
    r"|(?:[A-Z]\.){2,}|[A-Z]\.(?=\s[A-Z])|[^\W_]+(?:[-'’.&][^\W_]+)*|½|\S"
)
FUNCTION_WORDS = frozenset(
    """a an the this that these those some any each every no such its his her their our your my it he
    she they we you i him them us me who whom whose which what when where why how there here of in on
    at by to from for with without into onto over under between among through during before after
    until since about against as than because due so if while although though but and or nor not is
    are was were be been being am has have had having do does did done will would shall should can
    could may might must also only just even still then thus however therefore both either neither
    up out off down per via within upon across along around near toward towards according rather
    very more most less least much many few several other another same own too yet ever never
    """.split()
)
_COMMON_VERBS = frozenset(
    """made make makes became become becomes began begin begins gave give gives took take takes went
    go goes came come comes got get gets said say says saw see sees known know knows found find finds
    left leave leaves kept keep keeps held hold holds led lead leads won win wins lost lose loses met
    told tell wrote write written brought bring built build built sent send spent spend stood stand
    let put set ran run runs rose rise fell fall grew grow drew draw driven drove shown show shows
    include includes including contain contains consist consists remain remains appear appears seem
    seems allow allows cause causes mean means meant use uses produce produces provide provides
    require requires serve serves cover covers occur occurs exist exists live lives play plays form
    forms refer refers believe believes think thinks thought want wants help helps tend tends follow
    follows happen happens work works located based called named considered born died
    """.split()
)
_IRREGULAR = """become became|begin began begun|break broke broken|bring brought|build built|buy bought|catch caught
    choose chose chosen|come came|deal dealt|do did done|draw drew drawn|drive drove driven|eat ate eaten
    fall fell fallen|feel felt|fight fought|find found|fly flew flown|forget forgot forgotten|get got gotten
    give gave given|go went gone|grow grew grown|hear heard|hide hid hidden|hold held|keep kept
    know knew known|lay laid|lead led|leave left|lend lent|lose lost|make made|mean meant|meet met|pay paid
    ride rode ridden|rise rose risen|run ran|say said|see saw seen|seek sought|sell sold|send sent
    shake shook shaken|shoot shot|show shown|sing sang sung|sink sank sunk|sit sat|sleep slept
    speak spoke spoken|spend spent|stand stood|steal stole stolen|strike struck|swear swore sworn
    swim swam swum|take took taken|teach taught|tear tore torn|tell told|think thought|throw threw thrown
    understand understood|wear wore worn|win won|write wrote written"""
_BASE_FORMS = {
    form: verb[0] for line in _IRREGULAR.splitlines() for verb in map(str.split, line.split("|")) for form in verb
}
SENTENCES_KEPT = 512  # whose words are kept: those of some questions
_NAME = re.compile(r"US\b|May(?= \d)|(?<=War )I\b")  # what is spelt as a function word and is none
_COUNTS = re.compile(r"\bhow many\b|(?:几|多少)[个次位座所名种条支场件类项家部本架艘层]?", re.IGNORECASE)
_HAN_COUNTED = frozenset("nvlij")  # parts of speech, by their first letter
_HAN_FUNCTION_TAGS = frozenset("u uj ul uv ug uz ud p c y e o r d x k w zg h".split())


@dataclass(frozen=True)
class Word:
    """Word at ``[start, end)``; ``term`` is the form for matching, empty for function words.

    ``tag`` is jieba's part of speech for Chinese words, "en" for others, "x" for punctuation.
    """

    start: int
    end: int
    text: str
    term: str
    tag: str

    @cached_property
    def is_punctuation(self) -> bool:
        """Return whether it is punctuation."""
        return self.tag == "x"

    @cached_property
    def lower(self) -> str:
        """Return its text in small letters."""
        return self.text.lower()

    @cached_property
    def is_capital(self) -> bool:
        """Return whether it begins with a capital."""
        return self.text[:1].isupper()

    @cached_property
    def is_number(self) -> bool:
        """Return whether it begins with a digit."""
        return self.text[:1].isdigit()

    @cached_property
    def is_function(self) -> bool:
        """Return whether a phrase neither begins nor ends with it."""
        if self.tag == "en":
            return not self.term
        return self.tag in _HAN_FUNCTION_TAGS or self.text in _HAN_LITTLE

    @cached_property
    def is_verb(self) -> bool:
        """Return whether it most likely is a verb, which ends a noun phrase."""
        if self.tag != "en":
            return self.tag in ("v", "vd", "vi", "vq", "df")
        if self.lower in _COMMON_VERBS:
            return True
        return self.text.islower() and len(self.lower) > 4 and self.lower.endswith("ed")


def words(text: str, start: int = 0, end: int | None = None) -> list[Word]:
    """Return the words and marks of ``text[start:end]``, with offsets into ``text``."""
    return list(_words(text[start:end], start))


@lru_cache(maxsize=SENTENCES_KEPT)
def _words(part: str, start: int) -> tuple[Word, ...]:
    """Return the words of a sentence that begins at ``start``: ranking, extracting and selecting ask in turn."""
    each = _chinese(part) if is_chinese(part) else _alphabetic(part)
    return tuple(Word(start + w.start, start + w.end, w.text, w.term, w.tag) for w in each)


_HAN_NAMES = frozenset(("nr", "nrt", "nrfg", "ns", "nt", "nz"))


def names_of(text: str) -> list[str]:
    """Return the names in a question: capitals that no sentence's start explains, Chinese names, foreign words."""
    found, starts = [], True
    for word in words(text):
        if is_chinese(text):
            is_name = word.tag in _HAN_NAMES or (word.text.isascii() and word.text.isalpha() and len(word.text) > 1)
        else:
            is_name = word.text[:1].isupper() and (not starts or word.text.isupper()) and word.text.split("'")[0] != "I"
        if is_name and word.term and word.text.lower() not in FUNCTION_WORDS:
            found.append(word.text)
        starts = word.is_punctuation and word.text in ".!?:"
    return found


def counted_of(question: str) -> str:
    """Return the first word of content after "how many" or a Chinese measure word (几座*桥*), or an empty text."""
    match = _COUNTS.search(question)
    if match is None:
        return ""
    following = words(question, match.end())
    if is_chinese(question):
        following = [word for word in following[:1] if word.tag[:1] in _HAN_COUNTED]
    return next((word.text for word in following if word.term and not word.is_verb), "")


def terms_of(text: str) -> set[str]:
    """Return the terms that a text is about."""
    return {word.term for word in words(text) if word.term}


def _alphabetic(part: str) -> Iterator[Word]:
    for match in _WORD.finditer(part):
        text = match.group()
        if not any(letter.isalnum() for letter in text):
            yield Word(match.start(), match.end(), text, "", "x")
            continue
        is_little = text.lower() in FUNCTION_WORDS and _NAME.match(part, match.start()) is None
        yield Word(match.start(), match.end(), text, "" if is_little else _stem(text), "en")


def _chinese(part: str) -> Iterator[Word]:
    for start, place, tag in _joined(part):
        text = part[start:place]
        if not text.strip():
            continue
        if not any(letter.isalnum() for letter in text):
            yield Word(start, place, text, "", "x")
            continue
        kind = "m" if text[0].isdigit() else tag
        says_little = kind in _HAN_FUNCTION_TAGS or text in _HAN_LITTLE
        term = "" if says_little else _stem(text) if text.isascii() else text
        yield Word(start, place, text, term, "n" if kind == "x" else kind)


def _joined(part: str) -> Iterator[tuple[int, int, str]]:
    """Return (start, end, tag) of jieba's words, foreign names and long numbers in one piece."""
    cut: list[tuple[int, int, str]] = []
    place = 0
    for text, tag in _jieba().tag(part):
        start = part.index(text, place)
        place = start + len(text)
        cut.append((start, place, tag))
    ends = {end for _, end, _ in cut}
    whole = {match.start(): _whole_end(match, ends) for match in _WHOLE.finditer(part)}
    done = 0
    for start, place, tag in cut:
        found = next((at for at in range(start, place) if at in whole), None)
        if start < done:
            continue
        if found is not None and whole[found] > place:
            if found > start:
                yield start, found, "p" if part[start:found] in _HAN_PREPOSITIONS else tag
            done = whole[found]
            yield found, done, "nr" if _SEPARATED.search(part, found, done) else "m"
        elif place > done:
            yield start, place, tag


def _whole_end(match: re.Match[str], ends: set[int]) -> int:
    """Return where a name or number ends: a name where one of jieba's words does, if part of it does."""
    last = max((mark.end() for mark in _SEPARATED.finditer(match.group())), default=0)
    if not last:
        return match.end()
    return max((end for end in ends if match.start() + last < end <= match.end()), default=match.end())


_SEPARATED = re.compile("[·・•‧]")
# The characters that write foreign names by their sound; the word after a name begins with another.
_SOUNDS = (
    "阿埃艾爱安昂奥巴白班邦保鲍北贝本比彼毕宾波伯博勃布采策查昌彻茨达戴丹道德登邓迪底蒂丁东杜顿多厄恩尔法凡范"
    "菲费芬丰冯佛夫弗福盖甘冈高戈哥格葛根贡古瓜哈海汉豪赫黑亨洪侯胡华怀惠霍基吉季加佳贾简杰金津卡凯坎康考科可"
    "克肯孔库夸奎拉莱赖兰朗劳勒雷里理利莉立丽连林琳列隆卢鲁路露伦罗洛吕马玛迈麦曼毛梅蒙门米密敏明缪摩莫墨默姆"
    "穆纳娜乃南尼妮涅宁纽农努诺欧帕潘庞培佩彭皮平珀普齐奇契乔切琴丘让热仁日荣儒瑞若萨塞桑森沙莎山尚绍舍申圣施"
    "什史舒斯丝思苏索塔台泰坦汤唐陶特提田廷铁通图托瓦万旺威韦维魏温翁沃乌武伍西希锡夏香肖萧谢辛欣休修许雪逊雅"
    "亚延扬杨耶叶伊依易因英尤于约赞泽曾扎詹珍治朱兹卓佐信瑟翰文汗奈蔡曹岑楚圭柯昆黎联廉良烈留柳娄楼律芒孟派匹"
    "泼恰邱屈赛顺滕陀娃耀宰章真芝智仲祖朔卜"
)
_WHOLE = re.compile(
    f"[{_SOUNDS}]{{1,6}}(?:[·・•‧][{_SOUNDS}A-Z]{{1,7}})+"
    r"|\d+(?:[,.，:–—-]\d+)+(?:[%％]|°[A-Z]?)?|\d+(?:[%％]|°[A-Z]?|℃)"
)
_HAN_PREPOSITIONS = frozenset("由 被 在 和 与 对 向 从 给 为 以".split())
_HAN_LITTLE = frozenset("是 有 为 被 把 在 了 的 会 能 可以 进行 一个 什么 谁 哪".split())


@lru_cache(maxsize=32_768)
def _stem(word: str) -> str:
    word = word.replace("’", "'").removesuffix("'s")
    word = _BASE_FORMS.get(word.lower(), word)
    return " ".join(_analyzer().terms(word)) or word.lower()


@lru_cache(maxsize=1)
def _analyzer() -> Analyzer:
    return Analyzer()


@lru_cache(maxsize=1)
def _jieba() -> Any:
    return need("rjieba")
