//! Types with values that are hard on somebody: borders, infinities, odd zones, quoting, depth.

use Shape::{
    Array, Bool, Bools, Bytea, Byteas, Float, Floats, Json, Jsons, Number, Numbers, Text,
    Timestamp, TimestampTz, TimestampTzs, Timestamps,
};

/// What a column's values look like in a record, and how Postgres itself says so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    Number,
    Float,
    Bool,
    Text,
    Json,
    Bytea,
    Timestamp,
    TimestampTz,
    /// Of texts.
    Array,
    Numbers,
    Floats,
    Bools,
    Jsons,
    Byteas,
    Timestamps,
    TimestampTzs,
}

/// A type with its values.
pub(crate) struct Type {
    /// As SQL names it.
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    /// What the reference page says beside it.
    pub(crate) note: &'static str,
    /// Texts, or expressions behind `=`. The first is the example of the reference page.
    pub(crate) literals: &'static [&'static str],
}

impl Shape {
    /// SQL that says, from the column `v`, the JSON that a record must hold. None of it knows our code.
    pub(crate) fn expected(self) -> &'static str {
        // `format('%s')` is what the type's own output function prints; a cast to text may say something else.
        match self {
            Text => "to_jsonb(format('%s', v))::text",
            Number => "format('%s', v)",
            Float => {
                "CASE WHEN format('%s', v) ~ 'N|y' THEN to_jsonb(v::text)::text ELSE format('%s', v) END"
            }
            Bool | Numbers | Floats | Bools | Jsons | Timestamps => PLAIN,
            Json => "translate(format('%s', v), E'\\n\\r', '  ')",
            Bytea => "to_jsonb(translate(encode(v, 'base64'), E'\\n', ''))::text",
            // Postgres' own JSON of a time is ISO 8601 too, but for years before Christ, where we keep the text.
            Timestamp => {
                "CASE WHEN format('%s', v) ~ 'BC' THEN to_jsonb(format('%s', v)) ELSE to_jsonb(v) END::text"
            }
            TimestampTz => {
                "CASE WHEN format('%s', v) ~ 'BC' THEN to_jsonb(format('%s', v))::text ELSE replace(to_jsonb(v)::text, '+00:00\"', 'Z\"') END"
            }
            // Only numbers would be no strings in Postgres' own JSON.
            Array => {
                "CASE WHEN format('%s', v) ~ '^\\[' THEN to_jsonb(format('%s', v))
                      WHEN pg_typeof(v) = 'numeric[]'::regtype THEN to_jsonb(v::text[]) ELSE to_jsonb(v) END::text"
            }
            TimestampTzs => "replace(to_jsonb(v)::text, '+00:00\"', 'Z\"')",
            Byteas => {
                "(SELECT coalesce(jsonb_agg(translate(encode(e, 'base64'), E'\\n', '') ORDER BY n), '[]')::text
                  FROM unnest(v) WITH ORDINALITY AS t(e, n))"
            }
        }
    }

    /// The words of the reference page.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Number => "number",
            Float => "number; `NaN` and infinities as strings",
            Bool => "`true` or `false`",
            Text => "string",
            Json => "the document itself",
            Bytea => "string, base64",
            Timestamp => "string, ISO 8601",
            TimestampTz => "string, ISO 8601 in UTC",
            Array => "array of strings",
            Numbers => "array of numbers",
            Floats => "array of numbers; `NaN` and infinities as strings",
            Bools => "array of `true` and `false`",
            Jsons => "array of the documents themselves",
            Byteas => "array of strings, base64",
            Timestamps => "array of strings, ISO 8601",
            TimestampTzs => "array of strings, ISO 8601 in UTC",
        }
    }
}

impl Type {
    /// Its name on a server with this `server_version_num`. Before 15 a scale was neither negative nor beyond the precision.
    pub(crate) fn name_on(&self, version: i64) -> &'static str {
        match self.name {
            "numeric(3,-2)" | "numeric(2,4)" if version < 150_000 => "numeric",
            name => name,
        }
    }
}

/// With bounds other than 1 the text stands for the array.
const PLAIN: &str =
    "CASE WHEN format('%s', v) ~ '^\\[' THEN to_jsonb(format('%s', v)) ELSE to_jsonb(v) END::text";

