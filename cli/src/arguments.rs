//! The command line.
//!
//! Owns every argument and its help. Touches nothing. Invariant: what each exit status means stands in the help.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use jiff::Timestamp;

/// Ask Sallyport what would happen, what did happen, and whether that is true.
///
/// Speaks to the cluster of your kubeconfig with your own rights; most commands work on files as well. In the path under
/// the name kubectl-sallyport it is `kubectl sallyport`.
#[derive(Debug, Parser)]
#[command(name = "sallyport", version, max_term_width = 110, after_help = STATUS)]
pub struct Cli {
    #[command(flatten)]
    pub(crate) reach: Reach,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const STATUS: &str =
    "Exit status: 0 yes, 1 no, 3 a human would be asked, 2 no answer (usage, unreachable, unreadable).";

/// Which cluster, and where in it.
#[derive(Debug, Default, Args)]
pub(crate) struct Reach {
    /// Namespace of the ProtectedTarget; by default that of the context.
    #[arg(short, long, global = true, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Kubeconfig file; by default $KUBECONFIG or ~/.kube/config.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig.
    #[arg(long, global = true, value_name = "NAME")]
    pub(crate) context: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What would happen to a statement, and by which rule.
    ///
    /// Reads the bundle that the target's fleet enforces and the agent's identity, and judges the statement with the code
    /// of the proxy. Nothing is sent to the target. The text is judged as one message at the start of a session, all of
    /// its statements together: any one that is refused refuses them all.
    #[command(after_help = EXPLAIN)]
    Explain(ExplainArguments),
    /// The sessions in the recordings: who, from where, when, how much was refused, and how each ended.
    #[command(after_help = SESSIONS)]
    Sessions(SessionsArguments),
    /// What happened in a session, in its order; terminal escapes are shown, never executed.
    #[command(after_help = REPLAY)]
    Replay(ReplayArguments),
    /// Whether recordings are what was written: nothing edited, moved, taken out or cut off.
    ///
    /// Copies the recordings here and checks them here, against the anchors in the target's status: no pod is trusted with
    /// the check of what it keeps.
    #[command(after_help = VERIFY)]
    Verify(VerifyArguments),
    /// Which verdicts on what was recorded a draft of policies would change.
    ///
    /// Puts the draft beside the policies in force, each policy in the place of the one of its name, and judges every
    /// recorded opening and command by both. The agents' groups are taken as they are now; whether an identity is
    /// suspended or revoked is left out of it.
    #[command(after_help = PREVIEW)]
    Preview(PreviewArguments),
    /// What fleets ask people: commands that wait for an approval.
    #[command(after_help = REQUESTS)]
    Requests(RequestsArguments),
    /// Approve a command, once, after it was shown whole.
    #[command(after_help = APPROVE)]
    Approve(AnswerArguments),
    /// Deny a command, whoever else approves it.
    #[command(after_help = DENY)]
    Deny(AnswerArguments),
    /// Completions for a shell.
    #[command(after_help = "Examples:\n  source <(sallyport completions bash)")]
    Completions {
        /// Which shell.
        shell: Shell,
    },
}

const EXPLAIN: &str = "Examples:
  sallyport explain -n shop orders-db --agent ci/migration-bot 'delete from orders'
  sallyport explain -n shop orders-db --agent ci/migration-bot --as readonly -f migration.sql -o json
  sallyport explain -n shop orders-db --agent ci/bot --at 2026-12-24T18:00:00Z --database shop 'select 1'
  echo 'select 1' | sallyport explain --bundle bundle.json --roster roster.yaml --agent ci/migration-bot

Exit status: 0 allowed, 1 refused, 3 a human would be asked, 2 no answer (usage, unreachable, unreadable).
Needs to read ConfigMaps in the target's namespace and AgentIdentities in the agent's.";

const SESSIONS: &str = "Examples:
  sallyport sessions -n shop orders-db
  sallyport sessions --records-dir copy/ --agent ci/migration-bot -o json

From a cluster it copies the recordings of the fleet's running pods first, which needs `create` on pods/exec there;
--keep leaves the copy for the next question.";

const REPLAY: &str = "Examples:
  sallyport replay 3f9c -n shop orders-db
  sallyport replay 3f9c --records-dir copy/";

const VERIFY: &str = "Examples:
  sallyport verify -n shop orders-db
  sallyport verify -n shop orders-db --records-dir copy/          # a copy, and the anchors from the cluster
  kubectl get target -n shop orders-db -o json | sallyport verify --records-dir copy/ --anchor -

Exit status: 0 all of it is sound, 1 it is not, 2 no answer (usage, unreachable, unreadable).";

const PREVIEW: &str = "Examples:
  sallyport preview -n shop -f draft.yaml
  sallyport preview -n shop orders-db --without old-policy --records-dir copy/ -o json
  sallyport preview -f draft.yaml --bundle bundle.json --roster roster.yaml --records-dir records/

Exit status: 0 no verdict would change, 1 some would, 2 no answer (usage, unreachable, unreadable).";

const REQUESTS: &str = "Examples:
  sallyport requests -A
  sallyport requests -n shop --all -o json

Needs to list AccessRequests (ClusterRole sallyport-approver has that, and the right to answer).";

const APPROVE: &str = "Examples:
  sallyport approve -n shop orders-db-x7k2p --comment 'reviewed in CHG-1234'
  sallyport approve -n shop orders-db-x7k2p --yes      # shown all the same, not confirmed

The answer bears your own user name and the API server holds you to it: nobody answers a question of their own, no agent
answers, nothing is answered late, and no answer is ever changed.";

const DENY: &str = "Examples:
  sallyport deny -n shop orders-db-x7k2p --comment 'not before Monday'";

/// Where recordings come from.
#[derive(Debug, Default, Args)]
pub(crate) struct RecordsFrom {
    /// The ProtectedTarget whose fleet has the recordings.
    #[arg(value_name = "TARGET")]
    pub(crate) target: Option<String>,
    /// A copy of the recordings, instead of those in the fleet's pods.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) records_dir: Option<PathBuf>,
    /// Leave the copy that is made of the pods' recordings in this directory.
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "records_dir")]
    pub(crate) keep: Option<PathBuf>,
}

