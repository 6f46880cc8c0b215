//! Drivers of other languages and pgbench: the same work direct and through the proxy, the same results.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::process::Command;

use sallyport_conformance::clients::{drivers, go_suite, python, run, texts};
use sallyport_conformance::{Guarded, Way, policy};

#[tokio::test]
async fn psycopg_and_asyncpg_see_the_same() {
    let guarded = Guarded::start(policy::allow_all()).await.unwrap();
    let python = python().unwrap();
    let suite = |way: Way| {
        let at = |name: &str| guarded.dir().join(name);
        let mut command = Command::new(&python);
        command.arg(drivers().join("python/suite.py")).arg(guarded.conninfo(way));
        match way {
            Way::Direct => {
                let (user, password) = (guarded.server.superuser(), guarded.server.superuser_password());
                command.arg(format!("postgresql://{user}:{password}@localhost:{}/postgres", guarded.server.port()));
                command.arg(guarded.server.ca_file()).args(["", ""]);
            }
            Way::Proxied => {
                command.arg(format!("postgresql://default@localhost:{}/postgres", guarded.port()));
                command.arg(at("tls/ca.crt")).arg(&guarded.agent.cert).arg(&guarded.agent.key);
            }
        }
        let output = run(command, "").unwrap();
        let (out, errors) = texts(&output);
        assert!(output.status.success(), "{way:?}: {out}{errors}");
        out
    };
    let direct = suite(Way::Direct);
    assert!(direct.lines().count() > 25, "the suite did its work: {direct}");
    assert_eq!(direct, suite(Way::Proxied));
}

#[tokio::test]
async fn pgx_sees_the_same_in_every_mode() {
    let guarded = Guarded::start(policy::allow_all()).await.unwrap();
    let program = go_suite().unwrap();
    let suite = |way: Way| {
        let mut command = Command::new(&program);
        command.arg(guarded.conninfo(way));
        let output = run(command, "").unwrap();
        let (out, errors) = texts(&output);
        assert!(output.status.success(), "{way:?}: {out}{errors}");
        out
    };
    let direct = suite(Way::Direct);
    assert!(direct.lines().count() >= 50, "the suite did its work: {direct}");
    assert_eq!(direct, suite(Way::Proxied));
}

#[tokio::test]
async fn direct_tls_without_the_question_works_with_a_libpq_that_speaks_it() {
    let guarded = Guarded::start(policy::allow_all()).await.unwrap();
    let mut command = Command::new(python().unwrap());
    let conninfo = format!("{} sslnegotiation=direct", guarded.conninfo(Way::Proxied));
    command
        .args(["-c", "import psycopg,sys; print(psycopg.connect(sys.argv[1]).execute('select 41+1').fetchone()[0])"]);
    command.arg(conninfo);
    let (out, errors) = texts(&run(command, "").unwrap());
    assert_eq!(out.trim(), "42", "{errors}");
}

#[tokio::test]
async fn pgbench_runs_in_every_mode_without_an_error() {
    let guarded = Guarded::start(policy::allow_all()).await.unwrap();
    let pgbench = |args: &[&str]| {
        let mut command = Command::new(guarded.server.program("pgbench"));
        command.args(args).arg(guarded.conninfo(Way::Proxied));
        let output = run(command, "").unwrap();
        let (out, errors) = texts(&output);
        assert!(output.status.success(), "{args:?}: {out}{errors}");
        out
    };
    pgbench(&["-i", "-s", "1"]);
    for mode in ["simple", "extended", "prepared"] {
        let out = pgbench(&["-M", mode, "-c", "4", "-j", "2", "-t", "50"]);
        assert!(out.contains("200/200"), "{mode}: {out}");
        assert!(out.contains("failed transactions: 0"), "{mode}: {out}");
    }
    let script = guarded.dir().join("pipeline.sql");
    let body = "\\startpipeline\nselect 1;\nselect 2;\nupdate pgbench_branches set bbalance = 1 where bid = 1;\n\\endpipeline\n";
    std::fs::write(&script, body).unwrap();
    let out = pgbench(&["-n", "-M", "prepared", "-c", "2", "-t", "50", "-f", script.to_str().unwrap()]);
    assert!(out.contains("100/100"), "{out}");
}

#[tokio::test]
async fn cancel_interrupts_the_running_command_and_only_that() {
    let guarded = Guarded::start(policy::allow_all()).await.unwrap();
    // libpq 15 sends its cancel request in the clear, libpq 18 inside TLS: psql here and psycopg's libpq.
    let script = "
import psycopg, sys, threading
conn = psycopg.connect(sys.argv[1], autocommit=True)
other = psycopg.connect(sys.argv[1], autocommit=True)
for cancel in (conn.cancel, conn.cancel_safe):
    timer = threading.Timer(0.3, cancel)
    timer.start()
    try:
        conn.execute('select pg_sleep(30)')
        print('not cancelled')
    except psycopg.errors.QueryCanceled as exc:
        print('cancelled', exc.sqlstate)
    timer.join()
    print(conn.execute('select 1').fetchone(), other.execute('select 2').fetchone())
";
    let mut command = Command::new(python().unwrap());
    command.args(["-c", script]).arg(guarded.conninfo(Way::Proxied));
    let (out, errors) = texts(&run(command, "").unwrap());
    assert_eq!(
        out.lines().collect::<Vec<_>>(),
        ["cancelled 57014", "(1,) (2,)", "cancelled 57014", "(1,) (2,)"],
        "{errors}"
    );
}
