//! The server as judge: what it locks while it runs a statement must be among the objects that we say it touches.
//!
//! Each statement runs in a transaction that is rolled back. Tables that are only locked in share mode must be in
//! some operation, those locked to be written in one that is no `Select`. Every function `evil…` reads the table
//! `secret`, so that a lock on that table shows that the server ran one: then some operation must be on a function.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test should stop where it fails"
)]

use sallyport_harness::{Postgres, PostgresOptions};
use sallyport_policy::{Action, Fact, ObjectKind};
use sallyport_postgres::sql::{Front, NameSettings};

const SCHEMA: &str = "
    CREATE SCHEMA s;
    CREATE TABLE a (id int PRIMARY KEY, x int, y text);
    CREATE TABLE b (id int PRIMARY KEY, x int, y text);
    CREATE TABLE c (id int PRIMARY KEY, x int, y text);
    CREATE TABLE s.d (id int PRIMARY KEY, x int, y text);
    CREATE TABLE \"We ird\" (id int);
    CREATE TABLE secret (id int);
    CREATE TABLE parted (id int, x int) PARTITION BY RANGE (id);
    CREATE SEQUENCE q;
    CREATE MATERIALIZED VIEW m AS SELECT 1 AS id;
    CREATE TYPE pair AS (l int, r int);
    INSERT INTO a VALUES (1, 1, 'a'); INSERT INTO b VALUES (1, 1, 'b'); INSERT INTO c VALUES (1, 1, 'c');
    INSERT INTO s.d VALUES (1, 1, 'd');
    CREATE FUNCTION evil() RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM public.secret); END';
    CREATE FUNCTION evil(text) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM public.secret); END';
    CREATE FUNCTION evil(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN (SELECT count(*) FROM public.secret); END';
    CREATE FUNCTION evil(pair) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM public.secret); END';
    CREATE FUNCTION evil_rows() RETURNS SETOF int LANGUAGE plpgsql AS 'BEGIN RETURN QUERY SELECT id FROM public.secret; END';
    CREATE FUNCTION evil_operator(int, int) RETURNS int LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM public.secret); END';
    CREATE OPERATOR s.@@@ (leftarg = int, rightarg = int, function = evil_operator);
    CREATE OPERATOR public.@@@@ (leftarg = int, rightarg = int, function = evil_operator);
    CREATE PROCEDURE evil_procedure() LANGUAGE plpgsql AS 'BEGIN PERFORM count(*) FROM public.secret; END';
    CREATE FUNCTION trigger_function() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
";

