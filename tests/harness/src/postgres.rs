//! A real PostgreSQL server for one test: the distribution's, or the one whose programs `$PGBIN` names.
//! It lives in a run directory of its own and listens on a free loopback port, or on the node of a cluster.
//! TLS is on with a test authority, every login is scram-sha-256, and the server never runs as root.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use nix::unistd::User;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use crate::cluster::Cluster;
use crate::cluster::world::children_of;
use crate::pki::{Pki, write_private};
use crate::ports::{Port, free_port};
use crate::process::{Process, run, wait_until};
use crate::run_dir::{Alive, RunDir};

const READY: Duration = Duration::from_secs(60);
/// How long one statement of a test may take.
const STATEMENT: Duration = Duration::from_secs(60);
const SUPERUSER: &str = "postgres";
/// Where Debian puts its versions.
const DISTRIBUTION: &str = "/usr/lib/postgresql";

/// Where the server listens.
#[derive(Debug, Clone, Copy, Default)]
pub enum Place {
    /// On a free port of the machine's loopback.
    #[default]
    Loopback,
    /// On the node of a cluster, where pods reach it by the node's address or by `Cluster::expose_host_service`.
    Node { init: u32, address: &'static str },
}

impl Place {
    pub fn node(cluster: &Cluster) -> Result<Self> {
        Ok(Self::Node { init: cluster.init()?, address: cluster.node_address() })
    }
}

/// How the server is set up. The default suits a test that only needs a server.
#[derive(Debug, Clone, Default)]
pub struct PostgresOptions {
    pub place: Place,
    /// Names that the server's certificate carries beside `localhost` and its address.
    pub names: Vec<String>,
    /// Lines for `postgresql.conf`, after ours: the last one of a name wins.
    pub settings: Vec<String>,
    /// The authority of the server's certificate; a fresh one if absent.
    pub pki: Option<std::sync::Arc<Pki>>,
}

/// A running server. Dropping it ends it and removes its data.
pub struct Postgres {
    process: Option<Process>,
    place: Place,
    port: Port,
    password: String,
    bin: PathBuf,
    ca_pem: String,
    account: Option<User>,
    run: RunDir,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").field("address", &self.address()).field("bin", &self.bin).finish_non_exhaustive()
    }
}

impl Postgres {
    pub async fn start(options: PostgresOptions) -> Result<Self> {
        let run = RunDir::create("postgres", None)?;
        let pki = match options.pki {
            Some(pki) => pki,
            None => std::sync::Arc::new(Pki::new("postgres")?),
        };
        let mut server = Self {
            process: None,
            place: options.place,
            port: free_port()?,
            password: random_password()?,
            bin: programs()?,
            ca_pem: pki.ca_pem(),
            account: unprivileged_account()?,
            run,
        };
        let mut names = vec!["localhost", "127.0.0.1", server.host()];
        names.extend(options.names.iter().map(String::as_str));
        names.dedup();
        pki.server(&names)?.write(server.run.path(), "server")?;
        fs::write(server.run.join("ca.crt"), pki.ca_pem())?;
        server.initialise(&options.settings).await?;
        server.resume().await?;
        Ok(server)
    }

    /// Host and port, as a client on the same network dials it.
    pub fn address(&self) -> (&str, u16) {
        (self.host(), self.port.number())
    }

