//! A real PostgreSQL behind a real proxy process, with real clients on both ways in.
//! It starts both through the harness, in standalone mode, and touches only its own temporary directory.
//! Every client runs the same work direct and through the proxy, so that the server itself is the judge.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sallyport_harness::{LeafFiles, Pki, Port, Postgres, PostgresOptions, free_port};
use sallyport_policy::{Bundle, Member, Recording, Roster};
use tempfile::TempDir;

pub mod clients;
pub mod policy;
pub mod regress;

const TRUST_DOMAIN: &str = "cluster.local";
const READY: Duration = Duration::from_secs(20);

/// A PostgreSQL with sample data, a proxy in front of it, and an agent that may use it.
#[derive(Debug)]
pub struct Guarded {
    /// The real server.
    pub server: Postgres,
    /// The authority of agents and of the proxy's own certificate.
    pub pki: Pki,
    /// The agent `ci/bot`.
    pub agent: LeafFiles,
    dir: TempDir,
    port: Port,
    admin: Port,
    proxy: Option<std::process::Child>,
}

/// A way in for a client: straight to the server, or through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the server, as its superuser with its password.
    Direct,
    /// Through the proxy, with the agent's certificate.
    Proxied,
}

impl Guarded {
    /// Starts all of it under `bundle`, whose upstream is filled in here.
    pub async fn start(policies: Vec<sallyport_policy::PolicyEntry>) -> Result<Self> {
        let server = Postgres::start(PostgresOptions::default()).await?;
        server.exec_sql(SAMPLE).await?;
        let pki = Pki::new(TRUST_DOMAIN)?;
        let dir = TempDir::with_prefix("sallyport-conformance-")?;
        let at = |name: &str| dir.path().join(name);
        for folder in ["tls", "credentials/default", "records"] {
            std::fs::create_dir_all(at(folder))?;
        }
        let own = pki.server(&["localhost", "127.0.0.1"])?;
        std::fs::write(at("tls/tls.crt"), &own.cert_pem)?;
        std::fs::write(at("tls/tls.key"), own.write(dir.path(), "own").map(|files| std::fs::read(files.key))??)?;
        std::fs::write(at("tls/ca.crt"), pki.ca_pem())?;
        std::fs::write(at("credentials/default/username"), server.superuser())?;
        std::fs::write(at("credentials/default/password"), server.superuser_password())?;
        let agent = pki.agent("ci", "bot")?.write(dir.path(), "agent")?;
        let mut guarded = Self { server, pki, agent, dir, port: free_port()?, admin: free_port()?, proxy: None };
        guarded.set_policies(policies)?;
        guarded.set_member(Member { namespace: "ci".into(), name: "bot".into(), ..Member::default() })?;
        guarded.start_proxy().await?;
        Ok(guarded)
    }

    /// Starts the proxy, again where it was stopped, and waits until it is ready.
    pub async fn start_proxy(&mut self) -> Result<()> {
        self.start_proxy_with(&[]).await
    }

