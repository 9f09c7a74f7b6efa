"""The SQL functions an expression may call: a closed list, all of them pure functions of one row.

Left out on purpose: everything that reads a file, a setting, a sequence or the network; everything that gives
another value when a run is resumed (clocks, randomness); everything volatile; and functions whose cost is
quadratic in the length of a cell (edit distances), because DuckDB cannot interrupt them.
"""

from __future__ import annotations

__all__ = ["AGGREGATES", "ARITHMETIC", "FUNCTIONS", "REASONS", "SIZED"]

_OPERATORS = "!~~ !~~* % & && * ** + - ->> -> / // << <@ = @> >> @ ^ ^@ | || ~~ ~~* ~~~ <> != < > <= >="
_NUMBERS = """
abs acos acosh asin asinh atan atan2 atanh add bit_count cbrt ceil ceiling cos cosh cot degrees divide even
exp factorial fdiv floor fmod gamma gcd greatest greatest_common_divisor isfinite isinf isnan lcm least
least_common_multiple lgamma ln log log10 log2 mod multiply nextafter pi pow power radians round round_even
sign signbit sin sinh sqrt subtract tan tanh trunc xor
"""
_TEXT = """
ascii bin bit_length char_length character_length chr concat concat_ws contains ends_with from_hex hex instr
lcase left left_grapheme len length length_grapheme like_escape ilike_escape not_like_escape not_ilike_escape
lower lpad ltrim md5 nfc_normalize octet_length ord overlay parse_filename position prefix regexp_escape
regexp_extract regexp_extract_all regexp_full_match regexp_matches regexp_replace regexp_split_to_array repeat
replace reverse right right_grapheme rpad rtrim sha1 sha256 split split_part starts_with str_split
str_split_regex string_split string_split_regex string_to_array strip_accents strlen strpos substr substring
substring_grapheme suffix to_base to_hex translate trim ucase unhex unicode upper url_decode url_encode
jaccard hamming encode decode base64 to_base64 from_base64 format_bytes
"""
_TIME = """
century date_add date_diff date_part date_sub date_trunc datediff datepart datesub datetrunc day dayname
dayofmonth dayofweek dayofyear days_in_month decade epoch epoch_ms epoch_us era hour isodow isoyear julian
last_day make_date make_timestamp microsecond millennium millisecond minute month monthname quarter second
strftime strptime time_bucket timezone to_centuries to_days to_decades to_hours to_microseconds to_millennia
to_milliseconds to_minutes to_months to_quarters to_seconds to_timestamp to_weeks to_years try_strptime week
weekday weekofyear year yearweek
"""
_NESTED = """
array_append array_concat array_contains array_distinct array_extract array_filter array_has array_has_all
array_has_any array_length array_position array_prepend array_reverse array_slice array_sort array_to_string
array_transform array_unique cardinality element_at flatten list_aggr list_aggregate list_any_value
list_append list_apply list_avg list_bool_and list_bool_or list_cat list_concat list_contains list_count
list_distinct list_element list_extract list_filter list_first list_has list_has_all list_has_any list_indexof
list_intersect list_last list_max list_median list_min list_mode list_pack list_position list_prepend
list_product list_reduce list_reverse list_reverse_sort list_select list_slice list_sort list_stddev_samp
list_string_agg list_sum list_transform list_unique list_value list_var_samp list_where list_zip map_contains
map_extract map_extract_value map_keys map_values struct_concat struct_contains struct_extract
struct_extract_at struct_has struct_insert struct_keys struct_pack struct_update struct_values json json_array
json_array_length json_contains json_exists json_extract json_extract_path json_extract_path_text
json_extract_string json_keys json_object json_quote json_type json_valid json_value to_json
"""
_CHOICE = "if nullif ifnull coalesce typeof switch"

_ARITHMETIC_SIGNS = "% & * ** + - / // << <> = >> ^ | != < > <= >= @ !"
ARITHMETIC: frozenset[str] = frozenset(f"{_ARITHMETIC_SIGNS} {_NUMBERS} {_CHOICE}".split())
"""Of these, the ones whose result is never larger than their arguments: numbers in, numbers out."""

FUNCTIONS: frozenset[str] = frozenset(
    " ".join((_OPERATORS, _NUMBERS, _TEXT, _TIME, _NESTED, _CHOICE)).split()
)
"""Names as DuckDB's parser writes them (operators included)."""

SIZED: dict[str, int] = {"repeat": 1, "lpad": 1, "rpad": 1}
"""Position of the argument that sets the size of the result: it must be a literal of at most `MAX_SIZE`."""

MAX_SIZE = 10_000

AGGREGATES: frozenset[str] = frozenset(
    (
        *("count", "count_star", "sum", "avg", "mean", "min", "max", "median", "mode", "stddev", "std"),
        *("stddev_samp", "var_samp", "variance", "any_value", "first", "last", "string_agg", "group_concat"),
        *("list", "array_agg", "bool_and", "bool_or", "quantile", "quantile_cont", "approx_count_distinct"),
        *("arg_min", "arg_max", "row_number", "rank", "dense_rank", "lead", "lag", "ntile"),
    )
)

_CLOCKS = (
    *("now", "today", "current_date", "current_timestamp", "current_time", "localtime", "localtimestamp"),
    *("get_current_timestamp", "get_current_time", "transaction_timestamp", "age", "ago", "random", "uuid"),
    *("gen_random_uuid", "uuidv4", "uuidv7", "setseed"),
)
_QUADRATIC = (
    *("levenshtein", "editdist3", "damerau_levenshtein", "jaro_similarity", "jaro_winkler_similarity"),
    "mismatches",
)

REASONS: dict[str, str] = {
    **dict.fromkeys(
        _CLOCKS,
        "it gives another value on each run, so a resumed run would not have the same rows; "
        "write the value as a literal, such as DATE '2026-01-31'",
    ),
    **dict.fromkeys(
        _QUADRATIC,
        "its cost grows with the square of the text's length; "
        "compare with jaccard, starts_with or a regular expression",
    ),
    **dict.fromkeys(
        ("unnest", "generate_series", "range", "generate_subscripts"),
        "it makes several rows or lists of any size; use an explode step",
    ),
    "row": "it joins several expressions; write one expression, or a struct with names: {'a': x, 'b': y}",
}
"""Why a well-known function is not offered, and what to use in its place."""
