//! What texts mean: a table of claims, each a text and the exact operations that it comes to.
//!
//! Written as `Verb kind:names attributes`: a table without a kind, `fn:` a function, `other:` anything else, `?` an
//! unknown object, nothing where there is none; several names are joined by `|`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test should stop where it fails"
)]

use sallyport_policy::{Action, Fact, ObjectKind, Operation};
use sallyport_postgres::sql::{CopyForm, CopySyntax, Front, Line, Loss, NameSettings, StatementKind};

fn show(operation: &Operation) -> String {
    let mut shown = operation.verb.to_string();
    match &operation.object {
        Fact::Known(None) => {}
        Fact::Unknown => shown.push_str(" ?"),
        Fact::Known(Some(object)) => {
            shown.push_str(match object.kind {
                ObjectKind::Table => " ",
                ObjectKind::Function => " fn:",
                ObjectKind::Other => " other:",
            });
            shown.push_str(&object.names.iter().map(ToString::to_string).collect::<Vec<_>>().join("|"));
        }
    }
    for (attribute, fact) in &operation.attributes {
        let fact = match fact {
            Fact::Known(true) => "",
            Fact::Known(false) => "!",
            Fact::Unknown => "maybe ",
        };
        shown.push_str(&format!(" {fact}{attribute:?}"));
    }
    shown
}

fn shown(action: &Action) -> Vec<String> {
    let mut shown: Vec<_> = action.operations.iter().map(show).collect();
    shown.sort();
    shown
}

fn front() -> Front {
    Front::new(NameSettings::default())
}