/// Types of the database's own, and extensions.
pub(crate) const SETUP: &str = r#"
    CREATE EXTENSION hstore; CREATE EXTENSION ltree; CREATE EXTENSION citext; CREATE EXTENSION isn;
    CREATE EXTENSION cube; CREATE EXTENSION seg;
    CREATE TYPE mood AS ENUM ('ok', 'NULL', 'a,b', 'q"uote', 'back\slash', '{brace}', 'ümlaut', ' ');
    CREATE TYPE "Odd type" AS (a int, "b c" text, d timestamptz);
    CREATE TYPE textrange AS RANGE (subtype = text);
    CREATE DOMAIN price AS numeric(12, 2) CHECK (value >= 0);
    CREATE DOMAIN even AS int CHECK (value % 2 = 0);
    CREATE DOMAIN evener AS even CHECK (value % 4 = 0);
    CREATE DOMAIN document AS jsonb;
    CREATE DOMAIN moment AS timestamptz(3);
    CREATE DOMAIN flags AS boolean[];
    CREATE DOMAIN feeling AS mood;
"#;

const EXACT: &str = "every digit is kept, trailing zeros too; `NaN` and infinities are their text";
const READERS: &str = "all digits; readers that hold numbers as doubles lose precision beyond 2^53";
const TEXT: &str = "the text that Postgres prints";
const BC: &str = "`infinity` and years before Christ are the text that Postgres prints";
const ARRAYS: &str =
    "nested for more dimensions; with a lower bound other than 1, a string of the whole text";
const OTHER: &str = "a type that is not built in: the text that it prints";

