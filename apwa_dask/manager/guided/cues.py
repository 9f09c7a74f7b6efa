"""Which choices a question gives any reason for: the usual fault of small models is a step nobody asked for.

A choice is left out only where an English question has none of the words that it takes; which of the others
is meant stays the model's to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = [
    "begins_with_counting",
    "is_mentioned",
    "lists_labels",
    "may_count",
    "may_label",
    "may_number",
    "may_order",
    "may_rewrite",
    "means_all",
    "means_each",
    "means_kind",
    "means_some",
    "named_after_each",
    "period_of",
    "picks",
    "redacts",
    "speaks_of_groups",
    "speaks_of_more",
    "speaks_of_time",
    "wants_all_in_order",
    "wants_frequency",
    "wants_number",
    "wants_order",
    "wants_overview",
    "wants_rewrite",
    "wants_share",
    "wants_values",
]


def _words(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{pattern})", re.IGNORECASE)


_ENGLISH = _words(r"(?:the|of|each|every|which|what|how|is|are|all|these|this|give|list|for|in)\b")
_COUNT = _words(
    r"how (?:many|often)|counts?\b|number|most\b|more than|fewest|least\b|frequen|common|per\b|distribut"
    r"|tally|times\b|percent|share|fraction|ratio|breakdown|histogram|top\b|rare|popular|for each|by\b"
)
_NUMBER = _words(
    r"average|mean\b|total|sum\b|smallest|largest|minim|maxim|highest|lowest|longest|shortest"
    r"|how (?:much|long|old)|add up|overall|typical|biggest|most expensive|cheapest"
)
_ORDER = _words(
    r"most|least|top\b|largest|smallest|biggest|longest|shortest|highest|lowest|best|worst|first|last|newest|oldest"
    r"|latest|earliest|sort|order|rank|descending|ascending|fewest|greatest|cheapest|popular"
)
_REWRITE = _words(
    r"summar|translat|re-?writ|redact|replac|anonymi|pseudonymi|describ|explain|writ|draft|repl(?:y|ies)|answer"
    r"|paraphras|shorten|simplif|correct|convert|remov|mask|blank|generat|suggest|headline|caption|titles?\b|clean"
    r"|fix|normali|turn |rephras|condens|gist|comment on|sentence|tl;?dr|improve|expand|make "
)
_TOLD = re.compile(
    r"\s*(?:please\s+)?(?:(?:replace|redact|anonymi[sz]e|pseudonymi[sz]e|mask|translate|rewrite|paraphrase|shorten|"
    r"simplify)\b|(?:describe|caption) (?:each|every|the|all)\b|summari[sz]e (?:each|every)\b)",
    re.IGNORECASE,
)
_REDACTS = _words(
    r"redact|anonymi[sz]|pseudonymi[sz]|mask|personal (?:information|data|details)|personally identif"
)
_LABEL = _words(
    r"label|classif|categor|sentiment|tags?\b|each|every|topic|kind|types?\b|assign|rate|grade|score|mood|tone"
    r"|language|either|whether|urgen|priorit|group|class\b"
)
_COMPUTED = _words(r"average|mean\b|median|sum of|standard deviation|total (?:of|amount|price|cost|area)")
_RANKED = _words(
    r"longest|shortest|largest|smallest|biggest|highest|lowest|newest|oldest|latest|earliest|cheapest|greatest"
    r"|top\b|sort|rank|(?:most|least) (?:frequent|common|popular|often|expensive)|fewest"
)
_WHOLE = _words(r"sort|rank|order (?:the|them|all|by)")
_FREQUENCY = _words(
    r"how many|how often|count (?:the|how|all)|(?:most|least) (?:frequent|common|popular|often)"
)
_OVERVIEW = _words(
    r"overview|in common|themes|overall (?:picture|summary|impression)|in general|altogether"
    r"|main (?:points|issues)"
)
_SOME = _words(
    r"how many of|what (?:share|fraction|percentage|part)"
    r"|how many\b[^?.]*\b(?:are|is|were|was)\s+(?!there|in\b|given)"
    r"|how many\b[^?.]*\b(?:mention|contain|ask|complain|talk|refer|express|show|include|use|praise|want|need"
    r"|request|describe|discuss|say|have|has|about|with|that|who)"
)
_ALL = re.compile(
    r"\bhow many\b(?!.*\b(?:that|who|which|with|about|mention))[^?.]*\b(?:are|is) (?:there|in the)\b",
    re.IGNORECASE,
)
_EACH = _words(r"each|every")
_LISTED = re.compile(r":\s*[^:?!]{2,40}?(?:\([^()]*\))?\s*(?:,|\bor\b)", re.IGNORECASE)
_SHARE = _words(
    r"what (?:fraction|share|percentage|proportion|part)\b|(?:fraction|share|percentage|proportion) of\b"
)
_PICKS = re.compile(r"\s*which of (?:the|these|those)\b", re.IGNORECASE)
_LISTS = re.compile(r"\s*(?:please\s+)?(?:return|list|show|give|find)\b", re.IGNORECASE)
_EXTRACTS = re.compile(
    r"\s*(?:for (?:each|every|all)\b[^,.:]{1,40}?,?\s+)?(?:please\s+)?extract\b", re.IGNORECASE
)
_PERIOD = re.compile(r"\b(?:each|every|per|by) (decade|century|year|month)\b", re.IGNORECASE)
_SUMMARY = _words(r"summar|main (?:concern|topic|theme|point|issue|idea)|gist\b|overview")
_PLAIN_WORDS = """
the and all any that which what who whose how many much are were was have has had with without than more less fewer
longer shorter larger smaller above below over under least most between from for each every return list give find show
text texts rows row records characters letters words length long short number one two three four five six seven eight
nine ten eleven twelve twenty thirty fifty hundred thousand dozen count there their them these those only not does did
order sort name names ids out per got get been into its also please tell
"""
_PLAIN = frozenset(word.rstrip("s") for word in _PLAIN_WORDS.split())
"""Words that put no condition on a row."""
_KIND = _words(r"(?:an?|some|any) (?:\w+ )?(?:shade|kind|sort|type|form|variety|variant|version)s? of\b")
_TIME = _words(
    r"(?:19|20)\d\d\b|\d{1,4}[./-]\d{1,2}[./-]\d{1,4}|january|february|march|april|may \d|june|july|august|september"
    r"|october|november|december|today|yesterday|(?:last|this|past) (?:year|month|week|day)"
)
_AFTER_EACH = _words(r"(?:each|every|per|by)\s+(?:the |their |its |different )?((?:[a-z][\w-]*\s*){1,3})")
_GROUPS = _words(
    r"each|every|per\b|by\b|respectively|group|distribut|breakdown|most\b|fewest|more than|at least|than\b"
)
_BRITISH = re.compile(r"(?<=[a-z]{3})our")
_PART = re.compile(r"[^\W\d_]{3,}|\d+")


def may_count(question: str) -> bool:
    """Whether rows may be counted."""
    return _any(_COUNT, question)


def means_some(question: str) -> bool:
    """Whether only some rows are counted: "how many of them are late", not "how many are there"."""
    return _SOME.search(question) is not None


def means_all(question: str) -> bool:
    """Whether rows are counted whatever their texts say."""
    return _ALL.search(question) is not None


def may_number(question: str) -> bool:
    """Whether a number may be computed."""
    return _any(_NUMBER, question)


def may_order(question: str) -> bool:
    """Whether rows or groups may be ranked."""
    return _any(_ORDER, question)


def may_rewrite(question: str) -> bool:
    """Whether a new text may be wanted for each row."""
    return _any(_REWRITE, question)


def wants_rewrite(question: str) -> bool:
    """Whether it tells outright to write each text anew: "Replace every name in ...", "Translate ..."."""
    return _TOLD.match(question) is not None


def redacts(question: str) -> bool:
    """Whether identifying parts of texts are to be taken out and the rest kept."""
    return _REDACTS.search(question) is not None


def may_label(question: str) -> bool:
    """Whether each row may get one of several labels."""
    return _any(_LABEL, question) or lists_labels(question)


def wants_frequency(question: str) -> bool:
    """Whether it is counted how often something is so."""
    return _FREQUENCY.search(question) is not None


def begins_with_counting(question: str) -> bool:
    """Whether it counts rows by what is there, and labels none: "how many ...", "count the ..."."""
    return re.match(r"\s*(?:how many|count)\b", question, re.IGNORECASE) is not None


def wants_number(question: str) -> bool:
    """Whether a number is computed from a column."""
    return _COMPUTED.search(question) is not None


def wants_order(question: str) -> bool:
    """Whether rows or groups are ranked for sure."""
    return _RANKED.search(question) is not None


def wants_all_in_order(question: str) -> bool:
    """Whether all rows are sorted, not the first few picked."""
    return _WHOLE.search(question) is not None


def wants_overview(question: str) -> bool:
    """Whether one text about many rows is asked for by name."""
    return _OVERVIEW.search(question) is not None


def speaks_of_more(question: str, known: Iterable[str]) -> bool:
    """Whether rows are to be listed by more than their columns: of two nouns one is the row's ("the spam messages")."""
    if _LISTS.match(question) is None:
        return False
    held = {word.lower().rstrip("s") for name in known for word in _PART.findall(name)}
    words = (word.lower().rstrip("s") for word in _PART.findall(question) if not word[0].isupper())
    return len({w for w in words if not w.isdigit()} - held - _PLAIN) > 1


