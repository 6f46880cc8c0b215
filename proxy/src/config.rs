//! What the proxy was told: arguments and environment, resolved once.
//!
//! Owns the command line and its environment names. Touches arguments, environment and the existence of
//! the paths named, once at start. Invariant: every error is listed at once, and none is mended by a
//! weaker default.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use sallyport_policy::TargetRef;

/// Bytes for recordings without which nothing can be recorded.
const ROOM: u64 = 1024 * 1024;

/// A door in front of one target: every command is checked, and recorded before it runs.
#[derive(Debug, Parser)]
#[command(name = "sallyport-proxy", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Guard a target.
    Serve(Box<Arguments>),
    /// Print the recordings of this pod.
    Records(RecordsArguments),
    /// Write the recordings of this pod to standard output as they are, for `sallyport`.
    Copy(CopyArguments),
    /// Check that recordings are what was written: nothing edited, moved, taken out or cut off.
    Verify(VerifyArguments),
}

/// The arguments of `serve` as they were given.
#[derive(Debug, Clone, Default, Args)]
pub struct Arguments {
    /// Namespace of the ProtectedTarget; its bundle and identities are watched in the cluster.
    #[arg(long, env = "SALLYPORT_TARGET_NAMESPACE", value_name = "NAMESPACE")]
    pub target_namespace: Option<String>,
    /// Name of the ProtectedTarget.
    #[arg(long, env = "SALLYPORT_TARGET_NAME", value_name = "NAME")]
    pub target_name: Option<String>,
    /// Name of this pod, under which it answers in the target's status.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// How to reach the cluster; by default as the pod's service account.
    #[arg(long, env = "SALLYPORT_KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// Without a cluster: the bundle, as the operator writes it (JSON). Read again when it changes.
    #[arg(long, env = "SALLYPORT_BUNDLE", value_name = "FILE")]
    pub bundle: Option<String>,
    /// Without a cluster: the roster (YAML or JSON). Read again when it changes.
    #[arg(long, env = "SALLYPORT_ROSTER", value_name = "FILE")]
    pub roster: Option<String>,
    /// Where agents connect.
    #[arg(long, env = "SALLYPORT_LISTEN", value_name = "ADDRESS:PORT", default_value = "0.0.0.0:5432")]
    pub listen: Option<String>,
    /// Where health, readiness and metrics are served.
    #[arg(long, env = "SALLYPORT_ADMIN", value_name = "ADDRESS:PORT", default_value = "0.0.0.0:9090")]
    pub admin: Option<String>,
    /// Holds tls.crt and tls.key of this proxy and ca.crt, the trust anchors of agents.
    #[arg(long, env = "SALLYPORT_TLS_DIR", value_name = "DIRECTORY")]
    pub tls_dir: Option<String>,
    /// Holds a directory a credential, with the files username and password.
    #[arg(long, env = "SALLYPORT_CREDENTIALS_DIR", value_name = "DIRECTORY")]
    pub credentials_dir: Option<String>,
    /// Trust anchors for the target's certificate; by default those of the system.
    #[arg(long, env = "SALLYPORT_UPSTREAM_CA", value_name = "FILE")]
    pub upstream_ca: Option<String>,
    /// Where recordings are written.
    #[arg(long, env = "SALLYPORT_RECORDS_DIR", value_name = "DIRECTORY")]
    pub records_dir: Option<String>,
    /// Bytes that may lie there; more is refused. By default what the disk has.
    #[arg(long, env = "SALLYPORT_RECORDS_ROOM", value_name = "BYTES")]
    pub records_room: Option<String>,
    /// Where the credential of the store for recordings is: credential/username and credential/password. Which store that
    /// is, the bundle says.
    #[arg(long, env = "SALLYPORT_STORE_DIR", value_name = "DIRECTORY")]
    pub store_dir: Option<String>,
    /// Trust anchors for the store's certificate; by default those of the system.
    #[arg(long, env = "SALLYPORT_STORE_CA", value_name = "FILE")]
    pub store_ca: Option<String>,
    /// Where the last known good bundle and roster are kept for a restart.
    #[arg(long, env = "SALLYPORT_STATE_DIR", value_name = "DIRECTORY")]
    pub state_dir: Option<String>,
    /// What is logged, as a filter of tracing (`info`, `sallyport_core=debug`).
    #[arg(long, env = "SALLYPORT_LOG", value_name = "FILTER", default_value = "info")]
    pub log: Option<String>,
}

