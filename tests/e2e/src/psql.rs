//! Stock psql, as an agent uses it: one statement, or a session that is kept open.
//! It runs psql on the cluster's network or in a pod, with the files of an identity's Secret.
//! Answers are text as psql prints it; a session that does not answer fails at a deadline.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sallyport_harness::Cluster;
use tempfile::TempDir;

use crate::stage::text;

const ANSWER: Duration = Duration::from_secs(30);
/// Unaligned, without a heading, without a start-up file.
pub(crate) const PLAIN: [&str; 4] = ["-X", "-q", "-A", "-t"];

/// The files of one identity's Secret as they were when it was read, and the door they are for.
#[derive(Debug)]
pub struct Agent {
    cluster: &'static Cluster,
    files: TempDir,
    door: String,
}

impl Agent {
    /// `door` is host, port and database, as libpq spells them.
    pub(crate) fn new(cluster: &'static Cluster, door: String, files: &[(&str, Vec<u8>)]) -> Result<Self> {
        use std::os::unix::fs::OpenOptionsExt;
        let dir = tempfile::tempdir()?;
        for (name, content) in files {
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create_new(true).mode(0o600).open(dir.path().join(name))?.write_all(content)?;
        }
        Ok(Self { cluster, files: dir, door })
    }

    /// Where `tls.crt`, `tls.key` and `ca.crt` are.
    pub fn files(&self) -> &Path {
        self.files.path()
    }

    fn command(&self) -> Result<Command> {
        // The environment of the developer's shell has no say.
        let mut command = self.cluster.command("env")?;
        command.args(["-u", "PGPASSWORD", "-u", "PGSERVICE", "PGCONNECT_TIMEOUT=15", "bash", "-c"]);
        command.args([r#"exec psql "$@" 2>&1"#, "psql"]).args(PLAIN);
        command.arg(format!("{} {}", self.door, certificate(&self.files.path().display().to_string())));
        Ok(command)
    }

    /// One connection, one statement: what psql printed, errors included.
    pub fn psql(&self, statement: &str) -> Result<String> {
        let output = self.command()?.args(["-c", statement]).stdin(Stdio::null()).output()?;
        Ok(text(&output).trim().to_owned())
    }

    /// A connection that stays open.
    pub fn session(&self) -> Result<Session> {
        Session::start(self.command()?)
    }

    /// Runs a statement again and again until told to stop: on one session, or each on a connection of its own.
    /// Answers that `is_right` does not like are kept.
    pub fn keep_asking(self: &Arc<Self>, statement: &str, anew: bool, is_right: fn(&str) -> bool) -> StatementLoop {
        let (agent, statement) = (Arc::clone(self), statement.to_owned());
        StatementLoop::start(move || {
            let mut session = if anew { None } else { Some(agent.session()?) };
            Ok(move || {
                let answer = match &mut session {
                    Some(session) => session.ask(&statement)?,
                    None => agent.psql(&statement)?,
                };
                Ok(if is_right(&answer) { None } else { Some(answer) })
            })
        })
    }
}

/// The words of libpq for a directory with a Secret's files.
pub fn certificate(dir: &str) -> String {
    format!("user=default sslmode=verify-full sslcert={dir}/tls.crt sslkey={dir}/tls.key sslrootcert={dir}/ca.crt")
}

/// A psql that is kept open. Dropping it ends it.
#[derive(Debug)]
pub struct Session {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
    asked: u32,
}

impl Session {
    /// Starts a psql whose errors are on its standard output.
    pub fn start(mut command: Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = child.stdin.take().context("psql has no input")?;
        let output = BufReader::new(child.stdout.take().context("psql has no output")?);
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Ok(Self { child, input, lines, asked: 0 })
    }

    /// What psql prints for a statement; if the session ends instead, its last words.
    pub fn ask(&mut self, statement: &str) -> Result<String> {
        self.asked += 1;
        let end = format!("-- answered {}", self.asked);
        // A psql that has ended takes no input; what it said last is still to be read.
        let _ = writeln!(self.input, "{statement};\n\\echo '{end}'").and_then(|()| self.input.flush());
        let mut answer = Vec::new();
        let deadline = Instant::now() + ANSWER;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line == end => break,
                Ok(line) => answer.push(line),
                Err(RecvTimeoutError::Disconnected) => {
                    answer.push(format!("(psql ended: {})", self.child.wait()?));
                    break;
                }
                Err(RecvTimeoutError::Timeout) => bail!("no answer to {statement:?} in {ANSWER:?}, only {answer:?}"),
            }
        }
        Ok(answer.join("\n"))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Load: statements one after another, in a thread of their own, until it is stopped.
#[derive(Debug)]
pub struct StatementLoop {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    wrong: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl StatementLoop {
    fn start<A>(begin: impl FnOnce() -> Result<A> + Send + 'static) -> Self
    where
        A: FnMut() -> Result<Option<String>>,
    {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let wrong = Arc::new(Mutex::new(Vec::new()));
        let (ends, counts, keeps) = (Arc::clone(&stop), Arc::clone(&asked), Arc::clone(&wrong));
        let keep = move |answer: String| keeps.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        let thread = std::thread::spawn(move || {
            let mut ask = match begin() {
                Ok(ask) => ask,
                Err(error) => return keep(format!("{error:#}")),
            };
            while !ends.load(Ordering::Relaxed) {
                match ask() {
                    Ok(None) => {}
                    Ok(Some(answer)) => keep(answer),
                    Err(error) => return keep(format!("{error:#}")),
                }
                counts.fetch_add(1, Ordering::Relaxed);
            }
        });
        let load = Self { stop, asked, wrong, thread: Some(thread) };
        // What a story does next is to happen under load, not before it.
        let deadline = Instant::now() + ANSWER;
        while load.asked() == 0 && load.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() > deadline {
                load.wrong.lock().unwrap_or_else(PoisonError::into_inner).push("no first answer".to_owned());
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        load
    }

    /// How many statements were answered so far.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// The answers that were not right so far.
    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until as many more were answered: what happens now is under load.
    pub fn more(&self, statements: usize) {
        let (wanted, deadline) = (self.asked() + statements, Instant::now() + ANSWER);
        while self.asked() < wanted && self.wrong().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Ends it: how many statements were answered, and the answers that were not right.
    pub fn stop(mut self) -> (usize, Vec<String>) {
        self.end();
        (self.asked(), self.wrong())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for StatementLoop {
    fn drop(&mut self) {
        self.end();
    }
}