#[track_caller]
fn claims(table: &[(&str, &[&str])]) {
    let front = front();
    let mut wrong = Vec::new();
    for (text, expected) in table {
        let mut expected: Vec<_> = expected.iter().map(|line| (*line).to_owned()).collect();
        expected.sort();
        match front.describe(text) {
            Ok(described) if shown(&described.action) == expected => {}
            Ok(described) => {
                wrong.push(format!("{text}\n    is {:?}\n    not {expected:?}", shown(&described.action)));
            }
            Err(refusal) => wrong.push(format!("{text}\n    refused: {refusal}")),
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn queries_read_what_they_name() {
    claims(&[
        ("", &[]),
        (" ; -- nothing\n ;", &[]),
        ("SELECT 1", &["Select"]),
        ("VALUES (1), (2)", &["Select"]),
        ("TABLE a", &["Select public.a"]),
        (
            "SELECT * FROM a JOIN b USING (id) LEFT JOIN c.d ON true, e",
            &["Select public.a", "Select public.b", "Select c.d", "Select public.e"],
        ),
        ("SELECT * FROM a a1, a a2", &["Select public.a"]),
        ("SELECT * FROM db.s.t", &["Select s.t"]),
        ("SELECT * FROM \"A b\".\"C.d\"", &["Select A b.C.d"]),
        ("SELECT * FROM ONLY a", &["Select public.a"]),
        ("SELECT * FROM a TABLESAMPLE system (10)", &["Select public.a"]),
        ("SELECT * FROM a TABLESAMPLE tsm_system_rows (10)", &["Select public.a", "Select fn:public.tsm_system_rows"]),
        (
            "SELECT (SELECT max(x) FROM b) FROM a WHERE EXISTS (SELECT FROM c) ORDER BY (SELECT 1 FROM d)",
            &["Select public.a", "Select public.b", "Select public.c", "Select public.d"],
        ),
        (
            "SELECT 1 FROM a GROUP BY (SELECT 1 FROM b) HAVING (SELECT true FROM c) LIMIT (SELECT 1 FROM d) OFFSET (SELECT 2 FROM e)",
            &["Select public.a", "Select public.b", "Select public.c", "Select public.d", "Select public.e"],
        ),
        ("SELECT DISTINCT x FROM a", &["Select public.a"]),
        ("SELECT DISTINCT ON ((SELECT 1 FROM b)) x FROM a", &["Select public.a", "Select public.b"]),
        (
            "SELECT rank() OVER (PARTITION BY (SELECT 1 FROM b) ORDER BY x ROWS BETWEEN (SELECT 1 FROM c) PRECEDING AND CURRENT ROW) FROM a",
            &["Select public.a", "Select public.b", "Select public.c"],
        ),
        (
            "SELECT sum(x) FILTER (WHERE x IN (SELECT y FROM b)) OVER w FROM a WINDOW w AS (ORDER BY (SELECT 1 FROM c))",
            &["Select public.a", "Select public.b", "Select public.c"],
        ),
        (
            "SELECT array(SELECT x FROM a), CASE WHEN true THEN (SELECT 1 FROM b) ELSE (SELECT 2 FROM c) END, ROW((SELECT 1 FROM d))",
            &["Select public.a", "Select public.b", "Select public.c", "Select public.d"],
        ),
        ("SELECT x[(SELECT 1 FROM b)] FROM a", &["Select public.a", "Select public.b"]),
        (
            "SELECT x::regclass, CAST((SELECT 'a' FROM b) AS text) COLLATE \"C\" FROM a",
            &["Select public.a", "Select public.b"],
        ),
        (
            "SELECT * FROM (SELECT * FROM a) s, LATERAL (SELECT * FROM b WHERE b.x = s.x) t",
            &["Select public.a", "Select public.b"],
        ),
        (
            "SELECT * FROM a UNION ALL (SELECT * FROM b EXCEPT SELECT * FROM c) ORDER BY 1",
            &["Select public.a", "Select public.b", "Select public.c"],
        ),
        (
            "SELECT * FROM xmltable('/r' PASSING (SELECT x FROM a) COLUMNS c int PATH 'c' DEFAULT (SELECT 1 FROM b))",
            &["Select public.a", "Select public.b"],
        ),
        (
            "SELECT * FROM json_table((SELECT j FROM a), '$[*]' COLUMNS (x int PATH '$.x' DEFAULT (SELECT 1 FROM b) ON EMPTY))",
            &["Select public.a", "Select public.b"],
        ),
        (
            "SELECT json_object('k': (SELECT x FROM a)), json_arrayagg(x ORDER BY (SELECT 1 FROM b)), json_array(SELECT y FROM c), xmlserialize(content (SELECT x FROM d) as text)",
            &["Select public.a", "Select public.b", "Select public.c", "Select public.d"],
        ),
        ("SELECT current_user, current_date, current_schema, localtimestamp(3)", &["Select"]),
        (
            "SELECT count(*) FROM pg_class JOIN pg_catalog.pg_namespace n ON true",
            &["Select pg_catalog.pg_class", "Select pg_catalog.pg_namespace"],
        ),
        ("SELECT * FROM pg_stat_statements", &["Select pg_catalog.pg_stat_statements|public.pg_stat_statements"]),
        ("SELECT * FROM pg_temp.t, pg_temp_3.u", &["Select pg_temp.t", "Select pg_temp_3.u"]),
        ("SELECT 1; SELECT * FROM a; DELETE FROM b WHERE x = 1", &["Select", "Select public.a", "Delete public.b"]),
    ]);
}

#[test]
fn an_unqualified_name_is_every_table_of_the_search_path() {
    let front = Front::new(NameSettings::new(["app", "public"]).unwrap());
    let described = front.describe("SELECT * FROM t").unwrap();
    assert_eq!(shown(&described.action), ["Select app.t|public.t"]);
}

#[test]
fn a_cte_hides_a_table_only_within_its_scope() {
    claims(&[
        ("WITH secrets AS (SELECT 1) SELECT * FROM secrets", &["Select"]),
        ("WITH secrets AS (SELECT 1) SELECT * FROM public.secrets", &["Select public.secrets"]),
        ("WITH secrets AS (SELECT * FROM secrets) SELECT * FROM secrets", &["Select public.secrets"]),
        ("WITH RECURSIVE secrets AS (SELECT 1 UNION ALL SELECT * FROM secrets) SELECT * FROM secrets", &["Select"]),
        ("WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a", &["Select public.b"]),
        ("WITH a AS (SELECT 1), b AS (SELECT * FROM a) SELECT * FROM b", &["Select"]),
        ("WITH RECURSIVE a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a", &["Select"]),
        ("SELECT * FROM (WITH s AS (SELECT 1) SELECT * FROM s) x, s", &["Select public.s"]),
        ("(WITH s AS (SELECT 1) SELECT * FROM s) UNION SELECT * FROM s", &["Select public.s"]),
        ("WITH s AS (SELECT 1) SELECT * FROM s UNION SELECT * FROM s", &["Select"]),
        ("WITH s AS (SELECT 1) SELECT (SELECT * FROM (SELECT * FROM s) y)", &["Select"]),
        ("WITH s AS (WITH s AS (SELECT * FROM s) SELECT * FROM s) SELECT * FROM s", &["Select public.s"]),
        ("WITH s AS (SELECT 1) INSERT INTO s SELECT * FROM s", &["Insert public.s"]),
        ("WITH s AS (SELECT 1) DELETE FROM s", &["Delete public.s Unbounded"]),
        ("WITH s AS (SELECT 1) UPDATE s SET x = 1 FROM s s2 WHERE s.x = 2", &["Update public.s"]),
        (
            "INSERT INTO t WITH s AS (SELECT 1) SELECT * FROM s RETURNING (SELECT x FROM s)",
            &["Insert public.t", "Select public.t", "Select public.s"],
        ),
        ("WITH s AS (SELECT 1) SELECT 1; SELECT * FROM s", &["Select", "Select public.s"]),
        ("WITH s AS (SELECT 1) SELECT \"S\".* FROM \"S\"", &["Select public.S"]),
        (
            "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n FROM t) SEARCH DEPTH FIRST BY n SET o CYCLE n SET c TO 'Y' DEFAULT 'N' USING p SELECT * FROM t, u",
            &["Select public.u"],
        ),
        ("EXPLAIN WITH s AS (SELECT 1) SELECT * FROM s", &["Select"]),
    ]);
}

#[test]
fn writes_within_queries_are_writes() {
    claims(&[
        ("WITH d AS (DELETE FROM a RETURNING *) SELECT * FROM d", &["Delete public.a Unbounded", "Select public.a"]),
        ("WITH u AS (UPDATE a SET x = 1 WHERE x = 2) SELECT 1", &["Update public.a"]),
        (
            "WITH i AS (INSERT INTO a VALUES (1)), m AS (SELECT * FROM b) SELECT * FROM m",
            &["Insert public.a", "Select public.b"],
        ),
        ("EXPLAIN ANALYZE DELETE FROM a", &["Delete public.a Unbounded"]),
        (
            "EXPLAIN (ANALYZE, BUFFERS off) CREATE TABLE n AS SELECT * FROM a",
            &["CreateTableAs public.n", "Select public.a"],
        ),
        ("SELECT * INTO n FROM a", &["CreateTableAs public.n", "Select public.a"]),
        (
            "SELECT * INTO TEMP n FROM a UNION SELECT * FROM b",
            &["CreateTableAs pg_temp.n", "Select public.a", "Select public.b"],
        ),
        ("CREATE TABLE s.n AS TABLE a WITH NO DATA", &["CreateTableAs s.n", "Select public.a"]),
        ("CREATE MATERIALIZED VIEW m AS SELECT * FROM a", &["CreateMaterializedView public.m", "Select public.a"]),
        (
            "CREATE TABLE n AS EXECUTE p(evil())",
            &["CreateTableAs public.n", "Execute ?", "Execute fn:public.evil", "Other ?"],
        ),
        ("SELECT * FROM a FOR UPDATE", &["Select public.a", "Lock public.a"]),
        ("SELECT * FROM a JOIN b b2 ON true FOR SHARE OF b2", &["Select public.a", "Select public.b", "Lock public.b"]),
        (
            "SELECT * FROM (SELECT * FROM a) s, b FOR UPDATE OF s",
            &["Select public.a", "Select public.b", "Lock public.a"],
        ),
        ("SELECT (SELECT 1 FROM b) FROM a FOR UPDATE", &["Select public.a", "Select public.b", "Lock public.a"]),
    ]);
}

#[test]
fn writes_say_what_they_touch_and_whether_anything_bounds_them() {
    claims(&[
        ("INSERT INTO a SELECT * FROM b", &["Insert public.a", "Select public.b"]),
        ("INSERT INTO a DEFAULT VALUES", &["Insert public.a"]),
        (
            "INSERT INTO a VALUES ((SELECT 1 FROM b)) RETURNING id",
            &["Insert public.a", "Select public.a", "Select public.b"],
        ),
        ("INSERT INTO a VALUES (1) ON CONFLICT (id) DO NOTHING", &["Insert public.a"]),
        (
            "INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET x = (SELECT 1 FROM b) WHERE a.y IN (SELECT 2 FROM c)",
            &["Insert public.a", "Update public.a", "Select public.b", "Select public.c"],
        ),
        (
            "UPDATE a SET x = b.x FROM b WHERE a.id = b.id RETURNING *",
            &["Update public.a", "Select public.a", "Select public.b"],
        ),
        ("UPDATE a SET x = 1", &["Update public.a Unbounded"]),
        ("UPDATE a SET (x, y) = (SELECT 1, 2 FROM b) WHERE id = $1", &["Update public.a", "Select public.b"]),
        ("DELETE FROM a USING b WHERE a.id = b.id", &["Delete public.a", "Select public.b"]),
        ("DELETE FROM a USING b", &["Delete public.a Unbounded", "Select public.b"]),
        ("DELETE FROM a WHERE true", &["Delete public.a Unbounded"]),
        ("DELETE FROM a WHERE 1 = 1", &["Delete public.a Unbounded"]),
        ("DELETE FROM a WHERE 'a' = 'a' AND NOT false", &["Delete public.a Unbounded"]),
        ("DELETE FROM a WHERE 't'::bool", &["Delete public.a Unbounded"]),
        ("DELETE FROM a WHERE id = 1 OR 2 > 1", &["Delete public.a Unbounded"]),
        ("DELETE FROM a WHERE id = 1 AND 2 > 1", &["Delete public.a"]),
        ("DELETE FROM a WHERE false", &["Delete public.a"]),
        ("DELETE FROM a WHERE 1 + 1 = 2", &["Delete public.a maybe Unbounded"]),
        ("DELETE FROM a WHERE $1", &["Delete public.a maybe Unbounded"]),
        ("DELETE FROM a WHERE random() < 2", &["Delete public.a maybe Unbounded"]),
        ("DELETE FROM a WHERE id = id", &["Delete public.a maybe Unbounded"]),
        ("DELETE FROM a WHERE EXISTS (SELECT 1 FROM b)", &["Delete public.a maybe Unbounded", "Select public.b"]),
        ("DELETE FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.id = a.id)", &["Delete public.a", "Select public.b"]),
        ("DELETE FROM a WHERE id IN (SELECT id FROM b)", &["Delete public.a", "Select public.b"]),
        ("DELETE FROM a WHERE CURRENT OF c", &["Delete public.a"]),
        ("TRUNCATE a, s.b", &["Truncate public.a Unbounded", "Truncate s.b Unbounded"]),
        ("TRUNCATE a CASCADE", &["Truncate public.a Unbounded", "Truncate ?"]),
        (
            "MERGE INTO a USING b ON a.id = b.id WHEN MATCHED AND b.x > 1 THEN UPDATE SET x = b.x WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (b.id)",
            &["Merge public.a", "Update public.a", "Delete public.a", "Insert public.a", "Select public.b"],
        ),
        (
            "MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE",
            &["Merge public.a", "Delete public.a Unbounded", "Select public.b"],
        ),
        (
            "MERGE INTO a USING (SELECT * FROM c) b ON a.id = b.id WHEN NOT MATCHED BY SOURCE THEN DELETE WHEN MATCHED THEN DO NOTHING",
            &["Merge public.a", "Delete public.a Unbounded", "Select public.c"],
        ),
    ]);
}

#[test]
fn only_functions_known_harmless_pass_unseen() {
    claims(&[
        ("SELECT lower(x), count(*), pg_catalog.now() FROM a", &["Select public.a"]),
        ("SELECT evil()", &["Select fn:public.evil"]),
        ("SELECT s.lower(x) FROM a", &["Select public.a", "Select fn:s.lower"]),
        ("SELECT pg_read_file('/etc/passwd')", &["Select fn:pg_catalog.pg_read_file"]),
        (
            "SELECT pg_catalog.lo_import('/x'), \"lo_export\"(1, 'y')",
            &["Select fn:pg_catalog.lo_import", "Select fn:pg_catalog.lo_export"],
        ),
        ("SELECT query_to_xml('TABLE secrets', true, true, '')", &["Select fn:pg_catalog.query_to_xml"]),
        ("SELECT set_config('search_path', 'evil', false)", &["Select fn:pg_catalog.set_config"]),
        ("SELECT set_config('jit', 'off', false)", &["Session"]),
        (
            "SELECT set_config(name, 'view', false) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'",
            &["Select pg_catalog.pg_settings", "Session"],
        ),
        (
            "SELECT set_config(name, 'x', false) FROM pg_settings WHERE name = 'role'",
            &["Select pg_catalog.pg_settings", "Select fn:pg_catalog.set_config"],
        ),
        ("SELECT * FROM dblink('host=x', 'SELECT 1') AS t(x int)", &["Select fn:public.dblink"]),
        ("SELECT nextval('s')", &["Select fn:pg_catalog.nextval"]),
        ("SELECT pg_unheard_of()", &["Select fn:pg_catalog.pg_unheard_of|public.pg_unheard_of"]),
        ("INSERT INTO a VALUES (evil())", &["Insert public.a", "Insert fn:public.evil"]),
        ("DELETE FROM a WHERE evil(x)", &["Delete public.a", "Delete fn:public.evil"]),
        (
            "WITH d AS (DELETE FROM a WHERE evil(x)) SELECT foul()",
            &["Delete public.a", "Delete fn:public.evil", "Select fn:public.foul"],
        ),
        ("SELECT 1 OPERATOR(pg_catalog.+) 2, 1 OPERATOR(s.+) 2, 1 + 2", &["Select fn:s.+"]),
        (
            "SELECT 1 OPERATOR(s.=) ANY (SELECT 2), x FROM a ORDER BY x USING OPERATOR(t.<)",
            &["Select public.a", "Select fn:s.=", "Select fn:t.<"],
        ),
        ("SELECT * FROM a, LATERAL evil(a.x) e", &["Select public.a", "Select fn:public.evil"]),
        ("SELECT * FROM ROWS FROM (generate_series(1, 2), evil() AS (x int)) t", &["Select fn:public.evil"]),
        (
            "SELECT extract(year FROM now()), trim(' x '), substring('abc' FROM 2), x AT TIME ZONE 'UTC', 'a' SIMILAR TO 'b' FROM a",
            &["Select public.a"],
        ),
        (
            "SELECT x LIKE 'a' ESCAPE 'b', position('a' IN 'b'), overlay('a' PLACING 'b' FROM 1), coalesce(1, 2), greatest(1, 2), nullif(1, 2), normalize('a') FROM a",
            &["Select public.a"],
        ),
        ("CALL s.f((SELECT 1 FROM a))", &["Call fn:s.f", "Select public.a"]),
        ("CALL lower('x')", &["Call fn:public.lower"]),
        ("DO $$ BEGIN END $$", &["Do ?"]),
    ]);
}

#[test]
fn a_function_read_like_a_column_is_a_function() {
    claims(&[
        ("SELECT ('/etc/passwd'::text).pg_read_file", &["Select fn:pg_catalog.pg_read_file"]),
        ("SELECT ($1).evil", &["Select fn:public.evil"]),
        ("SELECT x.pg_read_file FROM unnest(ARRAY['/etc/passwd']) x", &["Select fn:pg_catalog.pg_read_file"]),
        ("SELECT x.evil FROM unnest(ARRAY['/etc/passwd']) x(y)", &["Select fn:public.evil"]),
        ("DELETE FROM a USING unnest(ARRAY['x']) x WHERE x.evil = a.id", &["Delete public.a", "Delete fn:public.evil"]),
        ("SELECT \"current_user\".evil FROM current_user", &["Select fn:public.evil"]),
        ("SELECT t.lo_unlink FROM t", &["Select public.t", "Select fn:pg_catalog.lo_unlink"]),
        ("SELECT (x).lower FROM a", &["Select public.a"]),
        ("SELECT t.evil FROM t", &["Select public.t"]),
        (
            "SELECT g.g, e.key, u.a FROM generate_series(1, 2) g, jsonb_each('{}') e, unnest('{}'::int[]) u(a)",
            &["Select"],
        ),
        ("SELECT r.a FROM json_to_record('{}') AS r(a int)", &["Select"]),
        ("SELECT (information_schema._pg_expandarray(i.indkey)).n FROM pg_index i", &["Select pg_catalog.pg_index"]),
    ]);
}

#[test]
fn copy_says_what_it_moves_and_where() {
    claims(&[
        ("COPY a TO STDOUT", &["CopyTo public.a"]),
        ("COPY s.a (x, y) FROM STDIN WITH (FORMAT csv) WHERE evil(x)", &["CopyFrom s.a", "CopyFrom fn:public.evil"]),
        ("COPY (SELECT * FROM a) TO STDOUT", &["CopyTo", "Select public.a"]),
        ("COPY (SELECT 1) TO STDOUT", &["CopyTo", "Select"]),
        ("COPY (DELETE FROM a RETURNING *) TO STDOUT", &["CopyTo", "Delete public.a Unbounded", "Select public.a"]),
        ("COPY a TO PROGRAM 'sh'", &["CopyTo public.a", "CopyTo other:program"]),
        ("COPY a FROM PROGRAM 'sh'", &["CopyFrom public.a", "CopyFrom other:program"]),
        ("COPY a FROM '/etc/passwd'", &["CopyFrom public.a", "CopyFrom other:file"]),
        ("COPY (SELECT * FROM a) TO '/tmp/x'", &["CopyTo", "CopyTo other:file", "Select public.a"]),
    ]);
}

#[test]
fn prepared_statements_and_cursors_are_judged_where_they_are_made() {
    claims(&[
        ("PREPARE p (int) AS DELETE FROM a WHERE id = $1", &["Delete public.a"]),
        ("EXECUTE p(evil())", &["Execute ?", "Execute fn:public.evil", "Other ?"]),
        ("EXECUTE p(1, 'x', '1'::int, -1)", &["Execute ?"]),
        ("EXECUTE p(1 + 1)", &["Execute ?", "Other ?"]),
        ("PREPARE p AS SELECT * FROM a; EXECUTE p", &["Select public.a", "Session"]),
        ("PREPARE p AS SELECT 1; DEALLOCATE p; EXECUTE p", &["Select", "Session", "Execute ?"]),
        ("PREPARE p AS SELECT 1; DEALLOCATE ALL; EXECUTE p", &["Select", "Session", "Execute ?"]),
        ("EXPLAIN ANALYZE EXECUTE p", &["Execute ?"]),
        (
            "BEGIN; DECLARE c CURSOR FOR SELECT * FROM a; FETCH 10 FROM c",
            &["Transaction", "Select public.a", "Session"],
        ),
        ("FETCH ALL FROM c", &["Execute ?"]),
        ("MOVE c", &["Execute ?"]),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1; CLOSE c; FETCH c", &["Select", "Session", "Execute ?"]),
        ("DECLARE c CURSOR FOR SELECT 1; CLOSE ALL; FETCH c", &["Select", "Session", "Execute ?"]),
        ("DECLARE c CURSOR FOR SELECT 1; ROLLBACK; FETCH c", &["Select", "Transaction", "Execute ?"]),
        ("CLOSE c; DEALLOCATE p", &["Session"]),
    ]);
}

#[test]
fn session_state_that_changes_meaning_is_named() {
    claims(&[
        (
            "SET application_name = 'x'; SET LOCAL statement_timeout TO 100; RESET timezone; SHOW search_path; SET TIME ZONE INTERVAL '1' HOUR TO MINUTE",
            &["Session"],
        ),
        ("SET enable_seqscan TO DEFAULT; SET \"DateStyle\" TO iso, dmy", &["Session"]),
        ("SET NAMES 'utf-8'; SET client_encoding = UTF8; SET standard_conforming_strings = on", &["Session"]),
        ("RESET standard_conforming_strings", &["SetParameter other:standard_conforming_strings"]),
        ("SET search_path = evil", &["SetParameter other:search_path"]),
        ("SET \"Search_Path\" = evil", &["SetParameter other:search_path"]),
        ("SET SCHEMA 'evil'", &["SetParameter other:search_path"]),
        ("SET search_path = public, evil", &["SetParameter other:search_path"]),
        ("SET search_path = public, pg_temp; SET LOCAL search_path TO ''", &["Session"]),
        ("SET search_path = pg_temp, public", &["SetParameter other:search_path"]),
        ("SET SCHEMA 'public'", &["SetParameter other:search_path"]),
        ("SELECT pg_catalog.set_config('search_path', '', false)", &["Session"]),
        ("SELECT set_config('search_path', '\"public\", pg_temp', false)", &["Session"]),
        ("SELECT set_config('search_path', 'pg_temp, public', false)", &["Select fn:pg_catalog.set_config"]),
        ("SELECT set_config('search_path', 'public', false)", &["Select fn:pg_catalog.set_config"]),
        ("SET LOCAL session_replication_role = replica", &["SetParameter other:session_replication_role"]),
        ("SET work_mem = '10GB'", &["SetParameter other:work_mem"]),
        ("SET app.who = '1'", &["SetParameter other:app.who"]),
        ("RESET ALL", &["SetParameter other:all"]),
        ("SET ROLE admin", &["SetRole other:admin"]),
        ("SET ROLE NONE", &["SetRole other:none"]),
        ("RESET ROLE", &["SetRole other:default"]),
        ("SET SESSION AUTHORIZATION postgres", &["SetRole other:postgres"]),
        ("SET \"Role\" = admin", &["SetRole other:admin"]),
        (
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
            &["SetParameter other:default_transaction_read_only"],
        ),
        ("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY", &["Transaction"]),
        ("SET TRANSACTION SNAPSHOT 'x'", &["SetParameter other:transaction snapshot"]),
        ("DISCARD PLANS; DISCARD SEQUENCES", &["Session"]),
        ("DISCARD TEMP", &["Drop ?"]),
        ("DISCARD ALL", &["SetParameter other:all", "Drop ?"]),
        ("LISTEN c; NOTIFY d, 'x'; UNLISTEN *", &["Listen other:c", "Notify other:d", "Session"]),
        (
            "BEGIN READ ONLY; SAVEPOINT s; RELEASE s; ROLLBACK TO s; COMMIT AND CHAIN; SET CONSTRAINTS ALL DEFERRED",
            &["Transaction"],
        ),
        ("PREPARE TRANSACTION 'x'", &["Other ?"]),
        ("COMMIT PREPARED 'x'", &["Other ?"]),
        ("LOAD 'x'", &["Other ?"]),
        ("CHECKPOINT", &["Other ?"]),
    ]);
}

#[test]
fn after_another_search_path_a_name_without_schema_is_unknown() {
    let path = "SET search_path = evil";
    let own = "SetParameter other:search_path";
    claims(&[
        ("SET search_path = evil; SELECT lower(x) FROM a", &[own, "Select ?"]),
        ("SET search_path = evil; SELECT pg_catalog.lower(x) FROM public.a", &[own, "Select public.a"]),
        ("SET search_path = evil; SELECT x = 1 FROM public.a", &[own, "Select public.a", "Select ?"]),
        ("SET search_path = evil; DELETE FROM a", &[own, "Delete ? Unbounded"]),
        ("SET search_path = evil; CREATE TABLE a (x int)", &[own, "CreateTable ?"]),
        ("PREPARE p AS TABLE a; SET search_path = evil; EXECUTE p", &["Select public.a", own, "Execute ?"]),
        ("DO 'x'; TABLE a", &["Do ?", "Select ?"]),
        ("SELECT set_config('search_path', 'evil', true); TABLE a", &["Select fn:pg_catalog.set_config", "Select ?"]),
        ("SET search_path = public, pg_temp; TABLE a", &["Session", "Select public.a"]),
        ("SET search_path = ''; SELECT lower(x) FROM a", &["Session", "Select ?"]),
        ("SET search_path = ''; SELECT lower(x) FROM pg_class", &["Session", "Select pg_catalog.pg_class"]),
        ("SET search_path = ''; SELECT lower('x'), 1 = 1, evil()", &["Session", "Select ?"]),
    ]);
    let front = front();
    assert_eq!(front.describe(path).unwrap().loses, Some(Loss::All));
    assert_eq!(front.describe("SET search_path = ''").unwrap().loses, Some(Loss::Relations));
    assert_eq!(front.describe("SET search_path TO DEFAULT; RESET search_path; RESET ALL").unwrap().loses, None);
    let lost = front.lost(Loss::All).unwrap();
    assert_eq!(shown(&lost.describe("TABLE a").unwrap().action), ["Select ?"]);
    assert!(lost.lost(Loss::All).is_none() && lost.lost(Loss::Relations).is_none());
    assert!(front.lost(Loss::Relations).unwrap().lost(Loss::All).is_some());
}

#[test]
fn settings_that_change_how_texts_are_read_are_refused_whatever_policy_says() {
    for text in [
        "SET client_encoding = 'SJIS'",
        "SET NAMES 'latin1'",
        "SET LOCAL standard_conforming_strings = off",
        "SELECT set_config('Standard_Conforming_Strings', 'off', false)",
        "SELECT pg_catalog.set_config('client_encoding', 'SJIS', false)",
        "SELECT set_config($1, 'off', false)",
        "SELECT set_config(name, 'off', false) FROM pg_settings WHERE name = 'standard_conforming_strings'",
        "SELECT set_config(name, 'off', false) FROM pg_settings WHERE name = 'jit' OR true",
        "SELECT set_config(name, 'off', false) FROM pg_settings, a WHERE name = 'jit'",
        "SELECT (SELECT set_config(name, 'off', false) FROM a) FROM pg_settings WHERE name = 'jit'",
        "SELECT (SELECT 1 FROM a WHERE set_config(name, 'off', false) = '') FROM pg_settings WHERE name = 'jit'",
        "WITH pg_settings AS (SELECT x AS name) SELECT set_config(name, 'a', false) FROM pg_settings WHERE name = 'jit'",
        "SELECT set_config('client' || '_encoding', 'SJIS', false)",
        "SELECT set_config(setting_name => 'client_encoding', new_value => 'SJIS', is_local => false)",
    ] {
        assert!(front().describe(text).unwrap_err().cause.contains("client_encoding is UTF8"), "{text}");
    }
}

#[test]
fn an_operator_that_is_not_built_in_runs_a_function() {
    claims(&[
        ("SELECT a.x @@@@ 1 FROM a", &["Select public.a", "Select fn:public.@@@@"]),
        ("SELECT 1 OPERATOR(pg_catalog.@@@@) 1", &["Select fn:pg_catalog.@@@@"]),
        ("SELECT x FROM a ORDER BY x USING <<<", &["Select public.a", "Select fn:public.<<<"]),
        ("SELECT 1 <=> ANY (SELECT 1)", &["Select fn:public.<=>"]),
        (
            "SELECT 1 + 2, 'a' || 'b', x LIKE 'y', x NOT ILIKE 'z', x SIMILAR TO 'q', x BETWEEN 1 AND 2, \
             x NOT BETWEEN SYMMETRIC 1 AND 2, x IN (1, 2), NULLIF(1, 2), x IS DISTINCT FROM 1, -1, x ->> 'k' FROM a",
            &["Select public.a"],
        ),
    ]);
}

#[test]
fn what_is_explained_declares_nothing() {
    claims(&[
        ("EXPLAIN DECLARE c CURSOR FOR SELECT 1; FETCH c", &["Select", "Execute ?"]),
        ("DECLARE c CURSOR FOR SELECT 1; EXPLAIN DECLARE c CURSOR FOR SELECT 2; FETCH c", &["Select", "Session"]),
    ]);
}

#[test]
fn definitions_name_every_table_they_speak_of() {
    claims(&[
        (
            "CREATE TABLE a (id int PRIMARY KEY, b int REFERENCES s.b, c int DEFAULT evil(), LIKE d, CHECK (lower(x) = 'a'))",
            &["CreateTable public.a", "CreateTable s.b", "CreateTable fn:public.evil", "CreateTable public.d"],
        ),
        ("CREATE TEMP TABLE a (x int)", &["CreateTable pg_temp.a"]),
        (
            "CREATE TABLE a PARTITION OF b FOR VALUES FROM (1) TO (evil())",
            &["CreateTable public.a", "CreateTable public.b", "CreateTable fn:public.evil"],
        ),
        ("CREATE TABLE a () INHERITS (b, s.c)", &["CreateTable public.a", "CreateTable public.b", "CreateTable s.c"]),
        (
            "CREATE INDEX ON a (lower(x), (evil(y))) WHERE foul(z)",
            &["CreateIndex public.a", "CreateIndex fn:public.evil", "CreateIndex fn:public.foul"],
        ),
        (
            "CREATE VIEW v AS SELECT evil() FROM a",
            &["CreateView public.v", "Select public.a", "CreateView fn:public.evil"],
        ),
        ("CREATE OR REPLACE TEMP VIEW v AS SELECT 1", &["CreateView pg_temp.v"]),
        ("CREATE RECURSIVE VIEW v (n) AS SELECT 1 UNION ALL SELECT n FROM v", &["CreateView public.v"]),
        ("CREATE SCHEMA s", &["CreateSchema other:s"]),
        ("CREATE SCHEMA s CREATE VIEW v AS SELECT * FROM a", &["CreateSchema other:s", "CreateSchema ?"]),
        ("CREATE SEQUENCE q OWNED BY s.a.x", &["CreateSequence public.q", "CreateSequence s.a"]),
        ("ALTER SEQUENCE q OWNED BY NONE", &["AlterOther public.q"]),
        ("CREATE TYPE t AS ENUM ('a')", &["CreateType other:t"]),
        ("CREATE TYPE s.t AS (x int)", &["CreateType other:s.t"]),
        ("CREATE DOMAIN d AS int CHECK (evil(VALUE))", &["CreateType other:d", "CreateType fn:public.evil"]),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'DELETE FROM a'", &["CreateFunction fn:public.f"]),
        (
            "CREATE TRIGGER t AFTER INSERT ON a FOR EACH ROW EXECUTE FUNCTION s.f()",
            &["CreateTrigger public.a", "CreateTrigger fn:s.f"],
        ),
        ("CREATE RULE r AS ON INSERT TO a DO INSTEAD DELETE FROM b", &["CreateOther ?"]),
        ("CREATE EXTENSION dblink", &["CreateExtension other:dblink"]),
        ("CREATE ROLE r LOGIN", &["CreateRole other:r"]),
        ("CREATE ROLE r IN ROLE admin", &["CreateRole other:r", "CreateRole ?"]),
        ("CREATE DATABASE d", &["CreateDatabase other:d"]),
        ("CREATE POLICY p ON a USING (evil())", &["CreateOther ?"]),
        ("CREATE FOREIGN TABLE f (x int) SERVER s", &["CreateTable ?"]),
        (
            "ALTER TABLE a ADD COLUMN x int DEFAULT evil(), ADD FOREIGN KEY (y) REFERENCES b, ALTER z TYPE text USING foul(z), INHERIT c",
            &[
                "AlterTable public.a",
                "AlterTable fn:public.evil",
                "AlterTable public.b",
                "AlterTable fn:public.foul",
                "AlterTable public.c",
            ],
        ),
        ("ALTER TABLE a ATTACH PARTITION s.d DEFAULT", &["AlterTable public.a", "AlterTable s.d"]),
        ("ALTER TABLE a DISABLE ROW LEVEL SECURITY, OWNER TO x", &["AlterTable public.a"]),
        ("ALTER TABLE a DROP COLUMN x CASCADE", &["AlterTable public.a", "AlterTable ?"]),
        ("ALTER TABLE a RENAME TO b", &["Rename public.a", "Rename public.b"]),
        ("ALTER INDEX a RENAME TO b", &["Rename public.a", "Rename public.b"]),
        ("ALTER TABLE s.a RENAME x TO y", &["Rename s.a"]),
        ("ALTER TABLE a SET SCHEMA s", &["AlterTable public.a", "AlterTable s.a"]),
        ("ALTER FUNCTION f() OWNER TO x", &["AlterOther ?"]),
        ("ALTER ROLE r SUPERUSER", &["AlterRole other:r"]),
        ("ALTER ROLE CURRENT_USER SET search_path = evil", &["AlterRole ?"]),
        ("ALTER SYSTEM SET \"Archive_Command\" = 'sh'", &["AlterSystem other:archive_command"]),
        ("DROP TABLE a, s.b", &["Drop public.a", "Drop s.b"]),
        ("DROP VIEW IF EXISTS v CASCADE", &["Drop public.v", "Drop ?"]),
        ("DROP INDEX i", &["Drop other:i"]),
        ("DROP SCHEMA s", &["Drop other:s"]),
        ("DROP TYPE s.t", &["Drop other:s.t"]),
        ("DROP FUNCTION f(int)", &["Drop fn:public.f"]),
        ("DROP TRIGGER t ON s.a", &["Drop other:t", "AlterTable s.a"]),
        ("DROP POLICY p ON a", &["Drop other:p", "AlterTable public.a"]),
        ("DROP OWNED BY x", &["Drop ?"]),
        ("DROP ROLE r", &["Drop other:r"]),
        ("COMMENT ON COLUMN s.a.x IS 'y'", &["Comment s.a"]),
        ("COMMENT ON INDEX i IS 'y'", &["Comment ?"]),
        ("COMMENT ON ROLE r IS 'y'", &["Comment ?"]),
        ("GRANT SELECT ON a, s.b TO r", &["Grant public.a", "Grant s.b"]),
        ("REVOKE ALL ON SCHEMA s FROM r", &["Revoke other:s"]),
        ("GRANT SELECT ON ALL TABLES IN SCHEMA s TO r", &["Grant ?"]),
        ("GRANT admin TO r", &["Grant ?"]),
        ("LOCK TABLE a, s.b IN EXCLUSIVE MODE", &["Lock public.a", "Lock s.b"]),
        (
            "LOCK a IN ACCESS SHARE MODE; LOCK b IN ROW SHARE MODE; LOCK c",
            &["Select public.a", "Lock public.b", "Lock public.c"],
        ),
        ("VACUUM", &["Vacuum ?"]),
        ("VACUUM (FULL, ANALYZE) a", &["Vacuum public.a"]),
        ("ANALYZE s.a (x)", &["Analyze s.a"]),
        ("REINDEX TABLE a", &["Reindex public.a"]),
        ("REINDEX INDEX s.i", &["Reindex other:s.i"]),
        ("REINDEX SCHEMA s", &["Reindex ?"]),
        ("CLUSTER a USING i", &["Cluster public.a"]),
        ("CLUSTER", &["Cluster ?"]),
        ("REFRESH MATERIALIZED VIEW m", &["RefreshMaterializedView public.m"]),
    ]);
}

#[test]
fn the_session_learns_what_it_must_know() {
    let described = front()
        .describe(
            "BEGIN; SAVEPOINT s; ROLLBACK TO s; RELEASE s; COPY a FROM STDIN; COPY a TO STDOUT; COPY a TO '/x'; \
             PREPARE p AS SELECT 1; EXECUTE p; DEALLOCATE p; DEALLOCATE ALL; DECLARE c CURSOR FOR SELECT 1; FETCH c; \
             CLOSE c; CLOSE ALL; SELECT 1; COMMIT AND CHAIN; ABORT",
        )
        .unwrap();
    use StatementKind as K;
    let line = Line { delimiter: b'\t', null: b"\\N".as_slice().into(), header: false };
    let copy = CopyForm { syntax: CopySyntax::Text(line), of_query: false };
    assert_eq!(
        described.kinds,
        [
            K::Begin,
            K::Savepoint("s".into()),
            K::RollbackTo("s".into()),
            K::Release("s".into()),
            K::CopyIn,
            K::CopyOut(Some(Box::new(copy))),
            K::Other,
            K::Prepare("p".into()),
            K::Execute("p".into()),
            K::Deallocate(Some("p".into())),
            K::Deallocate(None),
            K::Declare("c".into()),
            K::Fetch("c".into()),
            K::CloseCursor(Some("c".into())),
            K::CloseCursor(None),
            K::Other,
            K::Commit { chain: true },
            K::Rollback { chain: false },
        ]
    );
    assert_eq!(described.statements, described.kinds.len());
    assert_eq!(described.actions.len(), described.kinds.len());
    let empty = front().describe("/* nothing */").unwrap();
    assert_eq!((empty.statements, empty.kinds.as_slice()), (0, [K::Empty].as_slice()));
}
