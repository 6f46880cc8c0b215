//! `AccessRequest`: a question put to people, and their answers.
//!
//! Owns the kind's fields and the rules that need no user to be judged. Touches nothing. Invariant: the question never
//! changes; what was answered is never changed or taken back; what has come to its end stays so.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Decisions that a status has room for.
pub const MOST_DECISIONS: usize = 16;

/// A question put to people: may this agent run this very command on this target, once?
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sallyport.dev",
    version = "v1alpha1",
    kind = "AccessRequest",
    plural = "accessrequests",
    shortname = "ask",
    category = "sallyport",
    namespaced,
    status = "AccessRequestStatus",
    derive = "PartialEq",
    selectable = ".spec.target",
    selectable = ".spec.agent.namespace",
    selectable = ".spec.agent.name",
    selectable = ".spec.command.digest",
    doc = "A question put to people: may this agent run this very command on this target, once? Made by a fleet where a rule of an AccessPolicy asks, or by a person ahead of time. Answered in its status.",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Agent", type_ = "string", json_path = ".spec.agent.name"),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.target"),
    printcolumn(name = "Rule", type_ = "string", json_path = ".spec.rule"),
    // Not type `date`: kubectl shows how long ago a date was, and `<invalid>` for one to come.
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(name = "Answered by", type_ = "string", json_path = ".status.decisions[*].by"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Command", type_ = "string", json_path = ".spec.command.text", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("a question never changes: whoever answers must know what was asked"))]
pub struct AccessRequestSpec {
    /// Who asks.
    pub agent: AskingAgent,

    /// Name of the `ProtectedTarget` in this namespace.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub target: String,

    /// The `AccessPolicy` whose rule asks.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::DNS_SUBDOMAIN))]
    pub policy: String,

    /// The rule that asks; where several do, the first.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub rule: String,

    /// The revision of the target's bundle that asks (the target's `status.bundleRevision`). Under any other the
    /// answer counts for nothing, for what is allowed may be something else.
    #[schemars(length(min = 16, max = 16), regex(pattern = "^[0-9a-f]{16}$"))]
    pub policy_revision: String,

    /// The session that asked first, as records name it. Absent where a person asks ahead of time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = "^[0-9a-f]{32}$"))]
    pub session: Option<String>,

    /// The person who asks ahead of time, who cannot answer. Absent where a fleet asks for the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    pub requested_by: Option<String>,

    /// The command, whole.
    pub command: Command,

    /// How many different people have to approve. One denial denies.
    #[schemars(range(min = 1, max = 8))]
    pub approvals: u32,

    /// Whose answers do not count. The requester's own never does.
    #[serde(default)]
    pub not_by: NotBy,

    /// Why it is asked: what the rule's author has to say, or the person who asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub reason: Option<String>,

    /// Neither question nor answer counts after this time.
    pub expires_at: Time,
}

/// Who asks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AskingAgent {
    /// Namespace of the `AgentIdentity`.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub namespace: String,
    /// Name of the `AgentIdentity`.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_SUBDOMAIN))]
    pub name: String,
}

/// A command, whole: what is too long to show is too long to approve, and is refused without a question.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Command {
    /// Its text as the agent sent it. It may hold anything: show control characters, do not send them to a terminal.
    #[schemars(length(min = 1, max = 32768))]
    pub text: String,
    /// `sha256:` and the SHA-256 of the text; where there are parameters, of the text, a zero byte and the parameters as a
    /// JSON list. The approval is for commands of this digest.
    #[schemars(length(min = 71, max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: String,
    /// Its parameters in their order, each as a literal: `'text'` where it came as text, `'42'::int4` where it came in binary form
    /// and is of a well-known type, `\x0000002a (binary, type 600)` where of another, or `NULL`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128), inner(length(max = 4096)))]
    pub parameters: Vec<String>,
}

/// Whose answers do not count, beside the requester's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NotBy {
    /// The requester's alone. Service accounts may answer where RBAC lets them, but never those of the agent's namespace
    /// or of this one.
    Requester,
    /// Those of service accounts: people answer.
    #[default]
    ServiceAccounts,
}

/// What was answered, and what came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(oldSelf.decisions) || (has(self.decisions) && oldSelf.decisions.all(before, self.decisions.exists(now, now == before)))").message("a decision is never changed or removed"),
    validation = Rule::new("!(oldSelf.phase in ['Denied', 'Expired', 'Consumed']) || self == oldSelf").message("this question has come to its end: nothing of it changes any more"),
    validation = Rule::new("has(self.consumed) == (self.phase == 'Consumed')").message("consumed and phase Consumed go together")
)]
pub struct AccessRequestStatus {
    /// What was decided, a user at most once. To answer, add an entry: `decision`, your own user name as `by`, and the time as `at`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["by".into()]))]
    pub decisions: Vec<Decision>,
    /// Where the question stands. Told for people: what counts are the decisions and whether it was consumed.
    #[serde(default)]
    pub phase: Phase,
    /// The command that used the approval up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumed: Option<Consumption>,
}

/// One user's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
pub struct Decision {
    /// The answer.
    pub decision: Answer,
    /// The user who answers: the one who writes it.
    #[schemars(length(min = 1, max = 512))]
    pub by: String,
    /// When.
    pub at: Time,
    /// Why, for the agent and the records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = ("!self.matches('[[:cntrl:]]')", "a comment is one line without control characters"))]
    pub comment: Option<String>,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Answer {
    /// The command may run, once.
    Approve,
    /// It may not, whoever else approves.
    Deny,
}

/// Where a question stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Answers are awaited.
    #[default]
    Pending,
    /// Enough people approve: the command passes once.
    Approved,
    /// Somebody denies.
    Denied,
    /// Nobody answered in time, or the command did not come again.
    Expired,
    /// The command has used it up.
    Consumed,
}

/// The use of an approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Consumption {
    /// When.
    pub at: Time,
    /// The session whose command it was, as records name it.
    #[schemars(length(max = 32), regex(pattern = "^[0-9a-f]{32}$"))]
    pub session: String,
    /// The replica that let it through.
    #[schemars(length(max = 253))]
    pub replica: String,
}
