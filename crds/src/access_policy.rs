//! `AccessPolicy`: which identity may do what on which target.
//!
//! Owns the kind's fields, defaults and rules. Touches nothing. Invariant: a rule that could never match,
//! or that would match more than it shows, is refused by the schema.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Statement;
use crate::access_request::NotBy;
use crate::schema::{self, Conditions};

/// Which identity may do what on which target of the same namespace.
#[derive(CustomResource, Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sallyport.dev",
    version = "v1alpha1",
    kind = "AccessPolicy",
    plural = "accesspolicies",
    shortname = "policy",
    category = "sallyport",
    namespaced,
    status = "AccessPolicyStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Which identity may do what on which target of the same namespace. All rules of all policies on a target apply: deny over ask, ask over allow; what nothing allows is denied.",
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.ancestors[*].conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.ancestors[*].conditions[?(@.type=="Programmed")].status"#
    ),
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Targets", type_ = "string", json_path = ".spec.targetRefs[*].name"),
    printcolumn(name = "Agents", type_ = "integer", json_path = ".status.matchedAgents"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("!has(self.limits) || self.mode == 'Enforce'").message("limits of a policy that observes would not hold: put them into one that enforces"))]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicySpec {
    /// The targets it is about, in the policy's own namespace: the owner of a target grants access to it.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub target_refs: Vec<TargetRef>,

    /// The identities it speaks of: each an agent, or a group of agents.
    #[schemars(length(min = 1, max = 64))]
    pub subjects: Vec<SubjectRef>,

    /// The target's credentials these subjects may use, by name. Its rules count in sessions opened with one of them.
    #[serde(default = "the_default_credential", rename = "as")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub credentials: Vec<String>,

    /// How long sessions may go on that these subjects open with these credentials, and how much they may do. Where several
    /// policies apply to a session, the strictest of each limit counts; open sessions follow an edit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<SessionLimits>,

    /// What happens to the command that runs when its session is no longer allowed: the identity suspended, revoked,
    /// deleted or taken out of a group, or the credential no longer granted. The next command is refused either way.
    #[serde(default)]
    pub on_revocation: OnRevocation,

    /// `Enforce`: its rules decide. `Observe`: it refuses nothing, and the records tell what it would have decided. Where a
    /// policy that enforces applies to the same session, that one alone decides; where none does, every command that can
    /// be understood is let through.
    #[serde(default)]
    pub mode: PolicyMode,

    /// What these subjects may and may not do.
    #[schemars(length(min = 1, max = 128))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<AccessRule>,

    /// What is hidden of the answers that these subjects get in sessions with these credentials. Masks of all policies
    /// that apply to a session count; where several speak of one column, the strictest method: SetNull over Redact over
    /// Hash over Tokenize over Partial. A masked column cannot be copied, or renamed, to where no mask would find it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub masks: Vec<AccessMask>,
}

/// A target by its name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TargetRef {
    /// Name of a `ProtectedTarget` in the same namespace.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::DNS_SUBDOMAIN))]
    pub name: String,
}

/// One agent, or one group of agents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("has(self.agent) != has(self.group)").message("a subject is either an agent or a group: set exactly one"))]
pub struct SubjectRef {
    /// One identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentRef>,
    /// Every identity of one namespace that lists this group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<GroupRef>,
}

/// One identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AgentRef {
    /// Namespace of the `AgentIdentity`. Absent: the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub namespace: Option<String>,
    /// Name of the `AgentIdentity`.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_SUBDOMAIN))]
    pub name: String,
}

/// A group; the same name in another namespace is another group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupRef {
    /// Namespace the group belongs to. Absent: the policy's own. There is no "any": whoever may create
    /// identities in a namespace may fill its groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub namespace: Option<String>,
    /// Name of the group.
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub name: String,
}