const STATEMENTS: &[&str] = &[
    // queries
    "SELECT 1",
    "TABLE a",
    "VALUES (1), ((SELECT x FROM a))",
    "SELECT * FROM a, b WHERE a.id = b.id",
    "SELECT * FROM a JOIN b USING (id) LEFT JOIN s.d ON true",
    "SELECT * FROM a NATURAL FULL JOIN b",
    "SELECT * FROM \"We ird\"",
    "SELECT * FROM PUBLIC.A",
    "SELECT * FROM ONLY a TABLESAMPLE bernoulli (50) REPEATABLE (1)",
    "SELECT (SELECT max(x) FROM b) FROM a",
    "SELECT * FROM a WHERE EXISTS (SELECT FROM b WHERE b.id = a.id)",
    "SELECT * FROM a WHERE x IN (SELECT x FROM b) AND x > ALL (SELECT x FROM c WHERE false)",
    "SELECT * FROM a WHERE (id, x) = (SELECT id, x FROM b)",
    "SELECT array(SELECT id FROM a)",
    "SELECT * FROM (SELECT * FROM a) z, LATERAL (SELECT * FROM b WHERE b.id = z.id) w",
    "SELECT id FROM a UNION ALL SELECT id FROM b EXCEPT SELECT id FROM c INTERSECT SELECT id FROM s.d",
    "SELECT x, count(*) FROM a GROUP BY GROUPING SETS ((x), ()) HAVING count(*) > (SELECT count(*) FROM b)",
    "SELECT x FROM a ORDER BY (SELECT max(x) FROM b) LIMIT (SELECT 1 FROM c) OFFSET (SELECT 0 FROM s.d)",
    "SELECT DISTINCT ON ((SELECT max(id) FROM b)) x FROM a",
    "SELECT rank() OVER (ORDER BY (SELECT max(id) FROM b)) FROM a",
    "SELECT sum(x) FILTER (WHERE x IN (SELECT id FROM b)) OVER w FROM a WINDOW w AS (PARTITION BY (SELECT 1 FROM c))",
    "SELECT CASE WHEN EXISTS (TABLE b) THEN (SELECT 1 FROM c) ELSE 2 END FROM a",
    "SELECT coalesce((SELECT max(x) FROM a), (SELECT max(x) FROM b)), greatest((SELECT max(x) FROM c), 1)",
    "SELECT row((SELECT max(x) FROM a)), ARRAY[(SELECT max(x) FROM b)], (ARRAY[1, 2])[(SELECT max(id) FROM c)]",
    "SELECT ((SELECT max(x) FROM a)::text || 'x')::varchar(10) COLLATE \"C\"",
    "SELECT lower(y), x IS NOT NULL, (SELECT true FROM b) IS TRUE FROM a",
    "SELECT y LIKE (SELECT 'a' FROM b), x BETWEEN (SELECT 1 FROM c) AND 3 FROM a",
    "SELECT xmlelement(name e, (SELECT y FROM a)), xmlforest((SELECT y FROM b) AS z)",
    "SELECT xmlserialize(content xmlelement(name e, (SELECT y FROM a)) AS text)",
    "SELECT * FROM xmltable('/r' PASSING (SELECT '<r/>'::xml FROM a) COLUMNS k int PATH 'k' DEFAULT (SELECT 1 FROM b))",
    "SELECT * FROM generate_series(1, (SELECT max(id) FROM a)) g",
    "SELECT * FROM ROWS FROM (generate_series(1, 2), unnest(ARRAY(SELECT id FROM a))) WITH ORDINALITY",
    "SELECT a.*, b FROM a, b",
    "SELECT pg_relation_size('a'), 'b'::regclass FROM c",
    "SELECT count(*) FROM pg_class, pg_catalog.pg_attribute, information_schema.tables WHERE false",
    // CTEs
    "WITH a AS (SELECT 1) SELECT * FROM a",
    "WITH a AS (SELECT 1) SELECT * FROM public.a",
    "WITH a AS (SELECT * FROM a) SELECT * FROM a",
    "WITH RECURSIVE a AS (SELECT 1 AS id UNION ALL SELECT id + 1 FROM a WHERE id < 3) SELECT * FROM a",
    "WITH a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a",
    "WITH RECURSIVE a AS (SELECT * FROM b), b AS (SELECT 1) SELECT * FROM a, b",
    "WITH a AS (SELECT 1), z AS (SELECT * FROM a) SELECT * FROM z",
    "SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a) z, a",
    "(WITH a AS (SELECT 1 AS id) SELECT id FROM a) UNION SELECT id FROM a",
    "WITH a AS (SELECT 1 AS id) SELECT id FROM a UNION SELECT id FROM a UNION SELECT id FROM b",
    "WITH a AS (WITH a AS (SELECT * FROM a) SELECT * FROM a) SELECT * FROM a",
    "WITH a AS (SELECT 9 AS id) INSERT INTO a SELECT id FROM a",
    "WITH a AS (SELECT 9 AS id) INSERT INTO a (id) SELECT id FROM a RETURNING (SELECT max(id) FROM a)",
    "INSERT INTO b (id) WITH a AS (SELECT 9 AS id) SELECT id FROM a RETURNING (SELECT count(*) FROM a)",
    "WITH a AS (SELECT 1) DELETE FROM a",
    "WITH b AS (SELECT 1 AS id) UPDATE a SET x = b.id FROM b WHERE a.id = b.id",
    "WITH b AS (SELECT 1 AS id) DELETE FROM a USING b WHERE a.id = b.id AND EXISTS (SELECT FROM public.b)",
    "WITH w AS (DELETE FROM a RETURNING *) SELECT * FROM w",
    "WITH w AS (INSERT INTO a VALUES (7) RETURNING id), v AS (UPDATE b SET x = 1 WHERE id = 1) SELECT * FROM w, c",
    "WITH a AS MATERIALIZED (SELECT * FROM b) SELECT (SELECT count(*) FROM a) FROM c",
    "WITH RECURSIVE a(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM a WHERE n < 3) SEARCH DEPTH FIRST BY n SET o CYCLE n SET k USING p SELECT * FROM a, b",
    "WITH a AS (SELECT 1 AS id) MERGE INTO b USING a ON a.id = b.id WHEN MATCHED THEN DELETE",
    // writes
    "INSERT INTO a VALUES (5, (SELECT max(x) FROM b), 'z')",
    "INSERT INTO a SELECT id + 10, x, y FROM b",
    "INSERT INTO a VALUES (1) ON CONFLICT (id) DO UPDATE SET x = (SELECT max(x) FROM b) WHERE a.x IN (SELECT id FROM c)",
    "INSERT INTO a VALUES (1) ON CONFLICT DO NOTHING RETURNING (SELECT max(id) FROM b)",
    "INSERT INTO a AS t VALUES (1) ON CONFLICT (id) DO UPDATE SET x = t.x + 1",
    "UPDATE a SET x = b.x FROM b WHERE a.id = b.id",
    "UPDATE a SET (x, y) = (SELECT x, y FROM b LIMIT 1) RETURNING (SELECT max(id) FROM c)",
    "UPDATE ONLY a z SET x = 1 WHERE z.id IN (SELECT id FROM b)",
    "DELETE FROM a USING b, c WHERE a.id = b.id AND b.id = c.id RETURNING *",
    "DELETE FROM a WHERE EXISTS (SELECT FROM s.d WHERE d.id = a.id)",
    "MERGE INTO a USING b ON a.id = b.id WHEN MATCHED THEN UPDATE SET x = (SELECT max(x) FROM c) WHEN NOT MATCHED THEN INSERT VALUES (b.id)",
    "MERGE INTO a USING (SELECT * FROM b) z ON a.id = z.id WHEN MATCHED AND EXISTS (TABLE c) THEN DELETE WHEN NOT MATCHED THEN DO NOTHING",
    "TRUNCATE a, s.d RESTART IDENTITY",
    "SELECT * FROM a FOR UPDATE",
    "SELECT * FROM a JOIN b USING (id) FOR NO KEY UPDATE OF a",
    "SELECT * FROM a z JOIN b USING (id) FOR SHARE OF z FOR KEY SHARE OF b",
    "SELECT * FROM (SELECT * FROM a) z, b FOR UPDATE",
    "SELECT * FROM (SELECT * FROM a) z, b FOR UPDATE OF z",
    "WITH w AS (SELECT * FROM a FOR UPDATE) SELECT * FROM w, b",
    // around queries
    "EXPLAIN SELECT * FROM a",
    "EXPLAIN (ANALYZE, COSTS off) DELETE FROM a WHERE id IN (SELECT id FROM b)",
    "EXPLAIN ANALYZE CREATE TABLE n AS SELECT * FROM a",
    "SELECT * INTO n FROM a",
    "SELECT id INTO TEMP n FROM a UNION SELECT id FROM b",
    "CREATE TABLE s.n AS SELECT a.* FROM a, s.d z",
    "CREATE TEMP TABLE n ON COMMIT DROP AS TABLE a",
    "CREATE MATERIALIZED VIEW n AS SELECT * FROM a",
    "REFRESH MATERIALIZED VIEW m",
    "PREPARE p AS DELETE FROM a WHERE id = (SELECT max(id) FROM b)",
    "PREPARE p (int) AS SELECT * FROM a WHERE id = $1; EXECUTE p(1); DEALLOCATE p",
    "PREPARE p AS SELECT 1 AS k FROM a; CREATE TABLE n AS EXECUTE p",
    "DECLARE z CURSOR FOR SELECT * FROM a, b; FETCH ALL FROM z; CLOSE z",
    "DECLARE z CURSOR FOR SELECT * FROM a FOR UPDATE; FETCH z; UPDATE a SET x = 1 WHERE CURRENT OF z",
    "COPY a TO '/dev/null'",
    "COPY (SELECT * FROM a JOIN b USING (id)) TO '/dev/null'",
    "COPY (DELETE FROM a RETURNING (SELECT max(id) FROM b)) TO '/dev/null'",
    "COPY a TO PROGRAM 'cat > /dev/null'",
    "COPY a FROM PROGRAM 'true' WHERE id > 1",
    "COPY s.d (id, x) FROM '/dev/null'",
    "LOCK TABLE a, ONLY s.d IN ACCESS EXCLUSIVE MODE",
    "LOCK b IN ACCESS SHARE MODE",
    "ANALYZE a (x), s.d",
    "CLUSTER a USING a_pkey",
    "REINDEX TABLE a",
    "REINDEX INDEX a_pkey",
    "SET LOCAL statement_timeout = 1000; SHOW statement_timeout; RESET statement_timeout",
    "SAVEPOINT z; SELECT 1 FROM a; ROLLBACK TO z; RELEASE z",
    "LISTEN z; NOTIFY z, 'x'; UNLISTEN z",
    "DO 'BEGIN DELETE FROM a; END'",
    // definitions
    "CREATE TABLE n (id int PRIMARY KEY, k int REFERENCES a, CHECK (k > 0))",
    "CREATE TABLE n (LIKE a INCLUDING ALL, z text)",
    "CREATE TABLE n () INHERITS (a)",
    "CREATE TABLE n PARTITION OF parted FOR VALUES FROM (1) TO (5)",
    "CREATE TEMP TABLE n (id int)",
    "CREATE TABLE s.n (k pair)",
    "CREATE UNIQUE INDEX z ON a (lower(y), (x + 1) DESC) INCLUDE (id) WHERE x > 0",
    "CREATE VIEW v AS SELECT * FROM a WHERE x IN (SELECT id FROM b)",
    "CREATE TEMP VIEW v AS SELECT 1",
    "CREATE RECURSIVE VIEW v (k) AS SELECT 1 UNION ALL SELECT k + 1 FROM v, a WHERE k < 3",
    "CREATE SCHEMA n CREATE TABLE k (id int) CREATE VIEW v AS SELECT * FROM k",
    "CREATE SEQUENCE n OWNED BY a.x",
    "ALTER SEQUENCE q OWNED BY public.b.x",
    "ALTER SEQUENCE q RESTART",
    "CREATE TYPE n AS (k int, l a)",
    "CREATE DOMAIN n AS int CHECK (VALUE > 0)",
    "CREATE TRIGGER n BEFORE INSERT ON a FOR EACH ROW WHEN (NEW.x > 0) EXECUTE FUNCTION trigger_function()",
    "CREATE RULE n AS ON INSERT TO a DO ALSO DELETE FROM b",
    "CREATE POLICY n ON a USING (id IN (SELECT id FROM b))",
    "CREATE STATISTICS n ON x, y FROM a",
    "CREATE PUBLICATION n FOR TABLE a",
    "CREATE FUNCTION n() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER TABLE a ADD COLUMN k int DEFAULT 1, ADD CHECK (x > 0), ALTER x SET NOT NULL",
    "ALTER TABLE a ADD FOREIGN KEY (x) REFERENCES b, DROP COLUMN y",
    "ALTER TABLE a ALTER x TYPE text USING x::text",
    "ALTER TABLE parted ATTACH PARTITION s.n DEFAULT",
    "ALTER TABLE c INHERIT a",
    "ALTER TABLE a ENABLE ROW LEVEL SECURITY, DISABLE TRIGGER ALL, SET (fillfactor = 50), CLUSTER ON a_pkey",
    "ALTER TABLE a RENAME TO n",
    "ALTER TABLE a RENAME x TO k",
    "ALTER TABLE a SET SCHEMA s",
    "ALTER INDEX a_pkey RENAME TO n",
    "DROP TABLE a, s.d",
    "DROP TABLE a CASCADE",
    "DROP MATERIALIZED VIEW m",
    "DROP SEQUENCE q",
    "DROP INDEX z_index",
    "DROP SCHEMA s CASCADE",
    "DROP TRIGGER z_trigger ON a",
    "COMMENT ON TABLE a IS 'x'",
    "COMMENT ON COLUMN s.d.x IS 'x'",
    "GRANT SELECT ON a, s.d TO PUBLIC",
    "REVOKE ALL ON ALL TABLES IN SCHEMA public FROM PUBLIC",
    // functions, in every form that runs one
    "SELECT evil()",
    "SELECT public.evil('x')",
    "SELECT x FROM a WHERE evil(x) = 0",
    "SELECT ('x'::text).evil",
    "SELECT (row(1, 2)::pair).evil",
    "SELECT z.evil FROM unnest(ARRAY['x']) z",
    "SELECT z.evil FROM unnest(ARRAY['x']) z(k)",
    "SELECT z.evil FROM ROWS FROM (unnest(ARRAY['x'])) z",
    "SELECT unnest.evil FROM unnest(ARRAY['x'])",
    "SELECT \"current_user\".evil FROM current_user",
    "SELECT (SELECT z.evil) FROM unnest(ARRAY['x']) z",
    "UPDATE a SET x = z.evil FROM unnest(ARRAY['x']) z",
    "SELECT * FROM evil_rows()",
    "SELECT * FROM a, LATERAL evil(a.x) k",
    "SELECT 1 OPERATOR(s.@@@) 2",
    "SELECT 1 @@@@ 2",
    "SELECT id @@@@ x FROM a",
    "CALL evil_procedure()",
    "INSERT INTO a VALUES (evil() + 20)",
    "CREATE TABLE n (k int DEFAULT 1); INSERT INTO n VALUES (evil())",
    "CREATE INDEX ON a (evil(x))",
    "CREATE TABLE n AS SELECT evil()",
    "ALTER TABLE a ADD COLUMN k int DEFAULT evil()",
    "ALTER TABLE a ADD CHECK (evil(x) = 0)",
    "PREPARE p (int) AS SELECT $1; EXECUTE p(evil())",
    "SELECT lo_get(1) WHERE false",
    "SELECT query_to_xml('TABLE secret', true, true, '')",
    "SELECT table_to_xml('secret', true, true, '')",
    "SELECT nextval('q')",
];

