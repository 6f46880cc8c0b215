//! The server's own regression SQL, with its analysed parse trees as the judge of what each statement touches.
//!
//! The server logs the tree of every statement as it has understood it, before views are expanded and functions run:
//! the relations by their numbers with the rights that they need, the functions and operators that are called. An
//! event trigger logs which number stands for which name from when on. All of them must be among the operations that
//! we say the text has, or one of these must be on something unknown, or the text refused.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failing test should stop where it fails"
)]

use std::collections::{BTreeMap, HashMap};

use sallyport_conformance::regress::{SEARCH_PATH, Suite};
use sallyport_harness::{Postgres, PostgresOptions};
use sallyport_policy::{Action, Fact, ObjectKind};
use sallyport_postgres::sql::{Front, NameSettings};

/// Logs what each statement makes or changes, as `oracle: CLASS NUMBER ["schema", "name"]`.
const NOTES: &str = r#"
    CREATE SCHEMA sallyport_oracle;
    CREATE FUNCTION sallyport_oracle.note() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog AS $$
    DECLARE made record;
    BEGIN
        FOR made IN SELECT classid, objid FROM pg_event_trigger_ddl_commands() LOOP
            IF made.classid = 'pg_class'::regclass THEN
                RAISE LOG 'oracle: r % %', made.objid, (SELECT json_build_array(
                    CASE WHEN relpersistence = 't' THEN 'pg_temp' ELSE nspname END, relname)
                    FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = made.objid);
            ELSIF made.classid = 'pg_proc'::regclass THEN
                RAISE LOG 'oracle: f % %', made.objid, (SELECT json_build_array(nspname, proname)
                    FROM pg_proc c JOIN pg_namespace n ON n.oid = pronamespace WHERE c.oid = made.objid);
            ELSIF made.classid = 'pg_operator'::regclass THEN
                RAISE LOG 'oracle: o % %', made.objid, (SELECT json_build_array(nspname, oprname)
                    FROM pg_operator c JOIN pg_namespace n ON n.oid = oprnamespace WHERE c.oid = made.objid);
            END IF;
        END LOOP;
    END $$;
    CREATE EVENT TRIGGER sallyport_oracle ON ddl_command_end EXECUTE FUNCTION sallyport_oracle.note();
"#;

/// What is there from the start.
const KNOWN: &str = "
    SELECT 'r', c.oid, nspname, relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid < 16384
    UNION ALL SELECT 'f', c.oid, nspname, proname FROM pg_proc c JOIN pg_namespace n ON n.oid = pronamespace WHERE c.oid < 16384
    UNION ALL SELECT 'o', c.oid, nspname, oprname FROM pg_operator c JOIN pg_namespace n ON n.oid = oprnamespace WHERE c.oid < 16384";

/// Files that are quick and rich in forms.
const QUICK: &str = "test_setup create_function_c create_misc create_operator create_index select select_into \
    select_distinct subselect union case join aggregates arrays copyselect insert insert_conflict update delete merge \
    with returning window groupingsets portals prepare rowtypes rangefuncs tablesample create_view";

#[derive(Default)]
struct Tally {
    statements: usize,
    relations: usize,
    calls: usize,
    unknown: usize,
    refused: usize,
    /// Calls of what has a built-in's name in another schema of the path, and of functions that are written like a
    /// column of a table: for the administrator to see to.
    left: usize,
    wrong: BTreeMap<String, Vec<String>>,
}

type Names = HashMap<(char, u32), (String, String)>;

