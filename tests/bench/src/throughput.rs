//! pgbench direct, through pgbouncer with client certificates, and through the proxy, in one run.
//! It starts all three on loopback and reads processor time from /proc. It prints ratios to direct.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sallyport_conformance::clients::{run, texts};
use sallyport_conformance::{Guarded, Way, policy};
use sallyport_harness::{LeafOptions, Port, free_port};
use sallyport_policy::{Effect, PolicyEntry};

/// Rounds of each way, in turn, so that all meet the same noise.
pub(crate) const ROUNDS: usize = 3;

/// What one pgbench run came to.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    /// Transactions a second.
    pub(crate) tps: f64,
    /// Processor microseconds a transaction, server and middle together.
    pub(crate) cpu: f64,
    /// Processor microseconds a transaction, the middle alone.
    pub(crate) middle: f64,
}

/// Runs the whole table.
pub(crate) async fn table(seconds: u32) -> Result<()> {
    let (guarded, bouncer, pgbench) = begin().await?;
    println!(
        "pgbench, 100 rules loaded, records on, medians of {ROUNDS} rounds of {seconds} s in turn; ratios to direct TLS"
    );
    println!(
        "| script | mode | clients | pgbouncer tps | sallyport tps | pgbouncer cpu/tx | sallyport cpu/tx | middle cpu: sallyport/pgbouncer |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (script, flag) in [("select-only", "-S"), ("tpcb-like", "-N")] {
        for mode in ["simple", "extended", "prepared"] {
            for clients in [1, 8] {
                let ways = [
                    (guarded.conninfo(Way::Direct), None),
                    (bouncer.conninfo.clone(), Some(bouncer.id())),
                    (guarded.conninfo(Way::Proxied), guarded.proxy_pid()),
                ];
                let mut samples = [const { Vec::new() }; 3];
                for _ in 0..ROUNDS {
                    for ((conninfo, middle), samples) in ways.iter().zip(&mut samples) {
                        samples.push(measure(&pgbench, conninfo, *middle, mode, flag, clients, seconds)?);
                    }
                }
                let [direct, bounced, proxied] = samples.map(|samples| median(&samples));
                println!(
                    "| {script} | {mode} | {clients} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} |",
                    bounced.tps / direct.tps,
                    proxied.tps / direct.tps,
                    bounced.cpu / direct.cpu,
                    proxied.cpu / direct.cpu,
                    proxied.middle / bounced.middle,
                );
            }
        }
    }
    println!();
    println!(
        "resident memory after it: proxy {} KiB, pgbouncer {} KiB",
        rss(guarded.proxy_pid().unwrap_or(0))?,
        rss(bouncer.id())?
    );
    Ok(())
}

/// A server with pgbench's tables, behind both.
pub(crate) async fn begin() -> Result<(Guarded, Bouncer, PathBuf)> {
    let guarded = Guarded::start(hundred_rules()).await?;
    let bouncer = Bouncer::start(&guarded).await?;
    let pgbench = guarded.server.program("pgbench");
    let mut init = Command::new(&pgbench);
    init.args(["-i", "-q", "-s", "5"]).arg(guarded.conninfo(Way::Direct));
    ensure!(run(init, "")?.status.success(), "pgbench -i failed");
    Ok((guarded, bouncer, pgbench))
}

pub(crate) fn measure(
    pgbench: &Path,
    conninfo: &str,
    middle: Option<u32>,
    mode: &str,
    flag: &str,
    clients: u32,
    seconds: u32,
) -> Result<Sample> {
    let mut command = Command::new(pgbench);
    command.args(["-n", "-M", mode, flag, "-T", &seconds.to_string(), "-c", &clients.to_string(), "-j", "1"]);
    command.arg(conninfo);
    let (server_before, middle_before) = (servers()?, middle.map_or(Ok(0), ticks)?);
    let output = run(command, "")?;
    let (server_after, middle_after) = (servers()?, middle.map_or(Ok(0), ticks)?);
    let (out, errors) = texts(&output);
    ensure!(output.status.success(), "pgbench failed: {errors}");
    let number = |label: &str| -> Result<f64> {
        let line = out.lines().find(|line| line.starts_with(label)).with_context(|| format!("no {label}: {out}"))?;
        let digits: String =
            line.trim_start_matches(label).trim().chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        Ok(digits.parse()?)
    };
    let transactions = number("number of transactions actually processed:")?;
    // A tick is a hundredth of a second on every Linux that has /proc/<pid>/stat in ticks.
    let micros = |ticks: u64| ticks as f64 * 10_000.0 / transactions;
    let middle = micros(middle_after.saturating_sub(middle_before));
    Ok(Sample { tps: number("tps =")?, cpu: micros(server_after.saturating_sub(server_before)) + middle, middle })
}

/// Processor time of every postgres process, the ended ones through their parent.
fn servers() -> Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.trim() == "postgres"
            && let Some(pid) = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok())
        {
            sum += ticks_with_children(pid).unwrap_or(0);
        }
    }
    Ok(sum)
}