const LOCKS: &str = "
    SELECT 'lock', CASE WHEN n.oid = pg_my_temp_schema() THEN 'pg_temp' ELSE n.nspname END, r.relname,
        bool_or(l.mode NOT IN ('AccessShareLock', 'RowShareLock')), bool_or(l.mode = 'RowShareLock')
    FROM pg_locks l JOIN pg_class r ON r.oid = l.relation JOIN pg_namespace n ON n.oid = r.relnamespace
    WHERE l.pid = pg_backend_pid() AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND r.relkind IN ('r', 'v', 'm', 'p', 'f', 'S')
        AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema') AND n.nspname !~ '^pg_toast'
    GROUP BY 1, 2, 3";

fn complaints(action: &Action, schema: &str, name: &str, written: bool, row_locked: bool) -> Option<&'static str> {
    let operations = &action.operations;
    if operations.iter().any(|operation| operation.object == Fact::Unknown) {
        return None;
    }
    let runs_function = operations
        .iter()
        .any(|operation| matches!(&operation.object, Fact::Known(Some(object)) if object.kind == ObjectKind::Function));
    if name == "secret" {
        return (!runs_function).then_some("ran a function that we did not see");
    }
    let on: Vec<_> = operations
        .iter()
        .filter(|operation| match &operation.object {
            Fact::Known(Some(object)) => {
                object.kind == ObjectKind::Table && object.names.iter().any(|n| n.space == schema && n.name == name)
            }
            _ => false,
        })
        .collect();
    if on.is_empty() && !(runs_function && name == "q") {
        return Some("touched a table that we did not see");
    }
    let only_read = on.iter().all(|operation| operation.verb == "Select");
    (only_read && (written || row_locked) && !(runs_function && name == "q"))
        .then_some("wrote or locked a table that we say is only read")
}

