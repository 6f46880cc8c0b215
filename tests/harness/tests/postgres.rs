//! The PostgreSQL server that conformance tests talk to: TLS, passwords, and what happens when it dies.
//! It starts the distribution's server on loopback and judges it with the distribution's own client.
//! Each test says one thing that other tests rely on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Output};

use sallyport_harness::{Postgres, PostgresOptions};

fn psql(server: &Postgres, url: &str, sql: &str) -> Output {
    Command::new(server.program("psql")).args(["-XAt", "-c", sql, url]).output().unwrap()
}

#[tokio::test]
async fn the_superuser_url_works_with_the_certificate_checked_and_the_password_needed() {
    let server = Postgres::start(PostgresOptions::default()).await.unwrap();
    let answer =
        psql(&server, &server.superuser_url(), "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    assert_eq!(
        String::from_utf8_lossy(&answer.stdout).trim(),
        "t|TLSv1.3",
        "{}",
        String::from_utf8_lossy(&answer.stderr)
    );

    let wrong = server.superuser_url().replace(server.superuser_password(), "wrong");
    let refused = psql(&server, &wrong, "SELECT 1");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("password authentication failed"));

    let stored = server.exec_sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'postgres'").await.unwrap();
    assert!(stored[0][0].as_deref().unwrap().starts_with("SCRAM-SHA-256$"));
}

#[tokio::test]
async fn the_server_runs_as_somebody_who_is_not_root() {
    let server = Postgres::start(PostgresOptions::default()).await.unwrap();
    let rows = server.exec_sql("SELECT pg_backend_pid()").await.unwrap();
    let data = server.exec_sql("SHOW data_directory").await.unwrap();
    assert!(rows[0][0].is_some());
    assert_ne!(std::fs::metadata(data[0][0].as_deref().unwrap()).unwrap().uid(), 0);
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_kill_and_settings_are_honoured() {
    let settings =
        vec!["fsync = on".to_owned(), "synchronous_commit = on".to_owned(), "full_page_writes = on".to_owned()];
    let mut server = Postgres::start(PostgresOptions { settings, ..PostgresOptions::default() }).await.unwrap();
    server.exec_sql("CREATE DATABASE shop").await.unwrap();
    server.exec_sql_in("shop", "CREATE TABLE t (n int); INSERT INTO t VALUES (7)").await.unwrap();
    let port = server.port();
    server.kill().await.unwrap();
    assert!(server.exec_sql("SELECT 1").await.is_err());
    server.resume().await.unwrap();
    assert_eq!(server.port(), port);
    assert_eq!(server.exec_sql_in("shop", "SELECT n FROM t").await.unwrap(), [[Some("7".to_owned())]]);
    server.stop().await.unwrap();
    server.resume().await.unwrap();
    assert_eq!(server.exec_sql("SHOW fsync").await.unwrap(), [[Some("on".to_owned())]]);
}

#[tokio::test]
async fn nothing_is_left_of_a_server_that_was_dropped() {
    let server = Postgres::start(PostgresOptions::default()).await.unwrap();
    let (dir, port) = (server.ca_file().parent().unwrap().to_owned(), server.port());
    drop(server);
    assert!(!dir.exists());
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}