/// The arguments of `records`.
#[derive(Debug, Args)]
pub struct RecordsArguments {
    /// Where the recordings are. The default is where the operator mounts them in a replica.
    #[arg(long, env = "SALLYPORT_RECORDS_DIR", value_name = "DIRECTORY", default_value = "/var/lib/sallyport/records")]
    pub records_dir: PathBuf,
    /// Only this session, by its id or the beginning of it.
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Go on as more is recorded.
    #[arg(long)]
    pub follow: bool,
    /// The records as they are stored: a JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// The arguments of `copy`.
#[derive(Debug, Args)]
pub struct CopyArguments {
    /// Where the recordings are. The default is where the operator mounts them in a replica.
    #[arg(long, env = "SALLYPORT_RECORDS_DIR", value_name = "DIRECTORY", default_value = "/var/lib/sallyport/records")]
    pub records_dir: PathBuf,
}

/// The arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// Where the recordings are, or a copy of them.
    #[arg(long, env = "SALLYPORT_RECORDS_DIR", value_name = "DIRECTORY", default_value = "/var/lib/sallyport/records")]
    pub records_dir: PathBuf,
    /// The target as JSON (`kubectl get target NAME -o json`), whose status holds the anchors; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub anchor: Option<PathBuf>,
}

/// The arguments of `serve`, resolved. Holds no secret.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where bundle and roster come from.
    pub source: Source,
    /// Names this replica in the target's status and in the names of recordings.
    pub pod: String,
    /// Where agents connect.
    pub listen: SocketAddr,
    /// Where health and metrics are served.
    pub admin: SocketAddr,
    /// tls.crt, tls.key, ca.crt.
    pub tls_dir: PathBuf,
    /// A directory a credential.
    pub credentials_dir: PathBuf,
    /// Trust anchors for the target; `None`: the system's.
    pub upstream_ca: Option<PathBuf>,
    /// Where recordings go.
    pub records_dir: PathBuf,
    /// Bytes that may lie there.
    pub records_room: u64,
    /// The store's credential.
    pub store_dir: Option<PathBuf>,
    /// Trust anchors for the store; `None`: the system's.
    pub store_ca: Option<PathBuf>,
    /// A filter of tracing.
    pub log: String,
}

/// Where bundle and roster come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// Watched in the cluster.
    Cluster {
        /// Namespace of the target.
        namespace: String,
        /// Name of the target.
        target: String,
        /// How to reach the cluster; `None`: as the pod's service account.
        kubeconfig: Option<PathBuf>,
        /// Where the last known good is kept.
        state_dir: PathBuf,
    },
    /// Read from files.
    Files {
        /// The bundle.
        bundle: PathBuf,
        /// The roster.
        roster: PathBuf,
    },
}