fn number(text: &str, key: &str) -> Option<u32> {
    let rest = &text[text.find(key)? + key.len()..];
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Relations with the rights they need.
type Relations = Vec<(u32, u32)>;
/// Functions and operators, by the class of the catalog.
type Calls = Vec<(char, u32)>;

/// The relations of a tree, and what it calls.
fn touched(tree: &str) -> (Relations, Calls) {
    let mut relations = Vec::new();
    let mut calls = Vec::new();
    for entry in tree.split("{RANGETBLENTRY ").skip(1) {
        let own = entry.split("{RANGETBLENTRY ").next().unwrap_or(entry);
        // An entry of its own kind: a relation.
        if let Some(at) = own.find(":rtekind 0 ") {
            let own = &own[at..];
            if let (Some(relation), Some(rights)) = (number(own, ":relid "), number(own, ":requiredPerms ")) {
                relations.push((relation, rights));
            }
        }
    }
    for call in tree.split("{FUNCEXPR ").skip(1) {
        // Casts and what the grammar itself calls are not names that a statement writes.
        if number(call, ":funcformat ") == Some(0) {
            calls.extend(number(call, ":funcid ").map(|called| ('f', called)));
        }
    }
    for (node, key, class) in [
        ("{AGGREF ", ":aggfnoid ", 'f'),
        ("{WINDOWFUNC ", ":winfnoid ", 'f'),
        ("{OPEXPR ", ":opno ", 'o'),
        ("{SCALARARRAYOPEXPR ", ":opno ", 'o'),
    ] {
        calls.extend(tree.split(node).skip(1).filter_map(|part| number(part, key)).map(|called| (class, called)));
    }
    (relations, calls)
}

fn is_on(action: &Action, kind: ObjectKind, (schema, name): &(String, String), reads: bool) -> bool {
    action.operations.iter().any(|operation| {
        let Fact::Known(Some(object)) = &operation.object else { return false };
        // Temporary relations are last in the path: a name without schema means one where nothing else has it.
        let fits = |space: &str| space == schema || (schema == "pg_temp" && space == "public");
        object.kind == kind
            && object.names.iter().any(|known| fits(&known.space) && known.name == *name)
            && (reads || operation.verb != "Select")
    })
}

impl Tally {
    fn judge(&mut self, front: &Front, builtin: &Names, names: &Names, file: &str, text: &str, tree: &str) {
        let (relations, calls) = touched(tree);
        let described = match front.describe(text) {
            Ok(described) => described,
            Err(_) => return self.refused += 1,
        };
        // After another search path the session's texts are for another front.
        if described.action.operations.iter().any(|operation| operation.object == Fact::Unknown) {
            return self.unknown += 1;
        }
        self.statements += 1;
        let mut wrong = Vec::new();
        for (relation, rights) in relations {
            let Some(name) = names.get(&('r', relation)) else { continue };
            self.relations += 1;
            // 1 INSERT, 2 SELECT, 4 UPDATE, 8 DELETE.
            let reads = rights & 13 == 0;
            // A table that somebody made in pg_catalog, for which the server has to be told to let it: not on the list.
            let is_made_there = name.0 == "pg_catalog" && !builtin.contains_key(&('r', relation));
            if is_made_there {
                self.left += 1;
            } else if !is_on(&described.action, ObjectKind::Table, name, reads) {
                wrong.push(format!("{} {}.{}", if reads { "reads" } else { "writes" }, name.0, name.1));
            }
        }
        for call in calls {
            let Some(name) = names.get(&call) else { continue };
            self.calls += 1;
            if name.0 == "pg_catalog" || name.0 == "information_schema" {
                // Which of them are harmless is a list of its own, held to the server by another test.
                continue;
            }
            if is_on(&described.action, ObjectKind::Function, name, true) {
                continue;
            }
            let overloads = |((class, _), (schema, own)): (&(char, u32), &(String, String))| {
                *class == call.0 && schema == "pg_catalog" && *own == name.1
            };
            let like_a_column = text.contains(&format!(".{}", name.1)) && !text.contains(&format!("{}(", name.1));
            if builtin.iter().any(overloads) || like_a_column {
                self.left += 1;
            } else {
                wrong.push(format!("calls {}.{}", name.0, name.1));
            }
        }
        if !wrong.is_empty() {
            let shown =
                format!("{text}\n    the server {}\n    we say {:?}", wrong.join(", "), described.action.operations);
            self.wrong.entry(file.to_owned()).or_default().push(shown);
        }
    }

    /// Follows the log of one file.
    fn read(&mut self, builtin: &Names, names: &mut Names, file: &str, log: &str) {
        let pinned = Front::new(NameSettings::default());
        // As a session does: what sets another path is followed, or names are not known any more.
        let mut front = &pinned;
        let mut text = String::new();
        let mut first = false;
        for entry in log.split("\n@oracle@").map(|entry| entry.trim_start_matches("@oracle@")) {
            let entry = entry.replace("\n\t", "\n");
            if let Some(statement) = entry.strip_prefix("LOG:  statement: ") {
                statement.trim_end().clone_into(&mut text);
                first = true;
            } else if let Some(note) =
                entry.find("oracle: ").map(|at| &entry[at + 8..]).filter(|_| entry.starts_with("LOG:  oracle"))
            {
                let mut parts = note.splitn(3, ' ');
                let class = parts.next().and_then(|class| class.chars().next()).unwrap();
                let number = parts.next().unwrap().parse().unwrap();
                if let Some(pair) = parts.next().and_then(|pair| serde_json::from_str::<Vec<String>>(pair.trim()).ok())
                {
                    let schema = if pair[0].starts_with("pg_temp_") { "pg_temp" } else { &pair[0] };
                    names.insert((class, number), (schema.to_owned(), pair[1].clone()));
                }
            } else if entry.starts_with("DETAIL:  {QUERY") && first {
                // The first tree is the text's own; what follows belongs to functions that it runs.
                first = false;
                let tree = entry.replace('\n', " ");
                self.judge(front, builtin, names, file, &text, &tree);
                if let Some(lost) =
                    front.describe(&text).ok().and_then(|described| described.loses).and_then(|loss| front.lost(loss))
                {
                    front = lost;
                }
            }
        }
    }
}

async fn the_server_agrees(wanted: impl Fn(&str) -> bool) -> Tally {
    let settings = ["log_line_prefix = '@oracle@'", "log_connections = off", "max_prepared_transactions = 2"];
    let options = PostgresOptions { settings: settings.map(str::to_owned).to_vec(), ..PostgresOptions::default() };
    let server = Postgres::start(options).await.unwrap();
    let suite = Suite::get(&server).unwrap();
    suite.prepare(&server).await.unwrap();
    server.exec_sql_in("regression", NOTES).await.unwrap();
    let mut names = Names::new();
    for row in server.exec_sql_in("regression", KNOWN).await.unwrap() {
        let cell = |n: usize| row[n].clone().unwrap();
        names.insert((cell(0).chars().next().unwrap(), cell(1).parse().unwrap()), (cell(2), cell(3)));
    }
    let builtin = names.clone();
    let conninfo = server.superuser_url().replace("/postgres?", "/regression?");
    let options = format!(
        "{SEARCH_PATH} -c debug_print_parse=on -c debug_pretty_print=off -c log_statement=all -c log_min_messages=log"
    );
    let mut tally = Tally::default();
    let mut read = server.log().len();
    for name in suite.schedule().unwrap().iter().filter(|name| wanted(name)) {
        suite.run(&server, &conninfo, Some(&options), name).unwrap();
        let log = server.log();
        tally.read(&builtin, &mut names, name, &log[read..]);
        read = log.len();
    }
    let Tally { statements, relations, calls, unknown, refused, left, wrong } = &tally;
    let count: usize = wrong.values().map(Vec::len).sum();
    println!(
        "{statements} statements with {relations} relations and {calls} calls compared, {unknown} unknown, \
         {refused} refused, {left} left to the administrator, {count} wrong"
    );
    tally
}

fn assert_right(tally: &Tally, least: usize) {
    let shown: Vec<_> =
        tally.wrong.iter().flat_map(|(file, wrong)| wrong.iter().map(move |one| format!("{file}: {one}"))).collect();
    assert!(shown.is_empty(), "\n{}", shown.join("\n"));
    assert!(tally.statements > least && tally.relations > least / 2, "{} {}", tally.statements, tally.relations);
}

#[tokio::test]
async fn what_the_server_understands_is_what_we_say_of_quick_files() {
    let quick: Vec<_> = QUICK.split_whitespace().collect();
    assert_right(&the_server_agrees(|name| quick.contains(&name)).await, 1000);
}

#[tokio::test]
#[ignore = "minutes: make regress"]
async fn what_the_server_understands_is_what_we_say_of_the_whole_suite() {
    assert_right(&the_server_agrees(|_| true).await, 10_000);
}