/// The arguments of `sessions`.
#[derive(Debug, Args)]
pub struct SessionsArguments {
    #[command(flatten)]
    pub(crate) from: RecordsFrom,
    /// Only those of this agent.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(crate) agent: Option<AgentName>,
    /// How to tell it.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// The arguments of `replay`.
#[derive(Debug, Args)]
pub struct ReplayArguments {
    /// The session, by its id or the beginning of it.
    #[arg(value_name = "SESSION")]
    pub(crate) session: String,
    #[command(flatten)]
    pub(crate) from: RecordsFrom,
}

/// The arguments of `verify`.
#[derive(Debug, Args)]
pub struct VerifyArguments {
    #[command(flatten)]
    pub(crate) from: RecordsFrom,
    /// The target as JSON, whose status holds the anchors, instead of the cluster's; `-` for standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) anchor: Option<PathBuf>,
}

/// The arguments of `preview`.
#[derive(Debug, Args)]
pub struct PreviewArguments {
    #[command(flatten)]
    pub(crate) from: RecordsFrom,
    /// The draft: AccessPolicies, one or more documents; `-` for standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Vec<PathBuf>,
    /// Leave this policy out of those in force.
    #[arg(long, value_name = "POLICY")]
    pub(crate) without: Vec<String>,
    #[command(flatten)]
    pub(crate) files: WorldFiles,
    /// How many changed verdicts are shown.
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    pub(crate) most: usize,
    /// How to tell it.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// The arguments of `requests`.
#[derive(Debug, Args)]
pub struct RequestsArguments {
    /// Those of all namespaces.
    #[arg(short = 'A', long)]
    pub(crate) all_namespaces: bool,
    /// Those that need no answer any more as well.
    #[arg(long)]
    pub(crate) all: bool,
    /// How to tell it.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// The arguments of `approve` and `deny`.
#[derive(Debug, Args)]
pub struct AnswerArguments {
    /// The AccessRequest.
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Why, for the agent and the records; 512 characters at most.
    #[arg(long, value_name = "TEXT")]
    pub(crate) comment: Option<String>,
    /// Do not ask for a confirmation; the command is shown all the same.
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// The arguments of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArguments {
    /// The ProtectedTarget; with --bundle left out.
    #[arg(value_name = "TARGET")]
    pub(crate) first: Option<String>,
    /// The statement; by default it is read from --file or standard input.
    #[arg(value_name = "SQL")]
    pub(crate) second: Option<String>,
    /// Who would send it: NAMESPACE/NAME of an AgentIdentity.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub(crate) agent: AgentName,
    /// The target's credential the session would be opened with.
    #[arg(long = "as", value_name = "CREDENTIAL", default_value = "default")]
    pub(crate) credential: String,
    /// Read the statement from this file, `-` for standard input.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// For conditions of rules: when it would be sent (2026-12-24T18:00:00Z). By default now.
    #[arg(long, value_name = "TIME")]
    pub(crate) at: Option<Timestamp>,
    /// For conditions of rules: the database that the client would name. Without it, that is not known.
    #[arg(long, value_name = "NAME")]
    pub(crate) database: Option<String>,
    /// For conditions of rules: what the client would call itself. Without it, that is not known.
    #[arg(long, value_name = "NAME")]
    pub(crate) application_name: Option<String>,
    #[command(flatten)]
    pub(crate) files: WorldFiles,
    /// How to tell it.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// Without a cluster: what is in force, from files.
#[derive(Debug, Default, Args)]
pub(crate) struct WorldFiles {
    /// Without a cluster: the bundle, as in the ConfigMap TARGET-bundle.
    #[arg(long, value_name = "FILE", requires = "roster")]
    pub(crate) bundle: Option<PathBuf>,
    /// Without a cluster: the identities (YAML or JSON, as for `sallyport-proxy serve`).
    #[arg(long, value_name = "FILE", requires = "bundle")]
    pub(crate) roster: Option<PathBuf>,
}

/// How to tell it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For a person.
    #[default]
    Text,
    /// For a program.
    Json,
}

/// An agent by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct AgentName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl std::str::FromStr for AgentName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => Err("an agent is named NAMESPACE/NAME, as in ci/migration-bot"),
        }
    }
}

impl std::fmt::Display for AgentName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Writes the completions of a shell.
pub(crate) fn completions(shell: Shell, out: &mut impl Write) {
    clap_complete::generate(shell, &mut Cli::command(), "sallyport", out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_agent_has_a_namespace_and_a_name() {
        let bot: AgentName = "ci/bot".parse().unwrap();
        assert_eq!((bot.namespace.as_str(), bot.name.as_str()), ("ci", "bot"));
        for wrong in ["bot", "/bot", "ci/", "a/b/c", ""] {
            assert!(wrong.parse::<AgentName>().is_err(), "{wrong}");
        }
    }
}