    /// The same with further arguments.
    pub async fn start_proxy_with(&mut self, arguments: &[&str]) -> Result<()> {
        let log = std::fs::File::options().create(true).append(true).open(self.log_file())?;
        let at = |name: &str| self.dir.path().join(name);
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(proxy_binary()?)
            .arg("serve")
            .arg("--bundle")
            .arg(at("bundle.json"))
            .arg("--roster")
            .arg(at("roster.json"))
            .arg("--tls-dir")
            .arg(at("tls"))
            .arg("--credentials-dir")
            .arg(at("credentials"))
            .arg("--upstream-ca")
            .arg(self.server.ca_file())
            .arg("--records-dir")
            .arg(at("records"))
            .arg("--listen")
            .arg(format!("127.0.0.1:{}", self.port.number()))
            .arg("--admin")
            .arg(format!("127.0.0.1:{}", self.admin.number()))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("the proxy does not start")?;
        self.proxy = Some(child);
        let until = Instant::now() + READY;
        loop {
            if let Ok(answer) = self.admin("/readyz").await
                && answer.starts_with("HTTP/1.1 200")
            {
                return Ok(());
            }
            let ended = self.proxy.as_mut().map(std::process::Child::try_wait).transpose()?.flatten();
            let waiting = Instant::now() < until && ended.is_none();
            ensure!(waiting, "the proxy is not ready ({ended:?}); its log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the proxy at once, as a crash would.
    pub fn kill_proxy(&mut self) -> Result<()> {
        if let Some(mut child) = self.proxy.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Sends SIGTERM and waits for the end.
    pub fn terminate_proxy(&mut self) -> Result<std::process::ExitStatus> {
        let mut child = self.proxy.take().context("no proxy runs")?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        Ok(child.wait()?)
    }

    /// The proxy's process number.
    pub fn proxy_pid(&self) -> Option<u32> {
        self.proxy.as_ref().map(std::process::Child::id)
    }

    /// Puts other policies in force; the proxy sees the file change.
    pub fn set_policies(&self, policies: Vec<sallyport_policy::PolicyEntry>) -> Result<Bundle> {
        let bundle = policy::bundle(self.server.host(), self.server.port(), policies);
        self.replace("bundle.json", &bundle.to_json())?;
        Ok(bundle)
    }

    /// The same with other demands on records; returns once they are in force.
    pub async fn record(&self, recording: Recording, policies: Vec<sallyport_policy::PolicyEntry>) -> Result<()> {
        let bundle = policy::bundle(self.server.host(), self.server.port(), policies);
        let bundle = Bundle { recording, ..bundle }.sealed();
        self.replace("bundle.json", &bundle.to_json())?;
        self.await_revision(&bundle).await
    }

    /// Writes any text where the bundle is expected.
    pub fn set_raw_bundle(&self, text: &str) -> Result<()> {
        self.replace("bundle.json", text)
    }

    /// The roster becomes this one member.
    pub fn set_member(&self, member: Member) -> Result<()> {
        let mut roster = Roster::default();
        roster.insert(member);
        self.set_roster(&roster)
    }

    /// Puts another roster in force.
    pub fn set_roster(&self, roster: &Roster) -> Result<()> {
        self.replace("roster.json", &serde_json::to_string(roster)?)
    }

    fn replace(&self, name: &str, text: &str) -> Result<()> {
        let (draft, at) = (self.dir.path().join(format!(".{name}")), self.dir.path().join(name));
        std::fs::write(&draft, text)?;
        Ok(std::fs::rename(draft, at)?)
    }

    /// Waits until the proxy's metrics show that it runs this bundle.
    pub async fn await_revision(&self, bundle: &Bundle) -> Result<()> {
        let until = Instant::now() + READY;
        while !self.admin("/metrics").await?.contains(&bundle.revision) {
            ensure!(Instant::now() < until, "revision {} never came; log:\n{}", bundle.revision, self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// One GET of the admin port, answer and all.
    pub async fn admin(&self, path: &str) -> Result<String> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.admin.number())).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    /// The proxy's port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Where its files are.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("proxy.log")
    }

    /// What the proxy has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Every record so far, oldest first.
    pub fn records(&self) -> Result<Vec<serde_json::Value>> {
        let mut files: Vec<_> = std::fs::read_dir(self.dir.path().join("records"))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.sort();
        let mut records = Vec::new();
        for file in files {
            for line in std::fs::read_to_string(&file)?.lines() {
                records.push(serde_json::from_str(line).with_context(|| format!("not a record: {line}"))?);
            }
        }
        Ok(records)
    }

    /// A libpq connection string for that way in.
    pub fn conninfo(&self, way: Way) -> String {
        match way {
            Way::Direct => self.server.superuser_url(),
            Way::Proxied => self.conninfo_as(&self.agent),
        }
    }

    /// The same through the proxy, with another certificate.
    pub fn conninfo_as(&self, files: &LeafFiles) -> String {
        format!(
            "host=localhost port={} dbname=postgres user=default sslmode=verify-full sslcert={} sslkey={} sslrootcert={}",
            self.port.number(),
            files.cert.display(),
            files.key.display(),
            self.dir.path().join("tls/ca.crt").display()
        )
    }

    /// Runs stock psql with a script on standard input.
    pub fn psql(&self, way: Way, script: &str) -> Result<Output> {
        self.psql_with(&self.conninfo(way), script)
    }

    /// The same with a connection string of the caller's.
    pub fn psql_with(&self, conninfo: &str, script: &str) -> Result<Output> {
        let mut command = Command::new(self.server.program("psql"));
        command.args(["-X", "-v", "VERBOSITY=verbose", "-f", "-", conninfo]);
        clients::run(command, script)
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let _gone = self.kill_proxy();
    }
}

/// The proxy's binary: `$SALLYPORT_PROXY_BIN`, or the one built beside this test.
pub fn proxy_binary() -> Result<PathBuf> {
    binary("sallyport-proxy", "SALLYPORT_PROXY_BIN")
}

/// The operator's binary: `$SALLYPORT_OPERATOR_BIN`, or the one built beside this test.
pub fn operator_binary() -> Result<PathBuf> {
    binary("sallyport-operator", "SALLYPORT_OPERATOR_BIN")
}

/// The command line's binary: `$SALLYPORT_CLI_BIN`, or the one built beside this test.
pub fn cli_binary() -> Result<PathBuf> {
    binary("sallyport", "SALLYPORT_CLI_BIN")
}

fn binary(name: &str, variable: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    for folder in own.ancestors().skip(1).take(3) {
        let candidate = folder.join(name);
        if candidate.is_file() {
            return Ok(candidate);
        }
    }
    bail!("{name} is not built: run `cargo build -p {name}`, or set {variable}")
}

const SAMPLE: &str = "
create table customers (id serial primary key, name text not null, email text unique);
create table orders (id serial primary key, customer int references customers, amount numeric(10,2), note text);
insert into customers (name, email) select 'customer ' || n, 'c' || n || '@example.org' from generate_series(1, 20) n;
insert into orders (customer, amount, note) select 1 + n % 20, n * 1.5, 'order ' || n from generate_series(1, 100) n;
create table secrets (id int, value text);
insert into secrets values (1, 'do not show');
create view order_totals as select customer, sum(amount) total from orders group by customer;
create function touch() returns int language sql as 'delete from secrets; select 1';
";
