//! Stock tools of other languages: they look at the database under a policy that only reads, and change it under one
//! for migrations. What they find is the same direct and through the proxy, and nothing is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[allow(unreachable_pub, reason = "the operator's own file")]
#[path = "../../../operator/src/derive/builtin.rs"]
mod builtin;

use std::process::Command;

use sallyport_conformance::clients::{drivers, jars, node_modules, python, run, texts};
use sallyport_conformance::{Guarded, Way, policy};
use sallyport_policy::{Effect, NamePattern, ObjectKind, ObjectMatcher, PolicyEntry, Rule};

fn read_only() -> Vec<PolicyEntry> {
    let mut entry = policy::policy("read", Vec::new());
    entry.rules = builtin::rules();
    entry.rules.push(policy::tables(policy::rule("read", Effect::Allow, &["Select"]), &["public.*"]));
    vec![entry]
}

fn functions(mut rule: Rule, names: &[&str]) -> Rule {
    let names = names.iter().filter_map(|name| NamePattern::parse(name).ok()).collect();
    rule.matcher.objects = Some(vec![ObjectMatcher { kind: ObjectKind::Function, names }]);
    rule
}

/// What docs/postgresql.md shows for tools that change a schema.
fn migrations() -> Vec<PolicyEntry> {
    let mut entry = policy::policy("migrations", Vec::new());
    entry.rules = builtin::rules();
    let everything = policy::rule("schema", Effect::Allow, &[]);
    entry.rules.push(policy::tables(everything, &["public.*"]));
    // What hangs on a column goes with it, whatever it is: Django drops every column that way.
    entry.rules.push(policy::rule("cascades", Effect::Allow, &["AlterTable", "Drop"]));
    let locks = [
        "pg_advisory_lock",
        "pg_try_advisory_lock",
        "pg_advisory_xact_lock",
        "pg_try_advisory_xact_lock",
        "pg_advisory_unlock",
    ];
    let sequences = ["nextval", "setval", "set_config"];
    let names: Vec<_> = locks.iter().chain(&sequences).map(|name| format!("pg_catalog.{name}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    entry.rules.push(functions(policy::rule("migration-functions", Effect::Allow, &[]), &names));
    vec![entry]
}

/// Commands that the proxy has refused.
fn refused(guarded: &Guarded) -> Vec<String> {
    let records = guarded.records().unwrap();
    let refused = records.iter().filter(|record| record.to_string().contains("\"deny\""));
    refused.map(|record| record.to_string().chars().take(1500).collect()).collect()
}

#[track_caller]
fn succeeds(guarded: &Guarded, way: Way, command: Command) -> String {
    let output = run(command, "").unwrap();
    let (out, errors) = texts(&output);
    assert!(output.status.success(), "{way:?}: {out}\n{errors}\nrefused: {:#?}", refused(guarded));
    out
}

/// The certificate, its key in the form that Java reads, and the authority on that way.
fn jdbc(guarded: &Guarded, way: Way) -> String {
    if way == Way::Direct {
        let (port, password) = (guarded.server.port(), guarded.server.superuser_password());
        let ca = guarded.server.ca_file();
        let user = guarded.server.superuser();
        return format!(
            "jdbc:postgresql://localhost:{port}/postgres?user={user}&password={password}&sslmode=verify-full&sslrootcert={}",
            ca.display()
        );
    }
    let key = guarded.dir().join("agent.pk8");
    let mut openssl = Command::new("openssl");
    openssl.args(["pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in"]).arg(&guarded.agent.key);
    assert!(openssl.arg("-out").arg(&key).status().unwrap().success());
    format!(
        "jdbc:postgresql://localhost:{}/postgres?user=default&sslmode=verify-full&sslcert={}&sslkey={}&sslrootcert={}",
        guarded.port(),
        guarded.agent.cert.display(),
        key.display(),
        guarded.dir().join("tls/ca.crt").display()
    )
}

fn java(guarded: &Guarded, way: Way, tool: &str, folder: Option<&std::path::Path>) -> Command {
    let mut command = Command::new("java");
    command.args(["-XX:TieredStopAtLevel=1", "-cp"]).arg(format!("{}/*", jars().unwrap().display()));
    command.arg(drivers().join("java/Tools.java")).arg(tool).arg(jdbc(guarded, way)).args(folder);
    command
}

fn node(guarded: &Guarded, way: Way, what: &str) -> Command {
    let mut command = Command::new("node");
    command.arg(drivers().join("node/tools.js")).arg(node_modules().unwrap()).args([what, "localhost"]);
    match way {
        Way::Direct => {
            command.arg(guarded.server.port().to_string()).arg(guarded.server.superuser());
            command.arg(guarded.server.superuser_password()).arg(guarded.server.ca_file());
        }
        Way::Proxied => {
            command.arg(guarded.port().to_string()).args(["default", ""]).arg(guarded.dir().join("tls/ca.crt"));
            command.arg(&guarded.agent.cert).arg(&guarded.agent.key);
        }
    }
    command
}

fn script(guarded: &Guarded, way: Way, name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(python().unwrap());
    command.arg(drivers().join("python").join(name)).args(arguments).arg(guarded.conninfo(way));
    command
}

/// What a tool finds is the same on both ways, and the proxy refuses none of its questions.
fn finds_the_same(guarded: &Guarded, least: usize, command: impl Fn(Way) -> Command) {
    let direct = succeeds(guarded, Way::Direct, command(Way::Direct));
    let proxied = succeeds(guarded, Way::Proxied, command(Way::Proxied));
    assert!(direct.lines().count() >= least, "it did its work: {direct}");
    let differs: Vec<_> = proxied.lines().zip(direct.lines()).filter(|(proxied, direct)| proxied != direct).collect();
    assert!(differs.is_empty() && proxied.lines().count() == direct.lines().count(), "{differs:#?}");
    assert_eq!(refused(guarded), Vec::<String>::new());
}

#[tokio::test]
async fn tools_that_look_find_the_same_under_a_policy_that_only_reads() {
    let guarded = Guarded::start(read_only()).await.unwrap();
    guarded.server.exec_sql("create type mood as enum ('sad', 'happy'); alter table orders add mood mood, add check (amount >= 0); create index on orders (lower(note)) where amount > 1; create procedure nothing(inout a int) language sql as 'select 1'").await.unwrap();
    finds_the_same(&guarded, 100, |way| java(&guarded, way, "metadata", None));
    finds_the_same(&guarded, 15, |way| node(&guarded, way, "reflect"));
    finds_the_same(&guarded, 30, |way| script(&guarded, way, "django_tools.py", &["reflect"]));
}

#[tokio::test]
async fn pg_dump_writes_the_same_as_direct() {
    let mut policies = read_only();
    policies[0].rules.push(policy::tables(policy::rule("copy", Effect::Allow, &["CopyTo"]), &["public.*"]));
    // What only a dump asks for: options of foreign servers, connection strings of subscriptions, large objects.
    let more = ["pg_foreign_data_wrapper", "pg_foreign_server", "pg_foreign_table", "pg_largeobject_metadata"];
    let more = more.iter().chain(&["pg_subscription", "pg_subscription_rel"]).map(|name| format!("pg_catalog.{name}"));
    let more: Vec<_> = more.collect();
    let more: Vec<_> = more.iter().map(String::as_str).collect();
    policies[0].rules.push(policy::tables(policy::rule("dump", Effect::Allow, &["Select"]), &more));
    let guarded = Guarded::start(policies).await.unwrap();
    guarded
        .server
        .exec_sql("create index on orders (lower(note)) where amount > 1; comment on table orders is 'x'")
        .await
        .unwrap();
    finds_the_same(&guarded, 200, |way| {
        let mut command = Command::new(guarded.server.program("pg_dump"));
        // A key of its own in each dump otherwise.
        command.args(["--no-sync", "--restrict-key=x", "-d"]).arg(guarded.conninfo(way));
        command
    });
}

#[tokio::test]
async fn migration_tools_do_their_work_under_a_policy_for_them() {
    let guarded = Guarded::start(migrations()).await.unwrap();
    let folder = tempfile::TempDir::with_prefix("sallyport-tools-").unwrap();
    let at = |name: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let work = |command: Command| succeeds(&guarded, Way::Proxied, command);
    let mut alembic = script(&guarded, Way::Proxied, "alembic_tools.py", &[]);
    alembic.arg(at("alembic"));
    assert!(work(alembic).contains("(head)"));
    assert!(work(script(&guarded, Way::Proxied, "django_tools.py", &["migrate"])).contains("Applying auth.0012"));
    assert!(work(node(&guarded, Way::Proxied, "migrate")).contains("rolled back false"));
    let liquibase = at("liquibase");
    let changes = "--liquibase formatted sql\n--changeset me:1\ncreate table based (id int primary key);\n--changeset me:2\nalter table based add name text;\n";
    std::fs::write(liquibase.join("changelog.sql"), changes).unwrap();
    assert!(work(java(&guarded, Way::Proxied, "liquibase", Some(&liquibase))).contains("unrun 0"));
    assert_eq!(refused(&guarded), Vec::<String>::new());
}

#[tokio::test]
async fn sqlx_migrates_forth_and_back_under_the_same_policy() {
    use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
    let guarded = Guarded::start(migrations()).await.unwrap();
    let folder = tempfile::TempDir::with_prefix("sallyport-tools-").unwrap();
    for (name, text) in [
        ("1_one.up.sql", "create table carried (id bigserial primary key, name text); create index on carried (name);"),
        ("1_one.down.sql", "drop table carried;"),
        ("2_two.up.sql", "insert into carried (name) values ('a'), ('b'); alter table carried add at timestamptz;"),
        ("2_two.down.sql", "alter table carried drop column at;"),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let options = PgConnectOptions::new()
        .host("localhost")
        .port(guarded.port())
        .username("default")
        .database("postgres")
        .ssl_mode(PgSslMode::VerifyFull)
        .ssl_root_cert(guarded.dir().join("tls/ca.crt"))
        .ssl_client_cert(&guarded.agent.cert)
        .ssl_client_key(&guarded.agent.key);
    let pool = PgPoolOptions::new().max_connections(2).connect_with(options).await.unwrap();
    let migrator = sqlx::migrate::Migrator::new(folder.path()).await.unwrap();
    migrator.run(&pool).await.unwrap();
    let names: Vec<(i64, String)> = sqlx::query_as("select id, name from carried where id > $1 order by id")
        .bind(0_i64)
        .fetch_all(&pool)
        .await
        .unwrap();
    assert_eq!(names, [(1, "a".to_owned()), (2, "b".to_owned())]);
    migrator.undo(&pool, 1).await.unwrap();
    sqlx::query("select at from carried").fetch_all(&pool).await.unwrap_err();
    migrator.run(&pool).await.unwrap();
    pool.close().await;
    assert_eq!(refused(&guarded), Vec::<String>::new());
}

#[tokio::test]
async fn flyway_does_its_work_under_rules_that_name_tables() {
    // It sets its search path by a parameter, to the target's own: names go on to mean what they meant.
    let mut policies = migrations();
    policies[0].rules.retain(|rule| rule.name != "cascades");
    policies[0].rules.push(policy::rule("resets-its-role", Effect::Allow, &["SetRole"]));
    let guarded = Guarded::start(policies).await.unwrap();
    let folder = tempfile::TempDir::with_prefix("sallyport-tools-").unwrap();
    let flyway = folder.path();
    std::fs::write(flyway.join("V1__one.sql"), "create table flown (id serial primary key, name text);").unwrap();
    let second = "alter table flown add at timestamptz default now(); create index on flown (name); insert into flown (name) values ('a'); comment on table flown is 'x';";
    std::fs::write(flyway.join("V2__two.sql"), second).unwrap();
    assert!(succeeds(&guarded, Way::Proxied, java(&guarded, Way::Proxied, "flyway", Some(flyway))).contains("at 2"));
    assert_eq!(refused(&guarded), Vec::<String>::new());
}