/// How long sessions may go on, and how much they may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.sessionDuration) || has(self.idleDuration) || has(self.rowsPerCommand) || has(self.bytesPerCommand) || has(self.commandsPerMinute) || has(self.concurrentSessions)").message("limits limits nothing: set one of its fields, or remove it"),
    validation = Rule::new("!has(self.sessionDuration) || !has(self.idleDuration) || duration(self.idleDuration) < duration(self.sessionDuration)").message("idleDuration must be shorter than sessionDuration, or it never acts")
)]
pub struct SessionLimits {
    /// From the opening of a session to its end, from 1m to 720h. A transaction that is open then may be concluded
    /// within the target's proxy.expiryGrace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('720h')").message("sessionDuration must be from 1m to 720h"))]
    pub session_duration: Option<String>,
    /// Without a command to the end of the session, from 10s to 24h; a transaction that is open then is rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10s') && duration(self) <= duration('24h')").message("idleDuration must be from 10s to 24h"))]
    pub idle_duration: Option<String>,
    /// Rows that the answer to one command may have. What is beyond never reaches the agent: the command is cancelled at
    /// the target and fails. A cursor read in pieces of the protocol's own counts as one answer; a FETCH is a command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub rows_per_command: Option<i64>,
    /// Bytes that the rows of the answer to one command may have, as they come from the target (`64Mi`); beyond, it ends as
    /// with `rowsPerCommand`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = schema::BYTES))]
    pub bytes_per_command: Option<String>,
    /// Commands that each agent may run in a minute at each replica of the fleet: so many at once, and then each as time
    /// goes by. One more is refused and told when to come again; the end of an open transaction is always let through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub commands_per_minute: Option<i64>,
    /// Sessions that each agent may have open at each replica of the fleet, with the credentials in `as`. One more is
    /// refused; open ones stay when the limit is lowered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrent_sessions: Option<i64>,
}

/// Whether a policy decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PolicyMode {
    /// It does.
    #[default]
    Enforce,
    /// It is only recorded what it would have decided.
    Observe,
}

/// What happens to the command that runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnRevocation {
    /// It comes to its end, then the session ends.
    #[default]
    Finish,
    /// It is interrupted at the target, then the session ends.
    Cancel,
}

/// One rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.ask) || self.action == 'Ask'").message("ask says on what terms action Ask asks: it goes with no other action"))]
pub struct AccessRule {
    /// Unique in its policy; refusals and records name it.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = ("self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')", "a rule's name is made of lower case letters, digits and dashes; names with a prefix such as builtin: are the operator's own"))]
    pub name: String,
    /// Whether it lets through, asks about or refuses what it matches. Deny wins over Ask, Ask over Allow.
    pub action: RuleAction,
    /// On what terms it asks, with action Ask. Absent there: one approval, by a person.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<AskSpec>,
    /// Shown to the agent when this rule refuses, and to those who are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = ("!self.matches('[[:cntrl:]]')", "a message is one line without control characters"))]
    pub message: Option<String>,
    /// The SQL statements it matches. Every part that is set must hold; `{}` matches every statement.
    pub postgres: PostgresRule,
    /// When it counts, in CEL over `agent`, `target`, `session`, `command` and `now`; judged at every command. Absent:
    /// always. Where it cannot be told, the rule allows nothing and denies or asks about all that it matches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub when: Option<String>,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RuleAction {
    /// Lets matched statements through, unless another rule denies or asks.
    Allow,
    /// Lets them through once people have approved the very command (an AccessRequest), unless another rule denies it.
    Ask,
    /// Refuses them, whatever else is said.
    Deny,
}

/// On what terms a rule asks. Where several rules ask about one command, one question is put, on the strictest of their terms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.validity) >= duration(self.timeout)").message("validity must be at least timeout, or the command waits for an answer that no longer counts"))]
pub struct AskSpec {
    /// How many different people have to approve. One denial denies.
    #[serde(default = "one_approval")]
    #[schemars(range(min = 1, max = 8))]
    pub approvals: u32,
    /// How long the command waits in line for the answer, from 1s to 1h. After that it is refused, and passes when it is
    /// sent again once it was approved.
    #[serde(default = "ten_minutes")]
    #[schemars(length(max = 16), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("timeout must be from 1s to 1h"))]
    pub timeout: String,
    /// How long the question may be answered and its approval used, once, from when it was asked; from 1m to 24h.
    #[serde(default = "one_hour")]
    #[schemars(length(max = 16), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= duration('24h')").message("validity must be from 1m to 24h"))]
    pub validity: String,
    /// Whose answers do not count. The requester's own never does.
    #[serde(default)]
    pub not_by: NotBy,
}

impl Default for AskSpec {
    fn default() -> Self {
        Self { approvals: one_approval(), timeout: ten_minutes(), validity: one_hour(), not_by: NotBy::default() }
    }
}