#[tokio::test]
async fn what_the_server_locks_is_what_we_say() {
    let server = Postgres::start(PostgresOptions::default()).await.unwrap();
    server.exec_sql(SCHEMA).await.unwrap();
    server
        .exec_sql(
            "CREATE TABLE s.n (id int, x int); CREATE INDEX z_index ON b (x);
            CREATE TRIGGER z_trigger BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION trigger_function()",
        )
        .await
        .unwrap();
    let names = NameSettings::default();
    let front = Front::new(names.clone());
    let mut wrong = Vec::new();
    let mut locked = 0;
    for statement in STATEMENTS {
        // This table is there for the one statement that takes it as a partition.
        let prelude = if statement.contains("ATTACH") { "" } else { "DROP TABLE s.n;" };
        let script = format!(
            "SET search_path = {}; BEGIN; {prelude} SAVEPOINT start; {statement}; {LOCKS}; ROLLBACK",
            names.search_path()
        );
        let rows = match server.exec_sql(&script).await {
            Ok(rows) => rows,
            Err(error) => {
                wrong.push(format!("{statement}\n    the server: {error:?}"));
                continue;
            }
        };
        let described = match front.describe(statement) {
            Ok(described) => described,
            Err(refusal) => {
                wrong.push(format!("{statement}\n    refused: {refusal}"));
                continue;
            }
        };
        // An index is judged by its own name, as an object that is no table.
        let of_an_index = ["REINDEX INDEX", "DROP INDEX"].iter().any(|verb| statement.starts_with(verb));
        for row in rows.iter().filter(|_| !of_an_index).filter(|row| row.first() == Some(&Some("lock".to_owned()))) {
            let cell = |n: usize| row[n].clone().unwrap();
            let (schema, name) = (cell(1), cell(2));
            locked += 1;
            if let Some(complaint) = complaints(&described.action, &schema, &name, cell(3) == "t", cell(4) == "t") {
                wrong.push(format!("{statement}\n    the server {complaint}: {schema}.{name}: {:?}", described.action));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(STATEMENTS.len() > 150 && locked > 150, "{} statements, {locked} locks", STATEMENTS.len());
}

/// What `pg_catalog` has on this server, a line each: functions with their class, operators, relations.
async fn catalog_of(server: &Postgres) -> [Vec<String>; 3] {
    let operators = "SELECT oprname FROM (SELECT DISTINCT oprname FROM pg_operator
        WHERE oprnamespace = 'pg_catalog'::regnamespace) o ORDER BY oprname COLLATE \"C\"";
    let relations = "SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace
        AND relkind IN ('r', 'v') ORDER BY relname COLLATE \"C\"";
    let mut lists = [const { Vec::new() }; 3];
    for (list, query) in lists.iter_mut().zip([include_str!("../src/sql/catalog/functions.sql"), operators, relations])
    {
        *list = column(server.exec_sql(query).await.unwrap());
    }
    let turned = |line: &String| line.split_once(' ').map(|(class, name)| format!("{name} {class}")).unwrap();
    lists[0] = lists[0].iter().map(turned).collect();
    lists[0].sort();
    lists
}

fn column(rows: Vec<Vec<Option<String>>>) -> Vec<String> {
    rows.into_iter().map(|row| row[0].clone().unwrap()).collect()
}

fn lines(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[tokio::test]
async fn the_lists_of_the_catalog_are_the_servers() {
    let server = Postgres::start(PostgresOptions::default()).await.unwrap();
    let version = column(server.exec_sql("SELECT current_setting('server_version_num')::int / 10000").await.unwrap());
    let [functions, operators, relations] = catalog_of(&server).await;
    let ours = lines(include_str!("../src/sql/catalog/functions.txt"));
    let [our_operators, our_relations] =
        [include_str!("../src/sql/catalog/operators.txt"), include_str!("../src/sql/catalog/relations.txt")].map(lines);
    if version == ["15"] {
        assert_eq!((functions, operators, relations), (owned(&ours), owned(&our_operators), owned(&our_relations)));
        return;
    }
    // On 18 the functions are those of 15 with what is known to be otherwise.
    let otherwise = lines(include_str!("../src/sql/catalog/eighteen.txt"));
    let name = |line: &str| line.split_once(' ').map(|(name, _)| name.to_owned()).unwrap();
    let later: Vec<_> = otherwise.iter().map(|line| name(line)).collect();
    if version == ["18"] {
        let same = ours.iter().filter(|line| !later.contains(&name(line)));
        let mut eighteen: Vec<_> = same.chain(otherwise.iter().filter(|line| !line.ends_with(" gone"))).collect();
        eighteen.sort_unstable();
        assert_eq!(
            functions.iter().map(String::as_str).collect::<Vec<_>>(),
            eighteen.into_iter().copied().collect::<Vec<_>>()
        );
    }
    // On a server of any version that is newer than 15 every name that is not in its list has to be one that may be
    // built in, and nothing that it calls harmless may do more than it did.
    let may_be =
        |name: &str| name.starts_with("pg_") || name.starts_with("lo_") || later.iter().any(|later| later == name);
    for function in &functions {
        let (name, class) = function.split_once(' ').unwrap();
        match ours.iter().find_map(|ours| ours.strip_prefix(name)?.strip_prefix(' ')) {
            Some("harmless") => assert_ne!(class, "effect", "{name} was harmless"),
            Some(_) => {}
            None => assert!(may_be(name), "{name} could be taken for somebody else's"),
        }
    }
    let unknown = |theirs: &[String], ours: &[&str], known: fn(&str) -> bool| {
        theirs.iter().filter(|name| !ours.contains(&name.as_str()) && !known(name)).cloned().collect::<Vec<_>>()
    };
    assert_eq!(unknown(&relations, &our_relations, |name| name.starts_with("pg_")), Vec::<String>::new());
    // A new operator would be refused: no harm, and a reason to look.
    assert_eq!(unknown(&operators, &our_operators, |_| false), Vec::<String>::new());
}

fn owned(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|&line| line.to_owned()).collect()
}

#[tokio::test]
async fn new_objects_go_to_the_first_schema_of_the_path_and_not_to_the_catalog() {
    let server = Postgres::start(PostgresOptions::default()).await.unwrap();
    let path = NameSettings::new(["pg_catalog", "public", "pg_temp"]).unwrap().search_path();
    let script = format!(
        "SET search_path = {path}; CREATE TABLE n (); CREATE TEMP TABLE n ();
        SELECT 'n'::regclass = 'public.n'::regclass, 'pg_class'::regclass = 'pg_catalog.pg_class'::regclass"
    );
    let rows = server.exec_sql(&script).await.unwrap();
    assert_eq!(rows, [[Some("t".to_owned()), Some("t".to_owned())]]);
}