def wants_values(question: str) -> bool:
    """Whether it tells outright to take values out of each text: "For every letter extract the date"."""
    return _EXTRACTS.match(question) is not None


def wants_share(question: str) -> bool:
    """Whether it asks which part of the rows meets a condition."""
    return _SHARE.search(question) is not None


def picks(question: str) -> bool:
    """Whether it picks rows out of all: "which of these are late?"."""
    return _PICKS.match(question) is not None


def period_of(question: str) -> str:
    """``decade``, ``year``, ... where one text for each of them is asked for, else nothing."""
    found = _PERIOD.search(question)
    return found.group(1).lower() if found and _SUMMARY.search(question) else ""


def means_each(question: str) -> bool:
    """Whether something is wanted for each row, so that no text decides which rows stay."""
    return _EACH.search(question) is not None


def means_kind(question: str) -> bool:
    """Whether rows are kept by what a value means, not by the value: "whose colour is a shade of red"."""
    return _KIND.search(question) is not None


def speaks_of_groups(question: str) -> bool:
    """Whether rows may be counted by something: not "how many cars are blue"."""
    return _GROUPS.search(question) is not None


def speaks_of_time(question: str) -> bool:
    """Whether it says a date or a period, so that rows may be kept by it."""
    return _TIME.search(question) is not None