    pub fn host(&self) -> &'static str {
        match self.place {
            Place::Loopback => "127.0.0.1",
            Place::Node { address, .. } => address,
        }
    }

    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// A connection string with every right, over TLS with the server's certificate checked.
    pub fn superuser_url(&self) -> String {
        let root = self.run.join("ca.crt");
        format!(
            "postgresql://{SUPERUSER}:{}@{}:{}/postgres?sslmode=verify-full&sslrootcert={}",
            self.password,
            self.host(),
            self.port(),
            root.display()
        )
    }

    pub fn superuser(&self) -> &'static str {
        SUPERUSER
    }

    pub fn superuser_password(&self) -> &str {
        &self.password
    }

    /// The authority of the server's certificate.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    pub fn ca_file(&self) -> PathBuf {
        self.run.join("ca.crt")
    }

    /// What the server logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.run.join("postgres.log")).unwrap_or_default()
    }

    /// A client program of the same version (`psql`, `pgbench`, `pg_dump`).
    pub fn program(&self, name: &str) -> PathBuf {
        let own = self.bin.join(name);
        if own.exists() { own } else { PathBuf::from(name) }
    }

    /// Runs SQL with every right in database `postgres`; the rows of all its statements, as text.
    pub async fn exec_sql(&self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.exec_sql_in("postgres", sql).await
    }

    /// The same in another database.
    pub async fn exec_sql_in(&self, database: &str, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        // Over the Unix socket, which is the same from every network namespace.
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.run.path()).port(self.port()).user(SUPERUSER).password(&self.password).dbname(database);
        config.connect_timeout(Duration::from_secs(5));
        let (client, connection) = config.connect(NoTls).await?;
        let connection = tokio::spawn(connection);
        let answered = tokio::time::timeout(STATEMENT, client.simple_query(sql)).await;
        drop(client);
        let rows = answered.with_context(|| format!("SQL took longer than {STATEMENT:?}"))??;
        connection.await??;
        let rows = rows.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Ends it the orderly way (fast shutdown); the data stays for `resume`.
    pub async fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.stop(Signal::SIGINT).await,
            None => Ok(()),
        }
    }

    /// Ends it and all its backends at once, as a power cut would.
    pub async fn kill(&mut self) -> Result<()> {
        let Some(process) = self.process.take() else {
            return Ok(());
        };
        let backends: Vec<Alive> =
            children_of(process.id()).into_iter().filter_map(|pid| Alive::of(pid.try_into().ok()?)).collect();
        process.stop(Signal::SIGKILL).await?;
        for backend in &backends {
            backend.signal(Signal::SIGKILL);
        }
        let gone = || std::future::ready(Ok(!backends.iter().any(|b| b.is_alive())));
        wait_until("the end of PostgreSQL's backends", Duration::from_secs(10), gone).await
    }

    /// Starts it (again) on the same port with the same data, and waits until it answers.
    pub async fn resume(&mut self) -> Result<()> {
        if self.process.is_some() {
            return Ok(());
        }
        let data = self.run.join("data");
        let mut command = self.unprivileged(&self.bin.join("postgres"), true);
        command.arg("-D").arg(&data);
        let mut process = Process::start(&self.run, "postgres", command)?;
        let server = &*self;
        wait_until("PostgreSQL", READY, || {
            let runs = process.still_runs();
            async move {
                runs?;
                Ok(server.exec_sql("SELECT 1").await.is_ok())
            }
        })
        .await?;
        self.process = Some(process);
        Ok(())
    }

    async fn initialise(&self, settings: &[String]) -> Result<()> {
        let (data, password) = (self.run.join("data"), self.run.join("password"));
        fs::create_dir(&data)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        write_private(&password, &self.password)?;
        for path in [&data, &password, &self.run.join("server.key"), &self.run.path().to_owned()] {
            self.give(path)?;
        }
        let mut initdb = self.unprivileged(&self.bin.join("initdb"), false);
        initdb.arg("-D").arg(&data).arg("--pwfile").arg(&password);
        initdb.args(["-U", SUPERUSER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]);
        run(initdb).await.context("initdb failed: is the version's locale C.UTF-8 there?")?;
        fs::remove_file(&password)?;
        let run = self.run.path().display();
        let mut lines = vec![
            format!("listen_addresses = '{}'", self.host()),
            format!("port = {}", self.port()),
            format!("unix_socket_directories = '{run}'"),
            format!("ssl = on\nssl_cert_file = '{run}/server.crt'\nssl_key_file = '{run}/server.key'"),
            "password_encryption = 'scram-sha-256'".to_owned(),
            // A test's data need not outlive the machine.
            "fsync = off\nsynchronous_commit = off\nfull_page_writes = off".to_owned(),
            "logging_collector = off\nlog_connections = on".to_owned(),
        ];
        lines.extend_from_slice(settings);
        append(&data.join("postgresql.conf"), &lines)?;
        fs::write(
            data.join("pg_hba.conf"),
            "local all all scram-sha-256\nhost all all all scram-sha-256\nhost replication all all scram-sha-256\n",
        )?;
        Ok(())
    }

    fn give(&self, path: &Path) -> Result<()> {
        if let Some(account) = &self.account {
            chown(path, Some(account.uid.as_raw()), Some(account.gid.as_raw()))?;
        }
        Ok(())
    }

    /// A program of the server as the user it may run as, bound to end with us.
    fn unprivileged(&self, program: &Path, on_network: bool) -> Command {
        let mut command = match self.place {
            Place::Node { init, .. } if on_network => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/proc/{init}/ns/net")).arg("setpriv");
                command
            }
            _ => Command::new("setpriv"),
        };
        if let Some(account) = &self.account {
            command
                .arg(format!("--reuid={}", account.uid))
                .arg(format!("--regid={}", account.gid))
                .arg("--clear-groups");
        }
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).current_dir(self.run.path());
        // A relocatable build brings its libraries beside its programs.
        if let Some(lib) =
            self.bin.parent().map(|p| p.join("lib")).filter(|lib| lib.is_dir() && std::env::var_os("PGBIN").is_some())
        {
            command.env("LD_LIBRARY_PATH", lib);
        }
        command
    }
}

fn append(path: &Path, lines: &[String]) -> Result<()> {
    let text = fs::read_to_string(path)?;
    Ok(fs::write(path, format!("{text}\n{}\n", lines.join("\n")))?)
}

/// `$PGBIN`, else the newest version that the distribution installed.
fn programs() -> Result<PathBuf> {
    if let Some(bin) = std::env::var_os("PGBIN") {
        let bin = PathBuf::from(bin);
        if !bin.join("postgres").exists() {
            bail!("PGBIN has no postgres: it must name the directory with postgres and initdb");
        }
        return Ok(bin);
    }
    let versions = fs::read_dir(DISTRIBUTION).into_iter().flatten().flatten().map(|e| e.path().join("bin"));
    let mut versions: Vec<PathBuf> = versions.filter(|bin| bin.join("postgres").exists()).collect();
    versions.sort_by_key(|bin| bin.parent().and_then(|v| v.file_name()?.to_str()?.parse::<u32>().ok()));
    versions.pop().context("no PostgreSQL: install postgresql (hack/setup.sh does) or set PGBIN")
}

/// Whom to run as when we are root: PostgreSQL refuses to be.
fn unprivileged_account() -> Result<Option<User>> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(None);
    }
    for name in ["postgres", "nobody"] {
        if let Some(user) = User::from_name(name)? {
            return Ok(Some(user));
        }
    }
    bail!("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

fn random_password() -> Result<String> {
    use std::io::Read as _;
    let mut bytes = [0_u8; 16];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