pub(crate) const TYPES: &[Type] = &[
    t("boolean", Bool, "", &["true", "false"]),
    t("smallint", Number, "", &["-32768", "0", "32767", "7", "-1"]),
    t("integer", Number, "", &["42", "-2147483648", "2147483647", "0", "-1"]),
    t(
        "bigint",
        Number,
        READERS,
        &["9007199254740993", "-9223372036854775808", "9223372036854775807", "0", "-1"],
    ),
    t("oid", Number, "", &["4294967295", "0", "16384", "2147483648"]),
    t(
        "real",
        Float,
        "the shortest digits that read back to the same value",
        &[
            "0.1",
            "NaN",
            "Infinity",
            "-Infinity",
            "-0",
            "1e-45",
            "3.4028235e38",
            "16777217",
            "1e10",
            "1.17549435e-38",
            "-123.456",
        ],
    ),
    t(
        "double precision",
        Float,
        "the shortest digits that read back to the same value",
        &[
            "0.1",
            "NaN",
            "Infinity",
            "-Infinity",
            "-0",
            "5e-324",
            "1.7976931348623157e308",
            "9007199254740993",
            "1e22",
            "1e23",
            "123456789.12345679",
            "-2.2250738585072014e-308",
        ],
    ),
    t(
        "numeric",
        Text,
        EXACT,
        &[
            "12.50",
            "NaN",
            "Infinity",
            "-Infinity",
            "0",
            "0.000",
            "-0.0",
            "1e400",
            "1e-400",
            "100.00",
            "-99999999999999999999.99999999999999999999",
            "=repeat('9', 1000)::numeric",
            "=('0.' || repeat('123456789', 111))::numeric",
            "=-(repeat('7', 500) || '.' || repeat('3', 500))::numeric",
        ],
    ),
    t(
        "numeric(10,2)",
        Text,
        EXACT,
        &["12.5", "0", "-0.004", "99999999.99", "-99999999.99", "NaN", "1.005"],
    ),
    t("numeric(3,-2)", Text, EXACT, &["12345", "-99900", "0", "50"]),
    t("numeric(2,4)", Text, EXACT, &["0.0012", "-0.0099", "0"]),
    t(
        "money",
        Text,
        "with `$`, comma and point on every server, whatever its locale",
        &["1234.11", "-1234.11", "0", "92233720368547758.07", "-92233720368547758.08"],
    ),
    t(
        "text",
        Text,
        "",
        &[
            "plain",
            "",
            "=E'line\\nbreak\\ttab\\rreturn'",
            "=E'\\x01\\x02\\x1f\\x7f'",
            "quote \" and \\ and /",
            "ä ö 漢字 🦀 \u{2028}\u{2029} e\u{301}",
            "NULL",
            "{\"not\": \"parsed\"}",
            "__debezium_unavailable_value",
            "=repeat('long ', 5000)",
            "</script>",
        ],
    ),
    t("varchar(20)", Text, "", &["abc", "", "trailing  ", "üüüüüüüüüüüüüüüüüüüü"]),
    t(
        "character(10)",
        Text,
        "padded with blanks, as it is stored",
        &["cone", "", "ten  chars", "ü"],
    ),
    t("name", Text, "", &["pg_class", "", "With \"Quotes\""]),
    t("\"char\"", Text, "", &["a", "\\001", "\\377", "\""]),
    t("citext", Text, OTHER, &["MiXed", "", "straße"]),
    t(
        "bytea",
        Bytea,
        "standard alphabet, padded",
        &[
            "\\x0001feff",
            "\\x",
            "\\x00",
            "\\xff",
            "\\x0102",
            "\\x010203",
            "=decode(repeat('00ff10', 4000), 'hex')",
            "=convert_to('text ü', 'UTF8')",
        ],
    ),
    t(
        "date",
        Text,
        BC,
        &[
            "2016-11-04",
            "infinity",
            "-infinity",
            "0044-03-15 BC",
            "4713-01-01 BC",
            "5874897-12-31",
            "1582-10-10",
            "0001-01-01",
            "1970-01-01",
            "2000-02-29",
        ],
    ),
    t(
        "time",
        Text,
        "`24:00:00` exists",
        &["13:51:30", "24:00:00", "00:00:00", "23:59:59.999999", "13:51:30.1", "00:00:00.000001"],
    ),
    t("time(3)", Text, "`24:00:00` exists", &["13:51:30.123456", "24:00", "23:59:59.9999"]),
    t(
        "timetz",
        Text,
        "with the zone it was written with",
        &[
            "13:51:30.123789+02",
            "24:00:00+00",
            "00:00:00-15:59:59",
            "23:59:59.999999+15:59:59",
            "12:00:00+05:30",
            "12:00:00-00:44:30",
            "24:00:00-08",
        ],
    ),
    t(
        "timestamp",
        Timestamp,
        BC,
        &[
            "2016-11-04 13:51:30.123456",
            "infinity",
            "-infinity",
            "0044-03-15 12:00:00 BC",
            "4713-12-31 23:59:59.999999 BC",
            "294276-12-31 23:59:59.999999",
            "21016-11-04 13:51:30",
            "1970-01-01",
            "1582-10-10 00:00",
            "1936-10-25 22:10:12.608",
            "2000-01-01 24:00:00",
            "0001-01-01",
        ],
    ),
    t(
        "timestamp(3)",
        Timestamp,
        BC,
        &[
            "2016-11-04 13:51:30.123456",
            "infinity",
            "2026-01-01 00:00:00.9999",
            "1969-12-31 23:59:59.9",
        ],
    ),
    t(
        "timestamptz",
        TimestampTz,
        BC,
        &[
            "2016-11-04 13:51:30.123456+02",
            "infinity",
            "-infinity",
            "4714-12-31 23:59:59.999999Z BC",
            "0001-12-31 23:00:00-02 BC",
            "294276-12-31 23:59:59.999999+00",
            "21016-11-04 13:51:30.123456+07:00",
            "1883-11-18 12:03:57 America/New_York",
            "2026-03-29 02:30:00 Europe/Berlin",
            "1970-01-01 00:00:00-15:59:59",
        ],
    ),
    t(
        "timestamptz(0)",
        TimestampTz,
        BC,
        &["2016-11-04 13:51:30.5+02", "infinity", "1999-12-31 23:59:59.6Z"],
    ),
    t(
        "interval",
        Text,
        "ISO 8601",
        &[
            "1 year 2 months 3 days 04:05:06.78",
            "0",
            "-1 year",
            "1 mon -1 day",
            "-00:00:00.000001",
            "178000000 years",
            "-178000000 years",
            "2147483647 days",
            "1000000:00:00",
            "-1 days +02:03:00",
        ],
    ),
    t("interval year to month", Text, "ISO 8601", &["3-4", "-0-1", "0-0"]),
    t(
        "uuid",
        Text,
        "",
        &[
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "00000000-0000-0000-0000-000000000000",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ],
    ),
    t(
        "json",
        Json,
        "as it was written, on one line: order, repeated keys and digits stay",
        &[
            r#"{"b": 1, "a": 2}"#,
            r#"{"a": 1, "a": 2}"#,
            r#""\u0000""#,
            "1e400",
            "null",
            "[]",
            "=E'{\\n \"a\":\\r\\n\\t[1,\\n2]}'",
            r#"{"n": 123456789012345678901234567890.123456789}"#,
            r#""\ud83e\udd80 \/ \" \\""#,
            "=(repeat('[', 500) || repeat(']', 500))::json",
            "\"漢字\"",
            "-0.0",
            "true",
        ],
    ),
    t(
        "jsonb",
        Json,
        "as Postgres prints it",
        &[
            r#"{"b": 1, "a": 2}"#,
            r#"{"a": 1, "a": 2}"#,
            "1e400",
            "null",
            "{}",
            "\"\"",
            r#""\n\t\u0001 \" \\""#,
            r#"{"n": 1.10, "m": -0.0}"#,
            "=(repeat('[', 500) || repeat(']', 500))::jsonb",
            "[1, [2, [3]], {\"k\": null}]",
        ],
    ),
    t("jsonpath", Text, TEXT, &["$.a[*] ? (@.b > 1)", "$"]),
    t(
        "xml",
        Text,
        TEXT,
        &[
            "<a b=\"c\">x &amp; y</a>",
            "just content",
            "<?xml version=\"1.0\"?><r/>",
            "<a>\u{e4}</a>",
        ],
    ),
    t(
        "inet",
        Text,
        TEXT,
        &["192.168.2.0/12", "10.0.0.1", "::1", "2001:db8::ff00:42:8329/64", "::ffff:1.2.3.4"],
    ),
    t("cidr", Text, TEXT, &["192.168.100.128/25", "10/8", "2001:db8::/32", "::/0"]),
    t("macaddr", Text, TEXT, &["08:00:2b:01:02:03", "ff-ff-ff-ff-ff-ff"]),
    t("macaddr8", Text, TEXT, &["08:00:2b:01:02:03:04:05", "08002b010203"]),
    t("bit", Text, "zeros and ones", &["1", "0"]),
    t("bit(7)", Text, "zeros and ones", &["1000000", "0000001", "0000000"]),
    t("bit varying", Text, "zeros and ones", &["101", "", "=repeat('10', 100)::varbit", "0000"]),
    t("point", Text, TEXT, &["(1,2)", "(NaN,Infinity)", "(-1e-300,1e300)"]),
    t("line", Text, TEXT, &["{1,-1,0}", "{0,1,2.5}"]),
    t("lseg", Text, TEXT, &["[(1,2),(3,4)]", "((-1,0),(0,0.1))"]),
    t("box", Text, TEXT, &["(3,4),(1,2)", "((0,0),(1,1))"]),
    t("path", Text, TEXT, &["((1,2),(3,4))", "[(1,2),(3,4),(5,6)]"]),
    t("polygon", Text, TEXT, &["((0,0),(1,0),(1,1))", "((1,1))"]),
    t("circle", Text, TEXT, &["<(1,2),3>", "<(0,0),0>"]),
    t("int4range", Text, TEXT, &["[1,10)", "empty", "(,)", "[5,5]", "(,3]"]),
    t("int8range", Text, TEXT, &["[9007199254740993,9223372036854775807)", "empty", "[1,)"]),
    t("numrange", Text, TEXT, &["[1.10,2.20]", "(NaN,NaN]", "(-Infinity,Infinity)", "empty"]),
    t(
        "tsrange",
        Text,
        TEXT,
        &["[\"2019-03-31 15:30:00\",infinity)", "(,)", "[2019-01-01,2019-01-01]"],
    ),
    t(
        "tstzrange",
        Text,
        "in UTC",
        &[
            "[\"2019-03-31 15:30:00+02\",infinity]",
            "(-infinity,\"0044-01-01 00:00:00+00 BC\")",
            "empty",
        ],
    ),
    t("daterange", Text, TEXT, &["[2019-03-31,infinity)", "[2019-01-01,2019-12-31]", "empty"]),
    t("int4multirange", Text, TEXT, &["{[1,3),[5,9)}", "{}", "{(,)}"]),
    t("nummultirange", Text, TEXT, &["{[1.0,2.5],(7,)}", "{}"]),
    t(
        "tstzmultirange",
        Text,
        "in UTC",
        &["{[\"2026-01-01 00:00:00+01\",\"2026-02-01 00:00:00+01\")}", "{}"],
    ),
    t("textrange", Text, OTHER, &["[\"a,b\",\"c\\\"d\")", "(,z]", "empty"]),
    t(
        "tsvector",
        Text,
        TEXT,
        &[
            "'cat':3A 'fat':2B,4C",
            "=to_tsvector('english', 'The fat rats''s \"quoted\" back\\slash')",
            "",
        ],
    ),
    t("tsquery", Text, TEXT, &["fat & (rat | !cat)", "fat <-> cat", ""]),
    t("pg_lsn", Text, TEXT, &["16/B374D848", "0/0", "FFFFFFFF/FFFFFFFF"]),
    t("xid", Text, TEXT, &["1234", "4294967295"]),
    t("xid8", Text, TEXT, &["18446744073709551615", "0"]),
    t("tid", Text, TEXT, &["(42,7)", "(4294967295,65535)"]),
    t("pg_snapshot", Text, TEXT, &["10:20:10,14,15", "1:1:"]),
    t("regclass", Text, "with its schema unless in `pg_catalog`", &["pg_class", "public.mark"]),
    t(
        "regtype",
        Text,
        "with its schema unless in `pg_catalog`",
        &["integer", "public.mood", "public.\"Odd type\""],
    ),
    t("int2vector", Text, TEXT, &["1 2 3", ""]),
    t(
        "hstore",
        Text,
        OTHER,
        &["\"key1\"=>\"val1\", \"key2\"=>NULL", "", "\"q\\\"\"=>\"a=>b, c\"", "k=>\"\""],
    ),
    t("ltree", Text, OTHER, &["Top.Science.Astronomy", "", "a"]),
    t("isbn", Text, OTHER, &["978-0-393-04002-9", "0-393-04002-X"]),
    t("cube", Text, OTHER, &["(1,2,3)", "(0),(1)"]),
    t("seg", Text, OTHER, &["1.50 .. 2.5", "~7"]),
    t(
        "mood",
        Text,
        "an enum: its label",
        &["ok", "NULL", "a,b", "q\"uote", "back\\slash", "{brace}", "ümlaut", " "],
    ),
    t(
        "\"Odd type\"",
        Text,
        "a composite type: the text that Postgres prints",
        &[
            "(1,\"a, \"\"b\"\" \\\\ c\",\"2026-01-01 00:00:00+01\")",
            "(,,)",
            "=ROW(NULL, '', NULL)::\"Odd type\"",
            "(-1,NULL,infinity)",
        ],
    ),
    t("price", Text, "a domain: as the type beneath it", &["12.5", "0", "9999999999.99"]),
    t("evener", Number, "a domain over a domain: as the type beneath both", &["4", "-8", "0"]),
    t("document", Json, "a domain: as the type beneath it", &["{\"a\": [1]}", "null", "\"x\""]),
    t(
        "moment",
        TimestampTz,
        "a domain: as the type beneath it",
        &["2016-11-04 13:51:30.123456+02", "infinity"],
    ),
    t("flags", Bools, "a domain: as the type beneath it", &["{t,NULL,f}", "{}"]),
    t("feeling", Text, "a domain over an enum: its label", &["ok", "a,b"]),
    t(
        "integer[]",
        Numbers,
        ARRAYS,
        &[
            "{1,NULL,3}",
            "{}",
            "{{1,2},{3,4}}",
            "[0:1]={1,2}",
            "{-2147483648}",
            "{{{1},{2}},{{3},{NULL}}}",
            "[2:3][-1:0]={{1,2},{3,4}}",
        ],
    ),
    t("bigint[]", Numbers, ARRAYS, &["{9223372036854775807,-1}", "{NULL,NULL}"]),
    t("boolean[]", Bools, ARRAYS, &["{t,f,NULL}", "{}"]),
    t("double precision[]", Floats, ARRAYS, &["{1.5,NaN,Infinity,-Infinity,NULL,1e300}", "{}"]),
    t(
        "text[]",
        Array,
        ARRAYS,
        &[
            "{a,\"\",NULL,\"NULL\",\"null\"}",
            "{}",
            "{\"a,b\",\"{c}\",\"d\\\"e\",\"f\\\\g\"}",
            "{{a,b},{\"c d\",NULL}}",
            "[5:6]={x,y}",
            "=ARRAY[E'line\\nbreak', E'\\x01', 'ü', ' lead', '\"']",
            "=ARRAY[repeat('\\\"', 1000)]",
        ],
    ),
    t("varchar(10)[]", Array, ARRAYS, &["{a,b}", "{NULL}"]),
    t("character(5)[]", Array, ARRAYS, &["{a,bb}", "{}"]),
    t("numeric[]", Array, ARRAYS, &["{1.10,NaN,NULL,Infinity}", "{{1,2.00}}", "{}"]),
    t("date[]", Array, ARRAYS, &["{2016-11-04,infinity,NULL,\"0044-03-15 BC\"}", "{}"]),
    t("time[]", Array, ARRAYS, &["{13:51:30.1,24:00:00}", "{}"]),
    t("interval[]", Array, ARRAYS, &["{\"1 year 2 days\",-00:00:01}", "{}"]),
    t("uuid[]", Array, ARRAYS, &["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,NULL}", "{}"]),
    t("inet[]", Array, ARRAYS, &["{10.0.0.1,::1/64}", "{}"]),
    t("timestamp[]", Timestamps, ARRAYS, &["{\"2016-11-04 13:51:30.1\",infinity,NULL}", "{}"]),
    t(
        "timestamptz[]",
        TimestampTzs,
        ARRAYS,
        &["{\"2016-11-04 13:51:30.1+02\",-infinity,NULL}", "{}"],
    ),
    t("bytea[]", Byteas, ARRAYS, &["{\"\\\\x0001fe\",\"\\\\x\"}", "{}"]),
    t(
        "json[]",
        Jsons,
        ARRAYS,
        &["=ARRAY['{\"a\":[1,\"x, \\\"y\\\"\"]}', 'null', '\"s\"']::json[]", "{}"],
    ),
    t("jsonb[]", Jsons, ARRAYS, &["=ARRAY['{\"a\": [1, 2]}', '\"\\\\\\\\\"']::jsonb[]", "{NULL}"]),
    t("int4range[]", Array, ARRAYS, &["{\"[1,3)\",empty}", "{}"]),
    t("xml[]", Array, ARRAYS, &["=ARRAY['<a b=\"c\"/>']::xml[]", "{}"]),
    t("point[]", Array, ARRAYS, &["{\"(1,2)\",\"(3,4)\"}", "{}"]),
    t(
        "box[]",
        Text,
        "its elements are parted by semicolons: the text that Postgres prints",
        &["{(3,4),(1,2);(1,1),(0,0)}", "{}"],
    ),
    t(
        "mood[]",
        Text,
        "arrays of types that are not built in: the text that Postgres prints",
        &["{ok,\"NULL\",\"a,b\",NULL}", "{}", "{{ok,ok}}"],
    ),
    t("\"Odd type\"[]", Text, "as above", &["{\"(1,\\\"a b\\\",)\",NULL}", "{}"]),
    t("price[]", Text, "as above", &["{1.50,NULL}", "{}"]),
    t("hstore[]", Text, "as above", &["{\"a=>1\"}", "{}"]),
];

const fn t(
    name: &'static str,
    shape: Shape,
    note: &'static str,
    literals: &'static [&'static str],
) -> Type {
    Type { name, shape, note, literals }
}