impl Source {
    /// In a cluster: the target whose bundle is watched.
    pub(crate) fn target(&self) -> Option<TargetRef> {
        match self {
            Self::Cluster { namespace, target, .. } => {
                Some(TargetRef { namespace: namespace.clone(), name: target.clone() })
            }
            Self::Files { .. } => None,
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug)]
pub struct ConfigErrors(Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sallyport-proxy cannot start: {} error(s) in its configuration", self.0.len())?;
        self.0.iter().try_for_each(|error| write!(f, "\n  - {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// Resolves arguments.
    ///
    /// # Errors
    /// Everything that is wrong with them, at once.
    pub fn resolve(arguments: Arguments) -> Result<Self, ConfigErrors> {
        let mut errors = Errors::default();
        let source = source(&mut errors, &arguments);
        let listen = errors.address("--listen", arguments.listen);
        let admin = errors.address("--admin", arguments.admin);
        let tls_dir = errors.directory("--tls-dir", arguments.tls_dir);
        let credentials_dir = errors.directory("--credentials-dir", arguments.credentials_dir);
        let upstream_ca = arguments.upstream_ca.and_then(|path| errors.file("--upstream-ca", Some(path)));
        let records_dir = errors.directory("--records-dir", arguments.records_dir);
        let store_dir = arguments.store_dir.and_then(|path| errors.directory("--store-dir", Some(path)));
        let store_ca = arguments.store_ca.and_then(|path| errors.file("--store-ca", Some(path)));
        let records_room = errors.room("--records-room", arguments.records_room);
        let pod = pod(&mut errors, arguments.pod_name, &source);
        let log = arguments.log.unwrap_or_else(|| "info".to_owned());
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&log) {
            errors.add("--log", format!("\"{log}\" is no filter: {error}"));
        }
        let all = (|| {
            Some(Self {
                source: source?,
                pod: pod?,
                listen: listen?,
                admin: admin?,
                tls_dir: tls_dir?,
                credentials_dir: credentials_dir?,
                upstream_ca,
                records_dir: records_dir?,
                records_room: records_room?,
                store_dir,
                store_ca,
                log,
            })
        })();
        // Not `all` alone: an optional that is wrong has left an error and no hole.
        all.filter(|_| errors.0.is_empty()).ok_or(ConfigErrors(errors.0))
    }
}

fn source(errors: &mut Errors, arguments: &Arguments) -> Option<Source> {
    let in_cluster = [&arguments.target_namespace, &arguments.target_name];
    let in_files = [&arguments.bundle, &arguments.roster];
    match (in_cluster.iter().any(|flag| flag.is_some()), in_files.iter().any(|flag| flag.is_some())) {
        (true, true) => {
            errors.add("--target-name and --bundle", "are two sources of policy, give one: the cluster or files");
            None
        }
        (false, false) => {
            let both = "--target-namespace and --target-name, or --bundle and --roster";
            errors.add(both, "are missing: this proxy would have no policy");
            None
        }
        (true, false) => {
            let namespace = errors.text("--target-namespace", arguments.target_namespace.clone());
            let target = errors.text("--target-name", arguments.target_name.clone());
            let state_dir = errors.directory("--state-dir", arguments.state_dir.clone());
            let kubeconfig = match &arguments.kubeconfig {
                Some(path) => Some(errors.file("--kubeconfig", Some(path.clone()))?),
                None => None,
            };
            Some(Source::Cluster { namespace: namespace?, target: target?, kubeconfig, state_dir: state_dir? })
        }
        (false, true) => {
            for (flag, given) in [("--state-dir", &arguments.state_dir), ("--kubeconfig", &arguments.kubeconfig)] {
                if given.is_some() {
                    errors.add(flag, "does nothing with --bundle and --roster: leave it out");
                }
            }
            let bundle = errors.file("--bundle", arguments.bundle.clone());
            let roster = errors.file("--roster", arguments.roster.clone());
            Some(Source::Files { bundle: bundle?, roster: roster? })
        }
    }
}

/// The pod's name becomes part of file names.
fn pod(errors: &mut Errors, given: Option<String>, source: &Option<Source>) -> Option<String> {
    let name = match (given, source) {
        (None, Some(Source::Files { .. })) => hostname(),
        (given, _) => errors.text("--pod-name (POD_NAME)", given)?,
    };
    let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '.' | '_');
    if name.len() > 253 || name.starts_with('.') || !name.chars().all(plain) {
        errors.add("--pod-name (POD_NAME)", format!("\"{}\" is not the name of a pod", name.escape_default()));
        return None;
    }
    Some(name)
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "proxy".to_owned() } else { name.to_owned() }
}

#[derive(Default)]
struct Errors(Vec<String>);

impl Errors {
    fn add(&mut self, flag: &str, cause: impl fmt::Display) {
        self.0.push(format!("{flag} {cause}"));
    }

    fn text(&mut self, flag: &str, given: Option<String>) -> Option<String> {
        match given {
            Some(text) if !text.is_empty() => return Some(text),
            Some(_) => self.add(flag, "is empty"),
            None => self.add(flag, "is missing"),
        }
        None
    }

    fn address(&mut self, flag: &str, given: Option<String>) -> Option<SocketAddr> {
        let text = self.text(flag, given)?;
        text.parse()
            .map_err(|_| self.add(flag, format!("\"{text}\" is not an address with a port, like 0.0.0.0:5432")))
            .ok()
    }

    fn room(&mut self, flag: &str, given: Option<String>) -> Option<u64> {
        let Some(text) = given else { return Some(u64::MAX) };
        let bytes = text.parse().ok().filter(|bytes| *bytes >= ROOM);
        if bytes.is_none() {
            self.add(flag, format!("\"{}\" is not a number of bytes of at least {ROOM}", text.escape_default()));
        }
        bytes
    }

    fn directory(&mut self, flag: &str, given: Option<String>) -> Option<PathBuf> {
        self.path(flag, given, "directory", Path::is_dir)
    }

    fn file(&mut self, flag: &str, given: Option<String>) -> Option<PathBuf> {
        self.path(flag, given, "file", Path::is_file)
    }

    fn path(
        &mut self,
        flag: &str,
        given: Option<String>,
        kind: &str,
        is_kind: impl Fn(&Path) -> bool,
    ) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(flag, given)?);
        match path.metadata() {
            Ok(_) if is_kind(&path) => return Some(path),
            Ok(_) => self.add(flag, format!("{} is not a {kind}", path.display())),
            Err(error) => self.add(flag, format!("{}: {error}", path.display())),
        }
        None
    }
}