pub(crate) fn ticks(pid: u32) -> Result<u64> {
    stat(pid, &[13, 14])
}

fn ticks_with_children(pid: u32) -> Result<u64> {
    stat(pid, &[13, 14, 15, 16])
}

fn stat(pid: u32, fields: &[usize]) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold blanks: count from behind it.
    let (_, rest) = text.rsplit_once(") ").context("strange /proc stat")?;
    let parts: Vec<&str> = rest.split_whitespace().collect();
    fields.iter().map(|at| Ok(parts.get(at - 2).context("short /proc stat")?.parse::<u64>()?)).sum()
}

/// Resident memory in KiB.
pub(crate) fn rss(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("no number")?.parse()?)
}

pub(crate) fn median(samples: &[Sample]) -> Sample {
    let middle = |of: fn(&Sample) -> f64| {
        let mut values: Vec<f64> = samples.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or_default()
    };
    Sample { tps: middle(|s| s.tps), cpu: middle(|s| s.cpu), middle: middle(|s| s.middle) }
}

/// 99 rules about other tables before the one that allows.
pub(crate) fn hundred_rules() -> Vec<PolicyEntry> {
    let mut rules: Vec<_> = (0..99)
        .map(|n| {
            let effect = if n % 3 == 0 { Effect::Deny } else { Effect::Allow };
            let table = format!("public.other_{n}");
            policy::tables(policy::rule(&format!("rule-{n}"), effect, &["Select", "Update", "Insert"]), &[&table])
        })
        .collect();
    rules.push(policy::rule("everything-else", Effect::Allow, &[]));
    vec![policy::policy("bench", rules)]
}

/// A pgbouncer that takes the agents' certificates.
pub(crate) struct Bouncer {
    child: Child,
    pub(crate) conninfo: String,
    _port: Port,
    _dir: tempfile::TempDir,
}

impl Bouncer {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) async fn start(guarded: &Guarded) -> Result<Self> {
        let dir = tempfile::TempDir::with_prefix("sallyport-bouncer-")?;
        let port = free_port()?;
        let at = |name: &str| dir.path().join(name);
        let user = guarded.server.superuser();
        let agent = guarded.pki.leaf(&LeafOptions { common_name: Some(user.to_owned()), ..LeafOptions::default() })?;
        let agent = agent.write(dir.path(), "agent")?;
        let own = guarded.pki.server(&["localhost", "127.0.0.1"])?.write(dir.path(), "own")?;
        std::fs::write(at("ca.crt"), guarded.pki.ca_pem())?;
        std::fs::copy(guarded.server.ca_file(), at("server-ca.crt"))?;
        std::fs::write(at("users"), format!("\"{user}\" \"{}\"\n", guarded.server.superuser_password()))?;
        let show = |path: &Path| path.display().to_string();
        let config = format!(
            "[databases]\npostgres = host={host} port={server_port} dbname=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {listen}\nauth_type = cert\nauth_file = {users}\npool_mode = session\nunix_socket_dir =\n\
             client_tls_sslmode = verify-full\nclient_tls_ca_file = {ca}\nclient_tls_cert_file = {cert}\n\
             client_tls_key_file = {key}\nserver_tls_sslmode = verify-full\nserver_tls_ca_file = {server_ca}\n\
             max_client_conn = 200\ndefault_pool_size = 100\n\
             ignore_startup_parameters = extra_float_digits\nlog_connections = 0\nlog_disconnections = 0\n",
            host = guarded.server.host(),
            server_port = guarded.server.port(),
            listen = port.number(),
            users = show(&at("users")),
            ca = show(&at("ca.crt")),
            cert = show(&own.cert),
            key = show(&own.key),
            server_ca = show(&at("server-ca.crt")),
        );
        std::fs::write(at("pgbouncer.ini"), config)?;
        // pgbouncer will not run as root.
        let chown = Command::new("chown").args(["-R", "postgres"]).arg(dir.path()).status()?;
        ensure!(chown.success(), "chown failed");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--reuid", "postgres", "--clear-groups", "--regid", "postgres", "pgbouncer"])
            .arg(at("pgbouncer.ini"))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(at("log"))?)
            .stderr(std::fs::File::create(at("errors"))?)
            .spawn()?;
        // libpq insists that the key is its user's own.
        let own_key = Command::new("chown").arg("root").arg(&agent.key).status()?;
        ensure!(own_key.success(), "chown failed");
        let until = Instant::now() + Duration::from_secs(10);
        while tokio::net::TcpStream::connect(("127.0.0.1", port.number())).await.is_err() {
            ensure!(Instant::now() < until, "pgbouncer: {}", std::fs::read_to_string(at("errors"))?);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let conninfo = format!(
            "host=localhost port={} dbname=postgres user={user} sslmode=verify-full sslcert={} sslkey={} sslrootcert={}",
            port.number(),
            agent.cert.display(),
            agent.key.display(),
            at("ca.crt").display()
        );
        Ok(Self { child, conninfo, _port: port, _dir: dir })
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _gone = self.child.kill().and_then(|()| self.child.wait());
    }
}