/// The SQL statements that a rule matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(validation = Rule::new("!has(self.where) || (has(self.statements) && self.statements.all(s, s == 'Update' || s == 'Delete'))").message("where speaks of Update and Delete alone: list only these in statements"))]
pub struct PostgresRule {
    /// Kinds of statement, any of. Absent: every kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub statements: Option<Vec<Statement>>,

    /// Tables, views and sequences as `schema.name`, any of; `*` stands for a whole part. A name with a dot, a quote or
    /// capital letters is written as the catalog has it, a part in double quotes where needed. Absent: not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 3, max = 140)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(r#"self.all(t, t.matches('^("([^"]|"")+"|[^".*\\s]+|[*])[.]("([^"]|"")+"|[^".*\\s]+|[*])$'))"#)
            .message("a table is written schema.name, with * for a whole part (public.orders, public.*)")
    )]
    pub tables: Option<Vec<String>>,

    /// Functions and procedures as `schema.name`, any of, written as tables are. Absent: not limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 3, max = 140)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(r#"self.all(t, t.matches('^("([^"]|"")+"|[^".*\\s]+|[*])[.]("([^"]|"")+"|[^".*\\s]+|[*])$'))"#)
            .message("a function is written schema.name, with * for a whole part (public.refund, public.*)")
    )]
    pub functions: Option<Vec<String>>,

    /// Whether the UPDATE or DELETE has a WHERE clause. Absent: either.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "where")]
    pub where_clause: Option<WhereClause>,
}

/// Whether a statement has a WHERE clause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum WhereClause {
    /// There is none: every row is touched.
    Absent,
    /// There is one.
    Present,
}

/// One mask: columns by where their values come from, or what is found in any value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[x_kube(
    validation = Rule::new("has(self.columns) != has(self.detect)").message("a mask is either of columns or of what it detects: set exactly one"),
    validation = Rule::new("!has(self.strict) || !self.strict || has(self.columns)").message("strict speaks of columns: remove it where the mask detects"),
    validation = Rule::new("!has(self.detect) || self.method != 'SetNull'").message("what is detected is a part of a value: Redact it, SetNull is for columns")
)]
pub struct AccessMask {
    /// Columns as `schema.table.column`, any of; `*` stands for a whole part. The server says where a value comes from,
    /// so an alias, a subquery or a view changes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64), inner(length(min = 5, max = 210)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new(r#"self.all(t, t.matches('^("([^"]|"")+"|[^".*\\s]+|[*])[.]("([^"]|"")+"|[^".*\\s]+|[*])[.]("([^"]|"")+"|[^".*\\s]+|[*])$'))"#)
            .message("a column is written schema.table.column, with * for a whole part (public.customers.email)")
    )]
    pub columns: Option<Vec<String>>,

    /// What is hidden wherever it stands in a value, any of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub detect: Option<Vec<Detector>>,

    /// What stands in its place.
    pub method: MaskMethod,

    /// These columns may be shown, masked, and nothing else be done with them: a statement that compares them, orders
    /// by them or computes with them is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub strict: bool,
}

/// What stands in a hidden value's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MaskMethod {
    /// `****`; NULL where the type is no text.
    Redact,
    /// NULL. (Not `Null`, which YAML takes for no value at all.)
    SetNull,
    /// A keyed hash of 32 hexadecimal digits: the same for the same value. Types other than text, integers and UUIDs: NULL.
    Hash,
    /// The first letter and the domain of an address, the last four characters of what has at least twelve, nothing of
    /// anything else. Types other than text: NULL.
    Partial,
    /// Another value of the same form, a digit for a digit and a letter for a letter: the same for the same value. Types
    /// other than text, numbers and UUIDs: NULL.
    Tokenize,
}

/// What is found by its form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Detector {
    /// A payment card's number, with a right check digit.
    CreditCard,
    /// A bank account's number (IBAN), with right check digits.
    Iban,
    /// An email address.
    Email,
}

/// What the operator found, target by target.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessPolicyStatus {
    /// One entry a target.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub ancestors: Vec<Ancestor>,
    /// How many identities the subjects come to at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matched_agents: Option<i32>,
}

/// What holds of the policy on one target.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Ancestor {
    /// The target.
    pub target_ref: TargetRef,
    /// What is known about the policy on it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Conditions,
}

fn the_default_credential() -> Vec<String> {
    vec!["default".to_owned()]
}

const fn one_approval() -> u32 {
    1
}

fn ten_minutes() -> String {
    "10m".to_owned()
}

fn one_hour() -> String {
    "1h".to_owned()
}