def named_after_each(question: str, names: Iterable[str]) -> list[str]:
    """Columns that stand after "each", "per" or "by": "How many parts of each maker ..."."""
    after = [_spelled(found.split()) for found in _AFTER_EACH.findall(question)]
    parts = {name: _spelled(_PART.findall(name)) for name in names}
    found = [name for name, words in parts.items() if any(words == heard[: len(words)] for heard in after)]
    return [name for name in found if parts[name]]


def lists_labels(question: str) -> bool:
    """Whether the question lists labels after a colon: ``a topic: billing (charges), delivery or praise``."""
    return _LISTED.search(question) is not None


def is_mentioned(names: Iterable[str], question: str) -> bool:
    """Whether any word of the names occurs in the question, in full or as the beginning of a longer one."""
    lowered = _american(question.lower())
    parts = {_american(part.lower()) for name in names for part in _PART.findall(name)}
    return any(re.search(rf"\b{re.escape(part)}", lowered) for part in parts)


def _spelled(words: Iterable[str]) -> list[str]:
    """Words in one case, number and spelling."""
    return [_american(word.lower()).rstrip("s") for word in words]


def _american(lowered: str) -> str:
    """``colour`` as ``color``: a question and the names of columns may be of two countries."""
    return _BRITISH.sub("or", lowered)


def _any(words: re.Pattern[str], question: str) -> bool:
    return words.search(question) is not None or _ENGLISH.search(question) is None
